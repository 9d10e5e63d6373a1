//! A chat client of a few lines: `chatter CREDENTIALS.json STATE_DIR`.
//!
//! Each line of standard input is stored as a message to the office; each thing that happens is a line of standard
//! output, as JSON: `{"stored": text}` once it is on this device's disk, `{"shown": {"seq", "text"}}` for each entry
//! that arrived. The line `/history` prints the inbox, the line `/drain` waits until nothing waits any more.

use anyhow::Context;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Duration;
use tokio::sync::mpsc;
use waypost_field_client::{Client, Credentials, Entry, Message, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(credentials), Some(state)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: chatter CREDENTIALS.json STATE_DIR");
    };
    let client = Client::open(Credentials::read(credentials)?, state, Options::default()).await?;
    let mut lines = read_lines();
    let mut entries = client.entries().context("nobody else shows the entries")?;
    loop {
        tokio::select! {
            entry = entries.next() => {
                let Some(incoming) = entry else { break };
                say(&json!({ "shown": describe(&incoming.entry) }))?;
                incoming.mark_read().await?;
                incoming.mark_shown().await?;
            }
            line = lines.recv() => match line.as_deref() {
                None => break,
                Some("/history") => say(&history(&client).await?)?,
                Some("/drain") => {
                    let waiting = client.wait_drained(Duration::from_secs(300)).await?;
                    say(&json!({ "waiting": waiting }))?;
                }
                Some(text) => {
                    client.post_text(Message::to_office(text)).await?;
                    say(&json!({ "stored": text }))?;
                }
            },
        }
    }
    client.close().await?;
    Ok(())
}

/// Lines of standard input, from a thread of its own: reading it cannot be cancelled.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Every entry of the inbox, oldest first.
async fn history(client: &Client) -> anyhow::Result<Value> {
    let stream = client
        .status()
        .await?
        .office_stream
        .context("the server was never heard")?;
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = client.history(stream, before, 500).await?;
        let Some(first) = page.first() else { break };
        before = Some(first.seq);
        all.splice(0..0, page.iter().map(describe));
    }
    Ok(json!({ "history": all }))
}

fn describe(entry: &Entry) -> Value {
    json!({ "stream": entry.stream.number(), "seq": entry.seq.number(), "text": entry.text().unwrap_or_default() })
}

fn say(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
