//! `waypost demo`: a server on a throw-away data folder, and vehicles on recorded drives.
//!
//! Nothing is simulated but the driving: each vehicle is a field client with an outbox on disk and an MQTT connection
//! over TCP, and what it loses on a cut connection it has to make good by the protocol.

mod chance;
mod drive;
mod office;
mod vehicle;

use super::serve::{Ready, SignIn, add_person, dashboard_url, leave};
use super::{Interrupts, block_on, device, speed};
use crate::config::{Config, File, Flags};
use crate::data_folder::{Addresses, DataFolder, write_private};
use crate::listen_address::ListenAddress;
use crate::output::{self, Format};
use crate::server_client::{ServerClient, reachable};
use crate::telemetry;
use crate::wiring::{Listeners, Port, Server, WhenTaken};
use anyhow::Context;
use chance::Chance;
use drive::drives;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use vehicle::Vehicle;
use waypost_bridge::person::Role;
use waypost_field_client::{Client, Credentials, Options, Scheme, ServerAddress};

/// The address of the demo's dispatcher.
const EMAIL: &str = "dispatcher@demo.example";
/// What the demo keeps in the data folder beside the server's own things.
const FOLDER: &str = "demo";
/// The drivers; further vehicles begin again from the first.
const DRIVERS: [&str; 12] = [
    "Ada Novak",
    "Ben Okafor",
    "Carla Ruiz",
    "Deniz Kaya",
    "Elin Berg",
    "Farid Haddad",
    "Grace Mwangi",
    "Hugo Laurent",
    "Ines Costa",
    "Jonas Weber",
    "Kim Tran",
    "Lena Fischer",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many vehicles
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=500))]
    vehicles: u16,
    /// How many times as fast as they were recorded they drive
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Keep everything in this folder instead of throwing it away
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the dashboard listens [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where it is reached over TLS; an empty text turns it off [default: [::]:8443, or a free port]
    #[arg(long, value_name = "ADDR")]
    https: Option<ListenAddress>,
    /// Where the MQTT broker listens [default: 127.0.0.1:1883, or a free port]
    #[arg(long, value_name = "ADDR")]
    mqtt: Option<SocketAddr>,
    /// Where it is reached over TLS; an empty text turns it off [default: [::]:8883, or a free port]
    #[arg(long, value_name = "ADDR")]
    mqtts: Option<ListenAddress>,
}

/// The dispatcher's sign-in, kept for the next demo on the same folder.
#[derive(Serialize, Deserialize)]
struct Dispatcher {
    password: String,
}

pub(crate) fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    // The log of a demo is what goes wrong: the sign-in should stay on the screen.
    telemetry::start("warn");
    let (data, thrown_away) = match &arguments.data {
        Some(data) => (data.clone(), None),
        None => {
            let mut folder = tempfile::Builder::new();
            let folder = folder
                .prefix("waypost-demo-")
                .tempdir()
                .context("there is no temporary folder")?;
            (folder.path().join("data"), Some(folder))
        }
    };
    let ended = block_on(demo(arguments, &data, format));
    if let Some(folder) = thrown_away {
        folder
            .close()
            .context("the throw-away data folder cannot be removed")?;
    }
    ended
}

