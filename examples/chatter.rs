//! A chat client of a few lines: `chatter CREDENTIALS.json STATE_DIR`.
//!
//! Each line of standard input is stored as a message to the office; each thing that happens is a line of standard
//! output, as JSON: `{"stored": text}` once it is on this device's disk, `{"shown": {"seq", "text"}}` for each entry
//! that arrived. The line `/to STREAM text` writes elsewhere, `/reply STREAM KEY slot=value..` a quick reply; a refusal is
//! `{"refused": why}`. The line `/history` prints the inbox, or `/history STREAM` that of another stream, the line
//! `/drain` waits until nothing waits any more.

use anyhow::Context;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Duration;
use tokio::sync::mpsc;
use waypost_field_client::{Client, Credentials, Entry, Message, Options, ReplyMessage};
use waypost_proto::StreamId;

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
                Some("/drain") => {
                    let waiting = client.wait_drained(Duration::from_secs(300)).await?;
                    say(&json!({ "waiting": waiting }))?;
                }
                Some(line) if line.starts_with("/history") => {
                    let stream = line.strip_prefix("/history ").map(str::parse).transpose()?;
                    say(&history(&client, stream).await?)?;
                }
                Some(line) => say(&post(&client, line).await?)?,
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

/// Stores what a line says; the answer repeats its last part.
async fn post(client: &Client, line: &str) -> anyhow::Result<Value> {
    if let Some((stream, text)) = line.strip_prefix("/to ").and_then(|rest| rest.split_once(' ')) {
        client.post_text(Message::to(stream.parse()?, text)).await?;
        return Ok(json!({ "stored": text }));
    }
    let Some((stream, reply)) = line.strip_prefix("/reply ").and_then(|rest| rest.split_once(' ')) else {
        client.post_text(Message::to_office(line)).await?;
        return Ok(json!({ "stored": line }));
    };
    let mut words = reply.split(' ');
    let key = words.next().unwrap_or_default();
    let value = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name.to_owned(), value.to_owned())
    };
    let message = ReplyMessage {
        stream: Some(stream.parse()?),
        ..ReplyMessage::to_office(key, words.map(value).collect())
    };
    Ok(match client.post_reply(message).await {
        Ok(_) => json!({ "stored": reply }),
        Err(why) => json!({ "refused": why.to_string() }),
    })
}

/// Every entry of the inbox of a stream, without one of that with the office, oldest first.
async fn history(client: &Client, stream: Option<StreamId>) -> anyhow::Result<Value> {
    let office = client.status().await?.office_stream;
    let stream = stream.or(office).context("the server was never heard")?;
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
