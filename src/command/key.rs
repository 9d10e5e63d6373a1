//! `waypost key`: what other systems and bots come in with, over HTTP.

use super::block_on;
use crate::output::{self, Format};
use crate::server_client::{ServerArguments, ServerClient};
use crate::telemetry;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use waypost_proto::PersonId;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Add a key and print its token, which is shown this once
    Add {
        /// What drivers and colleagues see where it writes
        name: String,
        /// What it may do
        #[arg(long)]
        role: Role,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// List all keys
    List {
        #[command(flatten)]
        server: ServerArguments,
    },
    /// End what a key may do, at once; what it wrote stays
    Revoke {
        /// Such as 3
        id: PersonId,
        #[command(flatten)]
        server: ServerArguments,
    },
}

#[derive(Clone, Copy, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    /// Reads everything, writes messages, devices and positions
    Integration,
    /// Reads, and writes messages
    Bot,
}

/// A key as the server describes it.
#[derive(Deserialize)]
struct Key {
    id: String,
    name: String,
    role: String,
    created_at: String,
    last_used_at: Option<String>,
    revoked: bool,
}

#[derive(Deserialize)]
struct Issued {
    id: String,
    token: String,
}

pub(crate) fn run(Arguments { action }: Arguments, format: Format) -> anyhow::Result<()> {
    telemetry::start("warn");
    block_on(async {
        match action {
            Action::Add { name, role, server } => add(&server.connect()?, &name, role, format).await,
            Action::List { server } => list(&server.connect()?, format).await,
            Action::Revoke { id, server } => {
                let server = server.connect()?;
                let revoked = server.delete(&format!("/keys/{id}")).await;
                revoked.with_context(|| format!("key {id}"))?;
                match format {
                    Format::Json => output::json(&json!({"key": id.to_string(), "revoked": true})),
                    Format::Human => output::line(format_args!("Key {id} is revoked. What it wrote stays.")),
                }
            }
        }
    })
}

async fn add(server: &ServerClient, name: &str, role: Role, format: Format) -> anyhow::Result<()> {
    let new = json!({"name": name, "role": role});
    let answer: Value = server.post("/keys", Some(new)).await?;
    match format {
        Format::Json => output::json(&answer),
        Format::Human => {
            let Issued { id, token } = serde_json::from_value(answer)?;
            eprintln!("Key {id} ({name}) was added. Its token is shown this once:");
            output::line(token)
        }
    }
}

async fn list(server: &ServerClient, format: Format) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    let take = |item| match format {
        Format::Json => output::json(&item),
        Format::Human => {
            keys.push(serde_json::from_value::<Key>(item)?);
            Ok(())
        }
    };
    server.each("/keys", take).await?;
    if format == Format::Json {
        return Ok(());
    }
    if keys.is_empty() {
        return output::line(
            "There are no keys yet; add one with `waypost key add NAME --role integration`.",
        );
    }
    let rows = keys.into_iter().map(|key| {
        let role = if key.revoked {
            "revoked".to_owned()
        } else {
            key.role
        };
        let last_used = key.last_used_at.unwrap_or("never".to_owned());
        [key.id, key.name, role, key.created_at, last_used]
    });
    output::table(["ID", "NAME", "ROLE", "CREATED", "LAST USED"], rows)
}
