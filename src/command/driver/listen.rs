//! `waypost driver listen`: prints entries as they come, and confirms each as shown and read.

use super::explain_link;
use crate::command::{Interrupts, duration};
use crate::output::{self, Format};
use crate::timestamp::rfc3339;
use serde::Serialize;
use std::collections::BTreeMap;
use std::future::pending;
use std::time::{Duration, Instant};
use waypost_field_client::handover::{Confirm, Driver, EntryReport, MemberReport};

/// How long the link may take before a person is told about it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the link.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Between two attempts to hear from the process that holds the state folder now.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How long; without it until it is stopped
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
}

/// An entry as `GET /streams/{id}/entries` gives it. `id` is null: devices know an entry by stream and seq, its id is
/// never sent to them.
#[derive(Serialize)]
pub(super) struct Entry<'a> {
    stream: &'a str,
    seq: u64,
    id: Option<&'a str>,
    author: Author<'a>,
    device_at: Option<String>,
    server_at: Option<String>,
    urgent: bool,
    expires_at: Option<String>,
    /// `current`, `expired` or `superseded`. An entry that was printed as current and is not any more is printed again.
    standing: &'a str,
    supersedes: Option<u64>,
    superseded_by: Option<u64>,
    reply_to: Option<u64>,
    /// The broadcast to which that entry belongs; null for one of the same conversation.
    reply_to_stream: Option<&'a str>,
    body: Body<'a>,
}

#[derive(Serialize)]
struct Author<'a> {
    id: &'a str,
    kind: &'a str,
    name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Body<'a> {
    Text {
        text: &'a str,
    },
    Reply {
        /// The key of its template, or its number where this device does not have it.
        template: &'a str,
        version: u32,
        slots: &'a BTreeMap<String, String>,
        text: &'a str,
    },
    /// Somebody has joined or left the group.
    System {
        event: &'static str,
        device: &'a str,
    },
    /// Something that a later version knows.
    Unsupported,
}

impl<'a> Body<'a> {
    fn of(entry: &'a EntryReport) -> Self {
        match (&entry.text, &entry.reply, &entry.member) {
            (Some(text), Some(reply), _) => Self::Reply {
                template: &reply.template,
                version: reply.version,
                slots: &reply.slots,
                text,
            },
            (Some(text), None, _) => Self::Text { text },
            (None, _, Some(member)) => Self::System {
                event: event(member),
                device: &member.device,
            },
            (None, _, None) => Self::Unsupported,
        }
    }
}

fn event(member: &MemberReport) -> &'static str {
    if member.left { "left" } else { "joined" }
}

impl<'a> Entry<'a> {
    /// `own_name` is what the device itself is called: nobody tells it.
    pub(super) fn of(entry: &'a EntryReport, own_name: &'a str) -> Self {
        // What others' devices write has a server's time; a device's own entry has its place alone.
        let own = entry.author_kind == "device" && entry.server_ms.is_none();
        let name = entry.author_name.as_deref().or(own.then_some(own_name));
        Self {
            stream: &entry.stream,
            seq: entry.seq,
            id: None,
            author: Author {
                id: entry.author_id.as_deref().unwrap_or("system"),
                kind: &entry.author_kind,
                name: if entry.author_kind == "system" {
                    Some("Waypost")
                } else {
                    name
                },
            },
            device_at: entry.device_ms.and_then(rfc3339),
            server_at: entry.server_ms.and_then(rfc3339),
            urgent: entry.urgent,
            expires_at: entry.expires_ms.and_then(rfc3339),
            standing: &entry.standing,
            supersedes: entry.supersedes,
            superseded_by: entry.superseded_by,
            reply_to: entry.reply_to,
            reply_to_stream: entry.reply_stream.as_deref(),
            body: Body::of(entry),
        }
    }

    /// A line of its own.
    pub(super) fn put(&self, entry: &EntryReport, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => output::json(self),
            Format::Human => self.print(entry.member.as_ref()),
        }
    }

    /// `member` is who has joined or left.
    fn print(&self, member: Option<&MemberReport>) -> anyhow::Result<()> {
        let at = self
            .server_at
            .as_deref()
            .or(self.device_at.as_deref())
            .unwrap_or("-");
        let name = self.author.name.unwrap_or(self.author.id);
        let urgent = if self.urgent { " URGENT" } else { "" };
        let standing = match (self.standing, self.superseded_by) {
            ("expired", _) => " EXPIRED".to_owned(),
            (_, Some(by)) => format!(" SUPERSEDED BY {by}"),
            _ => String::new(),
        };
        let text = match (&self.body, member) {
            (Body::Text { text } | Body::Reply { text, .. }, _) => (*text).to_owned(),
            (Body::System { event, device }, member) => {
                let name = member.and_then(|member| member.name.as_deref());
                format!("{} has {event}", name.unwrap_or(device))
            }
            (Body::Unsupported, _) => "(not supported by this version)".to_owned(),
        };
        output::line(format_args!(
            "{at}  {}/{}{urgent}{standing}  {name}: {text}",
            self.stream, self.seq
        ))
    }
}

