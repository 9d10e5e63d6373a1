//! `waypost device`: the units of a running server, over HTTP.

use super::block_on;
use crate::data_folder::PrivateFile;
use crate::output::{self, Format};
use crate::server_client::{ServerArguments, ServerClient};
use crate::telemetry;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use waypost_proto::DeviceId;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Add a device and print its credentials, which are shown this once
    Add {
        /// What the office calls it
        name: String,
        /// The person it speaks for
        #[arg(long, value_name = "NAME")]
        driver: Option<String>,
        /// The driver's language, such as de
        #[arg(long, value_name = "TAG", requires = "driver")]
        locale: Option<String>,
        /// A group that it joins, by id or name; may be given more than once
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// Write the credentials into this file, for its owner alone, instead of printing them
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// List all devices
    List {
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Give a device new credentials; the old ones stop working at once
    Rotate {
        /// Such as 7c
        id: DeviceId,
        /// Write the credentials into this file, for its owner alone, instead of printing them
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// End a device's right to connect; what it wrote stays
    Revoke {
        /// Such as 7c
        id: DeviceId,
        #[command(flatten)]
        server: ServerArguments,
    },
}

/// A device as the server describes it; what this program does not show is kept for `--json`.
#[derive(Deserialize)]
struct Device {
    id: String,
    name: String,
    driver: Option<Driver>,
    groups: Vec<String>,
    presence: Presence,
    stream: String,
    last_seen: Option<String>,
    revoked: bool,
}

#[derive(Deserialize)]
struct Driver {
    name: String,
}

#[derive(Deserialize)]
struct Group {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Presence {
    state: String,
}

#[derive(Deserialize)]
struct Enrolled {
    credentials: Credentials,
}

/// A device's credentials file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) device: String,
    pub(crate) name: String,
    secret: String,
    mqtt: Vec<String>,
    ca: Option<String>,
}

pub(crate) fn run(Arguments { action }: Arguments, format: Format) -> anyhow::Result<()> {
    telemetry::start("warn");
    block_on(async {
        match action {
            Action::Add {
                name,
                driver,
                locale,
                groups,
                out,
                server,
            } => {
                if let Some(out) = &out {
                    anyhow::ensure!(
                        !out.exists(),
                        "{} exists already; choose another name with --out, or remove it",
                        out.display()
                    );
                }
                let out = Out::begin(out)?;
                let driver =
                    driver.map(|name| json!({"name": name, "locale": locale.unwrap_or("en".to_owned())}));
                let server = server.connect()?;
                let groups = find_groups(&server, &groups).await?;
                let credentials = add(&server, &name, driver, &groups).await?;
                out.hand_out(&credentials, "was added", format)
            }
            Action::List { server } => list(&server.connect()?, format).await,
            Action::Rotate { id, out, server } => {
                let out = Out::begin(out)?;
                let credentials: Credentials = server
                    .connect()?
                    .post(&format!("/devices/{id}/credentials"), None)
                    .await
                    .with_context(|| format!("device {id}"))?;
                out.hand_out(
                    &credentials,
                    "has new credentials; the old ones do not work any more",
                    format,
                )
            }
            Action::Revoke { id, server } => {
                server
                    .connect()?
                    .delete(&format!("/devices/{id}"))
                    .await
                    .with_context(|| format!("device {id}"))?;
                match format {
                    Format::Json => output::json(&json!({"device": id.to_string(), "revoked": true})),
                    Format::Human => {
                        output::line(format_args!("Device {id} is revoked. What it wrote stays."))
                    }
                }
            }
        }
    })
}

/// Adds a device to a running server.
pub(crate) async fn add(
    server: &ServerClient,
    name: &str,
    driver: Option<Value>,
    groups: &[String],
) -> anyhow::Result<Credentials> {
    let new = json!({"name": name, "driver": driver, "groups": groups});
    let enrolled: Enrolled = server.post("/devices", Some(new)).await?;
    Ok(enrolled.credentials)
}

async fn all_groups(server: &ServerClient) -> anyhow::Result<Vec<Group>> {
    let mut groups = Vec::new();
    let take = |item| {
        groups.push(serde_json::from_value(item)?);
        Ok(())
    };
    server.each("/groups", take).await?;
    Ok(groups)
}

/// The ids of the groups that are meant. Nothing is asked for where none is.
async fn find_groups(server: &ServerClient, meant: &[String]) -> anyhow::Result<Vec<String>> {
    if meant.is_empty() {
        return Ok(Vec::new());
    }
    let groups = all_groups(server).await?;
    meant.iter().map(|meant| find_group(&groups, meant)).collect()
}

/// An id is one before it is a name.
fn find_group(groups: &[Group], meant: &str) -> anyhow::Result<String> {
    if groups.iter().any(|group| group.id == meant) {
        return Ok(meant.to_owned());
    }
    let named: Vec<&str> = groups
        .iter()
        .filter(|group| group.name == meant)
        .map(|group| group.id.as_str())
        .collect();
    match named[..] {
        [id] => Ok(id.to_owned()),
        [] if groups.is_empty() => bail!("there is no group {meant:?}: there are none yet"),
        [] => {
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            bail!("there is no group {meant:?}; those are {}", names.join(", "))
        }
        _ => bail!(
            "several groups have the name {meant:?}; say which by its id: {}",
            named.join(", ")
        ),
    }
}

/// Where the credentials go. Begun before the server is asked: they are shown once, and must not be lost for a file that
/// cannot be written.
enum Out {
    Printed,
    File(PathBuf, PrivateFile),
}

impl Out {
    fn begin(file: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Ok(Self::Printed);
        };
        let file = PrivateFile::begin(&path)?;
        Ok(Self::File(path, file))
    }

    fn hand_out(self, credentials: &Credentials, done: &str, format: Format) -> anyhow::Result<()> {
        let Credentials { device, name, .. } = credentials;
        let Self::File(path, file) = self else {
            if format == Format::Human {
                eprintln!("Device {device} ({name}) {done}. Its credentials are shown this once:");
                return output::line(serde_json::to_string_pretty(credentials)?);
            }
            return output::json(credentials);
        };
        let mut content = serde_json::to_vec_pretty(credentials)?;
        content.push(b'\n');
        file.finish(&content)?;
        let path = path.display();
        match format {
            Format::Json => output::json(&json!({"device": device, "name": name, "out": path.to_string()})),
            Format::Human => output::line(format_args!(
                "Device {device} ({name}) {done}. Credentials in {path}."
            )),
        }
    }
}

async fn list(server: &ServerClient, format: Format) -> anyhow::Result<()> {
    let mut devices = Vec::new();
    let take = |item| match format {
        Format::Json => output::json(&item),
        Format::Human => {
            devices.push(serde_json::from_value::<Device>(item)?);
            Ok(())
        }
    };
    server.each("/devices", take).await?;
    match format {
        Format::Json => Ok(()),
        Format::Human if devices.is_empty() => {
            output::line("There are no devices yet; add one with `waypost device add NAME`.")
        }
        Format::Human => table(&devices, &all_groups(server).await?),
    }
}

fn table(devices: &[Device], groups: &[Group]) -> anyhow::Result<()> {
    let head = ["ID", "NAME", "DRIVER", "GROUPS", "STATE", "STREAM", "LAST SEEN"];
    let rows = devices.iter().map(|device| {
        let state = if device.revoked {
            "revoked"
        } else {
            &device.presence.state
        };
        let driver = device.driver.as_ref().map_or("-", |driver| &driver.name);
        let last_seen = device.last_seen.as_deref().unwrap_or("never");
        let groups = names_of(&device.groups, groups);
        [
            &device.id,
            &device.name,
            driver,
            &groups,
            state,
            &device.stream,
            last_seen,
        ]
        .map(str::to_owned)
    });
    output::table(head, rows)
}

/// Names of groups with commas between. One that was made or deleted in between goes by its id.
fn names_of(ids: &[String], groups: &[Group]) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    let names: Vec<&str> = ids
        .iter()
        .map(|id| {
            let known = groups.iter().find(|group| group.id == *id);
            known.map_or(id.as_str(), |group| &group.name)
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<Group> {
        [("1", "North"), ("2", "Tankers"), ("3", "1"), ("4", "Tankers")]
            .map(|(id, name)| Group {
                id: id.to_owned(),
                name: name.to_owned(),
            })
            .into()
    }

    #[test]
    fn a_group_is_found_by_its_id_or_else_by_its_name() {
        for (meant, id) in [("1", "1"), ("North", "1"), ("2", "2"), ("4", "4")] {
            assert_eq!(find_group(&groups(), meant).unwrap(), id, "{meant}");
        }
        for (meant, said) in [
            ("South", "those are North, Tankers"),
            ("north", "there is no group"),
            ("Tankers", "by its id: 2, 4"),
        ] {
            let error = find_group(&groups(), meant).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(
            find_group(&[], "North")
                .unwrap_err()
                .to_string()
                .contains("none yet")
        );
    }

    #[test]
    fn groups_are_listed_by_name() {
        let names = |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
            names_of(&ids, &groups())
        };
        assert_eq!(names(&[]), "-");
        assert_eq!(names(&["1", "2"]), "North, Tankers");
        assert_eq!(names(&["9"]), "9");
    }
}