async fn demo(arguments: Arguments, data: &Path, format: Format) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::catch()?;
    let flags = Flags {
        data: Some(data.to_owned()),
        http: arguments.http,
        https: arguments.https,
        mqtt: arguments.mqtt,
        mqtts: arguments.mqtts,
    };
    let when_taken = |port| {
        let given = match port {
            Port::Http => arguments.http.is_some(),
            Port::Https => arguments.https.is_some(),
            Port::Mqtt => arguments.mqtt.is_some(),
            Port::Mqtts => arguments.mqtts.is_some(),
        };
        if given {
            WhenTaken::Fail
        } else {
            WhenTaken::TakeAnother
        }
    };
    let config = Config::load(File::None, &flags)?;
    let folder = DataFolder::make(data)?;
    let (store, _lock) = folder.open_store(config.store.engine)?;
    let token = folder.make_token()?;
    let listeners = Listeners::bind(&config, when_taken).await?;
    let addresses = listeners.addresses().clone();
    let broker = listeners
        .mqtt()
        .context("the demo's vehicles know the demo's own broker only; unset WAYPOST__MQTT__BROKER")?;
    let mut server = Server::start(&config, store, &token, listeners).await?;
    folder.announce(&addresses)?;

    let begun = async {
        let sign_in = dispatcher(&server, data, &addresses).await?;
        let (stop, stopping) = watch::channel(false);
        office::offer_templates(&server.bridge).await?;
        let fleet = fleet(&arguments, data, broker, &config, stopping).await?;
        office::make_groups(&server.bridge).await?;
        anyhow::Ok((sign_in, stop, fleet))
    };
    let (sign_in, stop, mut fleet) = tokio::select! {
        begun = begun => begun?,
        () = interrupts.next() => return interrupts.or_at_once(server.stop()).await,
    };
    if format == Format::Human {
        output::line(format_args!(
            "{} vehicles on recorded drives. Sign in, choose one and write to it; Ctrl-C ends the demo{}.",
            arguments.vehicles,
            if arguments.data.is_some() {
                ""
            } else {
                " and throws everything away"
            }
        ))?;
    }
    Ready {
        ready: addresses,
        sign_in: Some(sign_in),
    }
    .print(format)?;

    let broken = loop {
        tokio::select! {
            () = interrupts.next() => break None,
            error = server.broken() => break Some(error),
            Some(ended) = fleet.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::error!("a vehicle has stopped: {error:#}");
                }
            }
        }
    };
    if let Some(error) = broken {
        return leave(&folder, Err(error));
    }
    if format == Format::Human {
        eprintln!("The vehicles stop.");
    }
    let stopped = interrupts
        .or_at_once(async {
            stop.send_replace(true);
            while fleet.join_next().await.is_some() {}
            server.stop().await
        })
        .await;
    leave(&folder, stopped)
}

/// The demo's dispatcher; a folder that was kept has one already.
async fn dispatcher(server: &Server, data: &Path, addresses: &Addresses) -> anyhow::Result<SignIn> {
    let kept = data.join(FOLDER).join("dispatcher.json");
    if let Ok(text) = std::fs::read(&kept) {
        let Dispatcher { password } =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", kept.display()))?;
        return Ok(SignIn {
            url: dashboard_url(addresses),
            email: EMAIL.to_owned(),
            password,
        });
    }
    let sign_in = add_person(&server.bridge, EMAIL, "Dispatcher", Role::Dispatcher, addresses).await?;
    DataFolder::make(&data.join(FOLDER))?;
    write_private(
        &kept,
        &serde_json::to_vec(&Dispatcher {
            password: sign_in.password.clone(),
        })?,
    )?;
    Ok(sign_in)
}

/// Puts the vehicles on the road.
async fn fleet(
    arguments: &Arguments,
    data: &Path,
    broker: SocketAddr,
    config: &Config,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let api = ServerClient::of_folder(data, None)?;
    let drives = drives(usize::from(arguments.vehicles))?;
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).context("the system has no random numbers")?;
    let seed = u64::from_le_bytes(seed);
    let mut fleet = JoinSet::new();
    for (number, drive) in (1u64..).zip(drives) {
        let name = format!("truck-{number:02}");
        let client = enrol(&api, &name, &data.join(FOLDER), number, broker, config)
            .await
            .with_context(|| name.clone())?;
        let chance = Chance::new(seed.wrapping_add(number));
        let vehicle = Vehicle {
            client,
            drive,
            chance,
            factor: arguments.speed,
        };
        fleet.spawn(vehicle.run(stopping.clone()));
    }
    Ok(fleet)
}

/// A client with the credentials of a device of that name; the device is added where the folder has none.
async fn enrol(
    api: &ServerClient,
    name: &str,
    folder: &Path,
    number: u64,
    broker: SocketAddr,
    config: &Config,
) -> anyhow::Result<Client> {
    let file = folder.join(format!("{name}.json"));
    if !file.exists() {
        let index = usize::try_from(number - 1).unwrap_or(0) % DRIVERS.len();
        let driver = json!({"name": DRIVERS[index], "locale": "en"});
        let credentials = device::add(api, name, Some(driver), &[]).await?;
        write_private(&file, &serde_json::to_vec(&credentials)?)?;
    }
    let mut credentials = Credentials::read(&file)?;
    // A folder that was kept may name the port of another run.
    let broker = reachable(broker);
    credentials.servers = vec![ServerAddress {
        scheme: Scheme::Mqtt,
        host: broker.ip().to_string(),
        port: broker.port(),
        path: String::new(),
    }];
    let options = Options {
        app: concat!("waypost-demo ", env!("CARGO_PKG_VERSION")).to_owned(),
        topic_prefix: config.bridge_options()?.topic_prefix,
        ..Options::default()
    };
    Ok(Client::open(credentials, file.with_extension("state"), options).await?)
}