pub(super) async fn run(
    arguments: &Arguments,
    driver: &Driver,
    own_name: &str,
    mut interrupts: Interrupts,
    format: Format,
) -> anyhow::Result<()> {
    let end = async {
        match arguments.time {
            Some(time) => tokio::time::sleep(time).await,
            None => pending().await,
        }
    };
    tokio::select! {
        ended = follow(driver, own_name, format) => ended,
        ended = watch_link(driver) => ended,
        () = end => Ok(()),
        () = interrupts.next() => Ok(()),
    }
}

/// Prints and confirms until something fails. Cancelled between the two, an entry is offered again at the next start.
async fn follow(driver: &Driver, own_name: &str, format: Format) -> anyhow::Result<()> {
    loop {
        let mut listener = driver.listen().await?;
        while let Some(entry) = listener.next().await {
            Entry::of(&entry, own_name).put(&entry, format)?;
            listener.confirm(&entry, Confirm::Shown).await?;
            listener.confirm(&entry, Confirm::Read).await?;
        }
        if driver.client().await.is_some() {
            anyhow::bail!("the device's state cannot be used any more: its disk has failed");
        }
        // The process that held the folder has ended; this one takes its place or finds the next.
        drop(listener);
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Tells a person once why nothing comes. Never ends well: it is cancelled.
async fn watch_link(driver: &Driver) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        match driver.status().await?.link.as_str() {
            "in_step" => break,
            // Nothing will change by itself.
            "refused" | "captive_portal" => explain_link(driver).await?,
            _ if begun.elapsed() < PATIENCE => continue,
            _ => explain_link(driver).await?,
        }
        break;
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_field_client::handover::ReplyReport;

    fn report(author_kind: &str) -> EntryReport {
        EntryReport {
            stream: "1".to_owned(),
            seq: 3,
            author_kind: author_kind.to_owned(),
            author_id: Some("7c".to_owned()),
            author_name: None,
            server_ms: None,
            device_ms: Some(0),
            author_op: Some(9),
            urgent: false,
            reply_to: Some(2),
            reply_stream: None,
            expires_ms: None,
            standing: "current".to_owned(),
            supersedes: None,
            superseded_by: None,
            text: Some("Hi".to_owned()),
            reply: None,
            member: None,
        }
    }

    #[test]
    fn an_entry_is_printed_as_the_server_gives_it() {
        let own = report("device");
        let expected = r#"{"stream":"1","seq":3,"id":null,"author":{"id":"7c","kind":"device","name":"truck"},"device_at":"1970-01-01T00:00:00.000Z","server_at":null,"urgent":false,"expires_at":null,"standing":"current","supersedes":null,"superseded_by":null,"reply_to":2,"reply_to_stream":null,"body":{"kind":"text","text":"Hi"}}"#;
        assert_eq!(
            serde_json::to_string(&Entry::of(&own, "truck")).unwrap(),
            expected
        );

        let system = EntryReport {
            author_id: None,
            text: None,
            server_ms: Some(1),
            ..report("system")
        };
        let json = serde_json::to_value(Entry::of(&system, "truck")).unwrap();
        assert_eq!(
            json["author"],
            serde_json::json!({"id": "system", "kind": "system", "name": "Waypost"})
        );
        assert_eq!(json["body"], serde_json::json!({"kind": "unsupported"}));

        let reply = ReplyReport {
            template: "late".to_owned(),
            version: 14,
            slots: BTreeMap::from([("minutes".to_owned(), "15".to_owned())]),
        };
        let answer = EntryReport {
            reply: Some(reply),
            reply_stream: Some("9".to_owned()),
            text: Some("15 min late".to_owned()),
            ..report("device")
        };
        let json = serde_json::to_value(Entry::of(&answer, "truck")).unwrap();
        let body = serde_json::json!({
            "kind": "reply", "template": "late", "version": 14, "slots": {"minutes": "15"}, "text": "15 min late",
        });
        assert_eq!((&json["body"], &json["reply_to_stream"]), (&body, &"9".into()));

        let member = MemberReport {
            device: "8".to_owned(),
            name: Some("truck-8".to_owned()),
            left: true,
        };
        let left = EntryReport {
            member: Some(member),
            text: None,
            ..report("system")
        };
        let json = serde_json::to_value(Entry::of(&left, "truck")).unwrap();
        let body = serde_json::json!({"kind": "system", "event": "left", "device": "8"});
        assert_eq!(json["body"], body);
    }
}
