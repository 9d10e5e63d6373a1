//! A server that may open few files, and more clients than that.

use crate::server::WAYPOST;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the server may open, and how many connections it is asked for, of either kind.
const FILES_MAX: usize = 256;
const ASKED_FOR: usize = 300;

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn with_few_files_connections_are_turned_away_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("server.log");
    let limited = format!(
        "ulimit -n {FILES_MAX} && exec \"$0\" serve --json --http 127.0.0.1:0 --https 127.0.0.1:0 --mqtt 127.0.0.1:0 \
         --mqtts 127.0.0.1:0 --data data"
    );
    let process = Command::new("sh")
        .args(["-c", &limited, WAYPOST])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut process = Ended(process);
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let address = |name: &str| ready["ready"][name].as_str().unwrap().to_owned();
    let (http, https) = (address("http"), address("https"));
    let (mqtt, mqtts) = (address("mqtt"), address("mqtts"));

    let ask = async |stream: &mut TcpStream, last: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {http}\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    };
    // One that is there before, with the beginning of its answer as proof.
    let mut served = TcpStream::connect(&http).await.unwrap();
    ask(&mut served, "").await;
    served.read_u8().await.unwrap();
    let mut silent = Vec::new();
    for address in [&mqtt, &mqtts, &https, &http] {
        for _ in 0..ASKED_FOR {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
    }
    // The last of each is answered, which says that those before it have been looked at.
    let mut last = TcpStream::connect(&http).await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let mut last = TcpStream::connect(&mqtt).await.unwrap();
    assert_eq!(last.read(&mut [0]).await.unwrap_or(0), 0);

    // Whoever was there goes on; nobody was turned away for want of a file.
    ask(&mut served, "connection: close\r\n").await;
    let mut metrics = String::new();
    served.read_to_string(&mut metrics).await.unwrap();
    let value = |name: &str| {
        metrics
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            .next_back()
    };
    let turned_away = value("waypost_broker_reasons_total{reason=\"handshake_limit\"}");
    assert!(turned_away.is_some_and(|count| count > 500.0), "{turned_away:?}");
    assert_eq!(value("waypost_broker_accept_errors_total"), None);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("raise `ulimit -n`"), "{said}");
    assert!(!said.contains("Too many open files"), "{said}");
}
