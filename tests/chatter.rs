//! A driver's client in a process of its own, spoken to by lines.

use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The example client in a process of its own.
pub(crate) struct Chatter {
    process: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Chatter {
    pub(crate) fn start(credentials: &Path) -> Self {
        // Built beside the tests: target/<profile>/deps/system-… and target/<profile>/examples/chatter.
        let this = std::env::current_exe().unwrap();
        let binary = this.parent().unwrap().parent().unwrap().join("examples/chatter");
        let errors = std::fs::File::options()
            .create(true)
            .append(true)
            .open(credentials.with_extension("log"))
            .unwrap();
        let mut process = Command::new(binary)
            .arg(credentials)
            .arg(credentials.with_extension("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .expect("examples/chatter is built");
        let stdin = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            process,
            stdin,
            lines,
        }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Value {
        let line = self.lines.next_line().await.unwrap().expect("the client goes on");
        serde_json::from_str(&line).unwrap()
    }

    /// SIGKILL; gives what it had said before.
    pub(crate) async fn kill(mut self) -> Vec<Value> {
        self.process.kill().await.unwrap();
        let mut heard = Vec::new();
        while let Ok(Some(line)) = self.lines.next_line().await {
            // The last line may be cut off.
            heard.extend(serde_json::from_str(&line));
        }
        heard
    }

    pub(crate) async fn close(mut self) {
        drop(self.stdin);
        self.process.wait().await.unwrap();
    }
}
