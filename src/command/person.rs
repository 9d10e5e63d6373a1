//! `waypost person`: who of the office may sign in, over HTTP.

use super::block_on;
use crate::output::{self, Format};
use crate::server_client::{ServerArguments, ServerClient};
use crate::telemetry;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use waypost_proto::PersonId;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Add a person; the password is asked for, or is the first line of standard input
    Add {
        /// With what the person signs in
        email: String,
        /// What the person may do
        #[arg(long)]
        role: Role,
        /// What drivers and colleagues see [default: what stands before the @]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// List everybody who may sign in
    List {
        #[command(flatten)]
        server: ServerArguments,
    },
    /// End a person's access, at once; the name stays with what the person wrote
    Remove {
        /// Such as 3
        id: PersonId,
        #[command(flatten)]
        server: ServerArguments,
    },
}

#[derive(Clone, Copy, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    /// Everything
    Admin,
    /// Reads everything, talks with drivers
    Dispatcher,
    /// Reads
    Viewer,
}

/// A person as the server describes it.
#[derive(Deserialize)]
struct Person {
    id: String,
    email: String,
    name: String,
    role: String,
}

pub(crate) fn run(Arguments { action }: Arguments, format: Format) -> anyhow::Result<()> {
    telemetry::start("warn");
    block_on(async {
        match action {
            Action::Add {
                email,
                role,
                name,
                server,
            } => {
                let server = server.connect()?;
                let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or_default().to_owned());
                let new = json!({"email": email, "name": name, "role": role, "password": password()?});
                let answer: Value = server.post("/people", Some(new)).await?;
                if format == Format::Json {
                    return output::json(&answer);
                }
                let Person { id, email, role, .. } = serde_json::from_value(answer)?;
                output::line(format_args!("Person {id} ({email}) was added as {role}."))
            }
            Action::List { server } => list(&server.connect()?, format).await,
            Action::Remove { id, server } => {
                let server = server.connect()?;
                let removed = server.delete(&format!("/people/{id}")).await;
                removed.with_context(|| format!("person {id}"))?;
                match format {
                    Format::Json => output::json(&json!({"person": id.to_string(), "removed": true})),
                    Format::Human => output::line(format_args!(
                        "Person {id} is removed. The name stays with what the person wrote."
                    )),
                }
            }
        }
    })
}

async fn list(server: &ServerClient, format: Format) -> anyhow::Result<()> {
    let mut people = Vec::new();
    let take = |item| match format {
        Format::Json => output::json(&item),
        Format::Human => {
            people.push(serde_json::from_value::<Person>(item)?);
            Ok(())
        }
    };
    server.each("/people", take).await?;
    if format == Format::Json {
        return Ok(());
    }
    let rows = people
        .into_iter()
        .map(|person| [person.id, person.email, person.name, person.role]);
    output::table(["ID", "E-MAIL", "NAME", "ROLE"], rows)
}

/// Asks a person without showing what is typed; a program writes a line.
fn password() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        stdin
            .lock()
            .read_line(&mut line)
            .context("the password cannot be read from standard input")?;
        let password = line.trim_end_matches(['\r', '\n']).to_owned();
        ensure!(
            !password.is_empty(),
            "a password is missing: write it to standard input as one line"
        );
        return Ok(password);
    }
    let first = ask("Password: ")?;
    ensure!(
        first == ask("The same again: ")?,
        "the two passwords differ; try again"
    );
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let stdin = std::io::stdin();
    let hidden = Hidden::begin()?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    drop(hidden);
    eprintln!();
    read.context("the password cannot be read")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn begin() -> anyhow::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin()).context("the terminal cannot be asked")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)
            .context("the terminal cannot be kept from showing the password")?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing any more.
        let _ =
            rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Flush, &self.0);
    }
}
