//! `waypost serve`: the server, until it is asked to end.

use super::{Interrupts, block_on};
use crate::config::{Config, File, Flags};
use crate::data_folder::{Addresses, DataFolder};
use crate::output::{self, Format};
use crate::wiring::{Listeners, Server, WhenTaken};
use crate::{secret, telemetry, timestamp};
use anyhow::Context;
use serde::Serialize;
use std::path::PathBuf;
use waypost_bridge::Bridge;
use waypost_bridge::person::{NewPerson, Role};
use waypost_bridge::store::StoreError;
use waypost_dispatch_api::hash_password;

/// The address of the administrator who is made when there is nobody.
const FIRST_EMAIL: &str = "admin@waypost.example";

/// The exit status of a server whose data another one has taken over. Its own, so that whatever starts servers can leave this
/// one alone: two that are started again and again would take the data from one another for ever.
const TAKEN_OVER: i32 = 3;

#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 when it was asked to end, 1 for an error, 2 for wrong usage, 3 when another server has \
                        taken over its data. Do not have it started again by itself after 3."
)]
pub(crate) struct Arguments {
    /// The settings; without it `waypost.toml` in this folder, where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// How somebody signs in; the password is shown here and nowhere else.
#[derive(Serialize)]
pub(crate) struct SignIn {
    pub(crate) url: String,
    pub(crate) email: String,
    pub(crate) password: String,
}

/// The ready line.
#[derive(Serialize)]
pub(crate) struct Ready {
    pub(crate) ready: Addresses,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sign_in: Option<SignIn>,
}

impl Ready {
    /// Tells whoever waits for it. The sign-in comes first: the ready line is the last one.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        if format == Format::Json {
            return output::json(self);
        }
        if let Some(SignIn { url, email, password }) = &self.sign_in {
            output::line(format_args!(
                "Dashboard: {url}\nE-mail:    {email}\nPassword:  {password}"
            ))?;
        }
        output::line(format_args!("ready {}", self.ready))
    }
}

pub(crate) fn run(Arguments { config, flags }: Arguments, format: Format) -> anyhow::Result<()> {
    let config = Config::load(config.as_deref().map_or(File::Usual, File::Named), &flags)?;
    telemetry::start(&config.log.level);
    block_on(serve(config, format))
}

async fn serve(config: Config, format: Format) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::catch()?;
    let folder = DataFolder::make(&config.server.data)?;
    // First of all: whoever holds the store owns the folder.
    let (store, _lock) = folder.open_store(config.store.engine)?;
    let token = folder.make_token()?;
    let listeners = Listeners::bind(&config, |_| WhenTaken::Fail).await?;
    let addresses = listeners.addresses().clone();
    let mut server = Server::start(&config, store, &token, listeners).await?;
    folder.announce(&addresses)?;

    let sign_in = first_administrator(&server.bridge, &addresses).await?;
    if sign_in.is_some() && format == Format::Human {
        output::line("This is the first start. The password is shown this once:")?;
    }
    Ready {
        ready: addresses.clone(),
        sign_in,
    }
    .print(format)?;
    tracing::info!("serving {addresses}");

    let broken = tokio::select! {
        () = interrupts.next() => None,
        error = server.broken() => Some(error),
    };
    if let Some(error) = broken {
        return leave(&folder, Err(error));
    }
    tracing::info!("stopping: no new connections; what was begun is put away");
    let stopped = interrupts.or_at_once(server.stop()).await;
    leave(&folder, stopped)
}

/// Leaves the data folder, after a good end or a bad one. Where another server has it already this ends the process, with
/// [`TAKEN_OVER`].
pub(crate) fn leave(folder: &DataFolder, ended: anyhow::Result<()>) -> anyhow::Result<()> {
    if let Err(error) = &ended
        && let Some(StoreError::Fenced(taken)) = error.chain().find_map(|cause| cause.downcast_ref())
    {
        let since = taken
            .by
            .as_ref()
            .and_then(|owner| timestamp::rfc3339(owner.since_ms));
        let since = since.map_or(String::new(), |since| format!(" since {since}"));
        eprintln!(
            "error: {taken}{since}, so this server has ended. Nothing that it acknowledged is lost, and devices say the rest \
             again. See to it that one server alone is started on these data"
        );
        // At once: what the engine does by itself it would do in the files of the other one, and `server.json` is his as well.
        std::process::exit(TAKEN_OVER);
    }
    folder.withdraw();
    ended
}

/// Makes an administrator where nobody could sign in.
async fn first_administrator(bridge: &Bridge, addresses: &Addresses) -> anyhow::Result<Option<SignIn>> {
    if bridge.has_people().await.context("the people cannot be read")? {
        return Ok(None);
    }
    let sign_in = add_person(bridge, FIRST_EMAIL, "Administrator", Role::Admin, addresses).await?;
    Ok(Some(sign_in))
}

/// Adds a person with a random password.
pub(crate) async fn add_person(
    bridge: &Bridge,
    email: &str,
    name: &str,
    role: Role,
    addresses: &Addresses,
) -> anyhow::Result<SignIn> {
    let password = secret::password()?;
    let hashed = password.clone();
    // Slow by intent.
    let password_hash = tokio::task::spawn_blocking(move || hash_password(&hashed)).await??;
    let new = NewPerson {
        email: email.to_owned(),
        name: name.to_owned(),
        role,
        password_hash,
    };
    bridge
        .add_person(new, None)
        .await
        .with_context(|| format!("{email} cannot be added"))?;
    Ok(SignIn {
        url: dashboard_url(addresses),
        email: email.to_owned(),
        password,
    })
}

/// The dashboard as a browser on this machine opens it.
pub(crate) fn dashboard_url(addresses: &Addresses) -> String {
    format!("http://{}/", crate::server_client::reachable(addresses.http))
}
