//! The settings: one struct a subsystem, read from four places and checked as a whole.
//!
//! Defaults stand in `waypost.default.toml`, which is compiled in; a file is stronger, the environment stronger than
//! the file, flags stronger than the environment. An unknown key fails, wherever it stands.

use crate::broker_choice::BrokerChoice;
use crate::data_folder::engine_name;
use crate::limits::Connections;
use crate::listen_address::ListenAddress;
use crate::tls::{CertificateSource, TlsSettings, is_host};
use anyhow::Context;
use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use waypost_bridge::core::{CoreOptions, Retention};
use waypost_bridge::store::Engine;
use waypost_bridge::{BridgeOptions, SpaceProbe};
use waypost_broker::{Limits, LinkLimits, filter};
use waypost_proto::{FRAME_BYTES_MAX, TopicPrefix};

/// All settings, their units and their defaults.
const DEFAULTS: &str = include_str!("../waypost.default.toml");
/// Read from the present folder when no file is named.
const FILE: &str = "waypost.toml";
/// What a setting in the environment begins with; the same stands between section and key.
const ENVIRONMENT_PREFIX: &str = "WAYPOST__";

/// All settings. What each means stands in `waypost.default.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) server: ServerConfig,
    pub(crate) log: LogConfig,
    pub(crate) http: HttpConfig,
    pub(crate) mqtt: MqttConfig,
    pub(crate) tls: TlsConfig,
    pub(crate) broker: BrokerConfig,
    pub(crate) bridge: BridgeConfig,
    pub(crate) retention: RetentionConfig,
    pub(crate) store: StoreConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerConfig {
    pub(crate) data: PathBuf,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogConfig {
    pub(crate) level: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) tls_listen: ListenAddress,
    pub(crate) connections_max: usize,
    pub(crate) behind_tls: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MqttConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) tls_listen: ListenAddress,
    pub(crate) proxy_protocol: bool,
    pub(crate) broker: BrokerChoice,
    pub(crate) public: Vec<String>,
    pub(crate) topic_prefix: String,
    keep_alive_max_s: u16,
    session_expiry_max_s: u32,
    packet_size_max: usize,
    receive_maximum: u16,
    topic_alias_maximum: u16,
    pub(crate) dangerous_allow_anonymous: bool,
    pub(crate) anonymous_deny: Vec<String>,
    sys_interval_s: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsConfig {
    certificate: PathBuf,
    key: PathBuf,
    names: Vec<String>,
    client_authority: PathBuf,
    ticket_days: u32,
    check_s: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrokerConfig {
    connections_max: usize,
    handshakes_max: usize,
    connections_per_address_per_minute: u32,
    rate_addresses_max: usize,
    handshake_timeout_s: u64,
    connect_bytes_max: usize,
    topic_levels_max: usize,
    topic_bytes_max: usize,
    subscriptions_max: usize,
    sessions_max: usize,
    sessions_per_principal_max: usize,
    detached_queued_bytes_max: usize,
    detached_bytes_max: usize,
    inflight_max: u16,
    queued_bytes_max: usize,
    retained_max: usize,
    retained_bytes_max: usize,
    topic_alias_out_max: u16,
    close_timeout_s: u64,
    link_queued_bytes_max: usize,
    link_hints_max: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BridgeConfig {
    window_bytes: usize,
    frame_bytes: usize,
    repeat_min_s: u64,
    repeat_max_s: u64,
    ledger_ranges_max: usize,
    history_entries: usize,
    history_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionConfig {
    entries_days: u32,
    positions_days: u32,
    events_days: u32,
    audit_days: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoreConfig {
    #[serde(with = "engine_name")]
    pub(crate) engine: Engine,
    disk_reserve_mb: u64,
}

/// Which file to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum File<'a> {
    /// This one; it has to be there.
    Named(&'a Path),
    /// `waypost.toml` in the present folder, where there is one.
    Usual,
    /// None.
    None,
}

/// Flags that stand for settings; `None` where a flag was not given.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// The data folder [default: ./waypost-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the dashboard and the HTTP interface listen; port 0 takes any [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Where both are reached over TLS; an empty text turns it off [default: [::]:8443]
    #[arg(long, value_name = "ADDR")]
    pub(crate) https: Option<ListenAddress>,
    /// Where the MQTT broker listens; port 0 takes any [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Option<SocketAddr>,
    /// Where devices reach it over TLS; an empty text turns it off [default: [::]:8883]
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtts: Option<ListenAddress>,
}

impl Config {
    /// Reads the settings from all places and checks them.
    pub(crate) fn load(file: File<'_>, flags: &Flags) -> anyhow::Result<Self> {
        let config: Self = Self::sources(file, flags)?.extract().map_err(in_words)?;
        let problems = config.problems();
        if !problems.is_empty() {
            anyhow::bail!("these settings do not fit:\n  {}", problems.join("\n  "));
        }
        Ok(config)
    }

    fn sources(file: File<'_>, flags: &Flags) -> anyhow::Result<Figment> {
        let mut sources = Figment::from(Toml::string(DEFAULTS));
        let file = match file {
            File::Named(path) => Some(path),
            File::Usual => Some(Path::new(FILE)).filter(|path| path.exists()),
            File::None => None,
        };
        if let Some(path) = file {
            // Read here: a provider would take a file that cannot be read for an empty one.
            std::fs::read_to_string(path)
                .with_context(|| format!("the settings in {} cannot be read", path.display()))?;
            sources = sources.merge(Toml::file_exact(path));
        }
        sources = sources.merge(Env::prefixed(ENVIRONMENT_PREFIX).split("__"));
        if let Some(data) = &flags.data {
            sources = sources.merge(("server.data", data));
        }
        if let Some(http) = flags.http {
            sources = sources.merge(("http.listen", http));
        }
        if let Some(https) = flags.https {
            sources = sources.merge(("http.tls_listen", https));
        }
        if let Some(mqtt) = flags.mqtt {
            sources = sources.merge(("mqtt.listen", mqtt));
        }
        if let Some(mqtts) = flags.mqtts {
            sources = sources.merge(("mqtt.tls_listen", mqtts));
        }
        Ok(sources)
    }

    /// What does not fit, alone or together; each says what would.
    fn problems(&self) -> Vec<String> {
        let mut rules = Rules::default();
        let Self {
            server,
            log,
            http,
            mqtt,
            tls,
            broker,
            bridge,
            retention,
            store,
        } = self;

        let is_name = |c: char| c.is_ascii_alphanumeric() || "._~/-".contains(c);
        rules.require(
            (1..=100).contains(&server.name.len()) && server.name.chars().all(is_name),
            "server.name has 1 to 100 letters, digits and . _ ~ / -",
        );
        if let Err(error) = log.level.parse::<tracing_subscriber::filter::EnvFilter>() {
            rules.broken(format!("log.level: {error}"));
        }
        rules.require(
            http.listen != mqtt.listen || http.listen.port() == 0,
            "http.listen and mqtt.listen are two addresses",
        );
        let tls_listen = mqtt.tls_listen.address().filter(|address| address.port() != 0);
        rules.require(
            tls_listen.is_none_or(|address| ![http.listen, mqtt.listen].contains(&address)),
            "mqtt.tls_listen is another address than http.listen and mqtt.listen",
        );
        let https = http.tls_listen.address().filter(|address| address.port() != 0);
        rules.require(
            https.is_none_or(|address| {
                ![http.listen, mqtt.listen].contains(&address) && Some(address) != tls_listen
            }),
            "http.tls_listen is another address than http.listen, mqtt.listen and mqtt.tls_listen",
        );
        rules.require(http.connections_max >= 1, "http.connections_max is at least 1");
        mqtt.check(broker, &mut rules);
        tls.check(&mut rules);
        broker.check(mqtt, &mut rules);
        bridge.check(&mut rules);
        retention.check(&mut rules);
        rules.require(
            store.disk_reserve_mb <= DISK_RESERVE_MB_MAX,
            format!("store.disk_reserve_mb is at most {DISK_RESERVE_MB_MAX}; 0 keeps no reserve"),
        );
        rules.broken
    }

    /// The connections that are wanted, each of which is an open file.
    pub(crate) fn connections(&self) -> Connections {
        Connections {
            http_max: self.http.connections_max,
            mqtt_max: self.broker.connections_max,
            mqtt_handshakes_max: self.broker.handshakes_max,
        }
    }

    /// The bounds of the broker, with as many connections as there are files for.
    pub(crate) fn broker_limits(&self, connections: Connections) -> Limits {
        self.broker.limits(&self.mqtt, connections)
    }

    /// What is set on purpose and is still to be said wherever somebody looks; by the name under which `/readyz` says it.
    pub(crate) fn warnings(&self) -> Vec<(&'static str, &'static str)> {
        let mut warnings = Vec::new();
        if self.mqtt.dangerous_allow_anonymous {
            warnings.push((
                "anonymous",
                "anybody may connect to MQTT: mqtt.dangerous_allow_anonymous is on",
            ));
        }
        warnings
    }

    /// What TLS is to be like.
    pub(crate) fn tls_settings(&self) -> TlsSettings {
        let tls = &self.tls;
        let public = self.mqtt.public.iter().filter_map(|address| host_of(address));
        let listens = [self.http.tls_listen, self.mqtt.tls_listen];
        let listens = listens.into_iter().filter_map(ListenAddress::address);
        let listens: Vec<String> = listens
            .filter(|address| !address.ip().is_unspecified())
            .map(|address| address.ip().to_canonical().to_string())
            .collect();
        let names = tls.names.iter().chain(&listens).map(String::as_str).chain(public);
        TlsSettings {
            source: match (path(&tls.certificate), path(&tls.key)) {
                (Some(certificate), Some(key)) => CertificateSource::Files { certificate, key },
                _ => CertificateSource::OwnAuthority {
                    names: names.map(spelled_once).collect(),
                },
            },
            client_authority: path(&tls.client_authority),
            ticket_lifetime: Duration::from_secs(u64::from(tls.ticket_days) * 86_400),
            looked_at_every: Duration::from_secs(tls.check_s),
        }
    }

    /// What the bridge is started with.
    pub(crate) fn bridge_options(&self) -> anyhow::Result<BridgeOptions> {
        Ok(BridgeOptions {
            topic_prefix: TopicPrefix::new(&self.mqtt.topic_prefix).context("mqtt.topic_prefix")?,
            core: CoreOptions {
                window_bytes: self.bridge.window_bytes,
                frame_bytes: self.bridge.frame_bytes,
                repeat_min: Duration::from_secs(self.bridge.repeat_min_s),
                repeat_max: Duration::from_secs(self.bridge.repeat_max_s),
                ledger_ranges_max: self.bridge.ledger_ranges_max,
                history_entries: self.bridge.history_entries,
                history_bytes: self.bridge.history_bytes,
                retention: Retention {
                    entries_days: self.retention.entries_days,
                    positions_days: self.retention.positions_days,
                    events_days: self.retention.events_days,
                    audit_days: self.retention.audit_days,
                },
                disk_reserve_bytes: self.store.disk_reserve_mb * 1_000_000,
            },
            // The caller knows where the data folder is.
            space: SpaceProbe::default(),
        })
    }
}

impl MqttConfig {
    fn check(&self, broker: &BrokerConfig, rules: &mut Rules) {
        for address in &self.public {
            rules.require(
                is_public_address(address),
                format!("mqtt.public: {address:?} is not an address such as mqtt://waypost.example:1883"),
            );
        }
        if let Err(error) = TopicPrefix::new(&self.topic_prefix) {
            rules.broken(format!(
                "mqtt.topic_prefix: {error}; it has no wildcard and no slash at either end"
            ));
        }
        rules.require(
            self.keep_alive_max_s >= 10,
            "mqtt.keep_alive_max_s is at least 10",
        );
        let frame_and_topic = FRAME_BYTES_MAX + broker.topic_bytes_max + 64;
        rules.require(
            (frame_and_topic..=MQTT_PACKET_BYTES_MAX).contains(&self.packet_size_max),
            format!("mqtt.packet_size_max is {frame_and_topic} to {MQTT_PACKET_BYTES_MAX}: a frame and its topic have to fit"),
        );
        rules.require(self.receive_maximum >= 1, "mqtt.receive_maximum is at least 1");
        rules.require(
            self.topic_alias_maximum >= 1,
            "mqtt.topic_alias_maximum is at least 1: without one every frame carries its topic",
        );
        rules.require(
            !self.dangerous_allow_anonymous || self.broker == BrokerChoice::Embedded,
            "mqtt.dangerous_allow_anonymous is for the embedded broker: with mqtt.broker that one decides who may connect",
        );
        for denied in &self.anonymous_deny {
            rules.require(
                filter::is_filter(denied) && filter::shared(denied).is_none(),
                format!("mqtt.anonymous_deny: {denied:?} is not a filter such as private/#"),
            );
        }
    }

    /// How often the embedded broker tells of itself below `$SYS`; `None` for never.
    pub(crate) fn sys_interval(&self) -> Option<Duration> {
        (self.sys_interval_s > 0).then(|| Duration::from_secs(self.sys_interval_s.into()))
    }

    /// A larger packet ends its connection; also that of the bridge with a broker elsewhere.
    pub(crate) fn packet_size_max(&self) -> usize {
        self.packet_size_max
    }
}

impl TlsConfig {
    fn check(&self, rules: &mut Rules) {
        rules.require(
            path(&self.certificate).is_some() == path(&self.key).is_some(),
            "tls.certificate and tls.key are both set, or neither is",
        );
        for name in &self.names {
            rules.require(
                is_host(name),
                format!("tls.names: {name:?} is neither a host name nor an address"),
            );
        }
        rules.require(
            self.names.is_empty() || path(&self.certificate).is_none(),
            "tls.names is for the certificate of the own authority; leave it empty with tls.certificate",
        );
        rules.require(
            (1..=7).contains(&self.ticket_days),
            "tls.ticket_days is 1 to 7: TLS allows no more",
        );
        rules.require((1..=3_600).contains(&self.check_s), "tls.check_s is 1 to 3600");
    }
}

impl BrokerConfig {
    fn check(&self, mqtt: &MqttConfig, rules: &mut Rules) {
        let topic_prefix = &mqtt.topic_prefix;
        rules.require(self.connections_max >= 1, "broker.connections_max is at least 1");
        rules.require(
            (1..=self.connections_max).contains(&self.handshakes_max),
            "broker.handshakes_max is 1 to connections_max",
        );
        rules.require(
            self.connections_per_address_per_minute >= 1,
            "broker.connections_per_address_per_minute is at least 1",
        );
        rules.require(
            self.rate_addresses_max >= 1,
            "broker.rate_addresses_max is at least 1",
        );
        rules.require(
            (1..=u64::from(mqtt.keep_alive_max_s)).contains(&self.handshake_timeout_s),
            "broker.handshake_timeout_s is 1 to mqtt.keep_alive_max_s: a client may be silent for as long",
        );
        rules.require(
            (64..=mqtt.packet_size_max).contains(&self.connect_bytes_max),
            "broker.connect_bytes_max is 64 to mqtt.packet_size_max",
        );
        rules.require(
            topic_prefix.len() + 64 <= self.topic_bytes_max && self.topic_bytes_max <= 65_535,
            "broker.topic_bytes_max is at least 64 more than mqtt.topic_prefix has, and at most 65535",
        );
        let prefix_levels = topic_prefix.split('/').filter(|level| !level.is_empty()).count();
        rules.require(
            self.topic_levels_max >= prefix_levels + 4,
            "broker.topic_levels_max is at least 4 more than mqtt.topic_prefix has",
        );
        rules.require(
            self.subscriptions_max >= 4,
            "broker.subscriptions_max is at least 4: a device needs them",
        );
        rules.require(
            self.sessions_max >= self.connections_max,
            "broker.sessions_max is at least connections_max: each connection has a session",
        );
        rules.require(
            self.sessions_per_principal_max >= 1,
            "broker.sessions_per_principal_max is at least 1",
        );
        rules.require(
            self.detached_bytes_max >= self.detached_queued_bytes_max,
            "broker.detached_bytes_max is at least detached_queued_bytes_max",
        );
        rules.require(self.inflight_max >= 1, "broker.inflight_max is at least 1");
        for (key, bytes) in [
            ("queued_bytes_max", self.queued_bytes_max),
            ("detached_queued_bytes_max", self.detached_queued_bytes_max),
            ("retained_bytes_max", self.retained_bytes_max),
            ("link_queued_bytes_max", self.link_queued_bytes_max),
        ] {
            rules.require(
                bytes >= mqtt.packet_size_max,
                format!("broker.{key} is at least mqtt.packet_size_max"),
            );
        }
        rules.require(self.close_timeout_s >= 1, "broker.close_timeout_s is at least 1");
        rules.require(self.link_hints_max >= 1, "broker.link_hints_max is at least 1");
    }

    fn limits(&self, mqtt: &MqttConfig, connections: Connections) -> Limits {
        Limits {
            connections_max: connections.mqtt_max,
            handshakes_max: connections.mqtt_handshakes_max,
            connections_per_address_per_minute: self.connections_per_address_per_minute,
            rate_addresses_max: self.rate_addresses_max,
            handshake_timeout: Duration::from_secs(self.handshake_timeout_s),
            connect_bytes_max: self.connect_bytes_max,
            packet_bytes_max: mqtt.packet_size_max,
            topic_levels_max: self.topic_levels_max,
            topic_bytes_max: self.topic_bytes_max,
            subscriptions_max: self.subscriptions_max,
            session_expiry_max: Duration::from_secs(u64::from(mqtt.session_expiry_max_s)),
            sessions_max: self.sessions_max,
            sessions_per_principal_max: self.sessions_per_principal_max,
            detached_queued_bytes_max: self.detached_queued_bytes_max,
            detached_bytes_max: self.detached_bytes_max,
            inflight_max: self.inflight_max,
            queued_bytes_max: self.queued_bytes_max,
            retained_max: self.retained_max,
            retained_bytes_max: self.retained_bytes_max,
            receive_maximum: mqtt.receive_maximum,
            keep_alive_max_s: mqtt.keep_alive_max_s,
            topic_alias_max: mqtt.topic_alias_maximum,
            topic_alias_out_max: self.topic_alias_out_max,
            close_timeout: Duration::from_secs(self.close_timeout_s),
        }
    }

    /// The bounds of the bridge's link.
    pub(crate) fn link_limits(&self) -> LinkLimits {
        LinkLimits {
            queued_bytes_max: self.link_queued_bytes_max,
            hints_max: self.link_hints_max,
        }
    }
}

impl BridgeConfig {
    fn check(&self, rules: &mut Rules) {
        rules.require(
            (100..=FRAME_BYTES_MAX).contains(&self.frame_bytes),
            format!("bridge.frame_bytes is 100 to {FRAME_BYTES_MAX}"),
        );
        rules.require(
            self.window_bytes >= self.frame_bytes,
            "bridge.window_bytes is at least frame_bytes",
        );
        rules.require(
            (1..=self.repeat_max_s).contains(&self.repeat_min_s),
            "bridge.repeat_min_s is 1 to repeat_max_s",
        );
        rules.require(
            self.repeat_max_s <= 86_400,
            "bridge.repeat_max_s is at most a day, 86400",
        );
        rules.require(
            (1..=10_000).contains(&self.ledger_ranges_max),
            "bridge.ledger_ranges_max is 1 to 10000",
        );
        rules.require(
            self.history_entries <= 1_000,
            "bridge.history_entries is at most 1000",
        );
        rules.require(
            self.history_bytes <= 16_777_216,
            "bridge.history_bytes is at most 16777216",
        );
    }
}

impl RetentionConfig {
    fn check(&self, rules: &mut Rules) {
        for (key, days) in [
            ("entries_days", self.entries_days),
            ("positions_days", self.positions_days),
            ("events_days", self.events_days),
            ("audit_days", self.audit_days),
        ] {
            rules.require(
                days <= RETENTION_DAYS_MAX,
                format!("retention.{key} is at most {RETENTION_DAYS_MAX}; 0 keeps for ever"),
            );
        }
        let events_days = self.events_days;
        rules.require(
            self.entries_days == 0 || (1..=self.entries_days).contains(&events_days),
            "retention.events_days is 1 to entries_days: an event of an entry shows that entry",
        );
    }
}

/// A terabyte: more is a mistake in the unit.
const DISK_RESERVE_MB_MAX: u64 = 1_000_000;
/// A hundred years: what is meant to be longer is for ever.
const RETENTION_DAYS_MAX: u32 = 36_500;
/// The largest packet that MQTT can describe.
const MQTT_PACKET_BYTES_MAX: usize = 268_435_455;

/// What a person may look for in `[broker]`, and what it is called in `[mqtt]`: those are told to clients.
const TOLD_TO_CLIENTS: [(&str, &str); 4] = [
    ("broker.keep_alive_max_s", "mqtt.keep_alive_max_s"),
    ("broker.packet_bytes_max", "mqtt.packet_size_max"),
    ("broker.receive_maximum", "mqtt.receive_maximum"),
    ("broker.topic_alias_max", "mqtt.topic_alias_maximum"),
];

/// Collects what is broken.
#[derive(Default)]
struct Rules {
    broken: Vec<String>,
}

impl Rules {
    fn require(&mut self, holds: bool, rule: impl Into<String>) {
        if !holds {
            self.broken.push(rule.into());
        }
    }

    fn broken(&mut self, problem: String) {
        self.broken.push(problem);
    }
}

/// A setting that names a file; `None` where it is empty.
fn path(setting: &Path) -> Option<PathBuf> {
    Some(setting)
        .filter(|path| !path.as_os_str().is_empty())
        .map(Path::to_owned)
}

/// The host of a public address that can stand in a certificate.
fn host_of(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next()?,
        None => authority.split(':').next()?,
    };
    Some(host).filter(|host| is_host(host))
}

/// As it stands in a certificate: an address in its short form, a name in small letters.
fn spelled_once(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

fn is_public_address(address: &str) -> bool {
    address.split_once("://").is_some_and(|(scheme, rest)| {
        ["mqtt", "mqtts", "ws", "wss"].contains(&scheme)
            && !rest.is_empty()
            && !rest.starts_with([':', '/'])
            && !rest.contains(char::is_whitespace)
    })
}

/// Names the setting and its place as a person would.
fn in_words(errors: figment::Error) -> anyhow::Error {
    let lines: Vec<String> = errors
        .into_iter()
        .map(|error| {
            let key = error.path.join(".");
            let place = error
                .metadata
                .as_ref()
                .map_or(String::new(), |metadata| match &metadata.source {
                    Some(source) => format!(" (in {source})"),
                    None if metadata.name.contains("environment") => " (in the environment)".to_owned(),
                    None => String::new(),
                });
            match &error.kind {
                figment::error::Kind::UnknownField(field, known) => {
                    // The path ends at the section, or at the field itself.
                    let name = match key.as_str() {
                        "" => field.clone(),
                        path if path == field || path.ends_with(&format!(".{field}")) => key,
                        section => format!("{section}.{field}"),
                    };
                    match TOLD_TO_CLIENTS.iter().find(|(looked_for, _)| *looked_for == name) {
                        Some((_, meant)) => {
                            format!("there is no setting {name}{place}; it is called {meant}")
                        }
                        None => format!(
                            "there is no setting {name}{place}; there are {}",
                            known.join(", ")
                        ),
                    }
                }
                kind if key.is_empty() => format!("{kind}{place}"),
                kind => format!("{key}: {kind}{place}"),
            }
        })
        .collect();
    anyhow::anyhow!("the settings cannot be used: {}", lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::Jail;
    use std::collections::BTreeSet;

    fn defaults() -> Config {
        Figment::from(Toml::string(DEFAULTS)).extract().unwrap()
    }

    /// `section.key` of each setting in the file, with the comment above it.
    fn documented() -> Vec<(String, String)> {
        let (mut section, mut comment, mut settings) = (String::new(), String::new(), Vec::new());
        for line in DEFAULTS.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
                comment.clear();
            } else if let Some(text) = line.strip_prefix('#') {
                comment.push_str(text);
            } else if let Some((key, _)) = line.split_once('=') {
                settings.push((format!("{section}.{}", key.trim()), std::mem::take(&mut comment)));
            }
        }
        settings
    }

    #[test]
    fn every_key_stands_in_the_default_file_with_its_unit() {
        let serde_json::Value::Object(sections) = serde_json::to_value(defaults()).unwrap() else {
            panic!()
        };
        let keys: BTreeSet<String> = sections
            .iter()
            .flat_map(|(section, keys)| {
                keys.as_object()
                    .unwrap()
                    .keys()
                    .map(move |key| format!("{section}.{key}"))
            })
            .collect();
        let documented = documented();
        assert_eq!(keys, documented.iter().map(|(key, _)| key.clone()).collect());
        for (key, comment) in documented {
            let unit = comment
                .trim_start()
                .strip_prefix('[')
                .and_then(|rest| rest.split_once("] "));
            let (unit, text) = unit.unwrap_or_else(|| panic!("{key} has no unit: {comment}"));
            assert!(!unit.is_empty() && text.len() > 10, "{key}: {comment}");
            for (suffix, expected) in [
                ("_s", "seconds"),
                ("_bytes", "bytes"),
                ("_bytes_max", "bytes"),
                ("_size_max", "bytes"),
                ("_days", "days"),
                ("_mb", "megabytes"),
            ] {
                assert!(
                    !key.ends_with(suffix) || unit == expected,
                    "{key} is in {expected}, not {unit}"
                );
            }
        }
    }

    #[test]
    fn the_default_file_says_what_the_crates_do_by_themselves() {
        let config = defaults();
        assert_eq!(config.problems(), Vec::<String>::new());
        assert_eq!(config.broker_limits(config.connections()), Limits::default());
        assert_eq!(config.broker.link_limits(), LinkLimits::default());
        assert_eq!(
            format!("{:?}", config.bridge_options().unwrap()),
            format!("{:?}", BridgeOptions::default())
        );
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "the signature is the library's")]
    fn flags_are_stronger_than_the_environment_and_that_is_stronger_than_the_file() {
        Jail::expect_with(|jail| {
            jail.create_file(
                FILE,
                "[http]\nlisten = '127.0.0.1:1'\n[mqtt]\nlisten = '127.0.0.1:2'\n[server]\nname = 'file'",
            )?;
            jail.set_env("WAYPOST__HTTP__LISTEN", "127.0.0.1:3");
            jail.set_env("WAYPOST__MQTT__LISTEN", "127.0.0.1:4");
            jail.set_env("WAYPOST__BRIDGE__FRAME_BYTES", "1000");
            // Not settings: they stand for `--server` and `--token` of other commands.
            jail.set_env("WAYPOST_SERVER", "http://127.0.0.1:9");
            let flags = Flags {
                mqtt: Some("127.0.0.1:5".parse().unwrap()),
                ..Flags::default()
            };
            let config = Config::load(File::Usual, &flags).unwrap();
            assert_eq!(config.server.name, "file");
            assert_eq!(config.http.listen.port(), 3);
            assert_eq!(config.mqtt.listen.port(), 5);
            assert_eq!(config.bridge.frame_bytes, 1_000);
            assert_eq!(config.server.data, defaults().server.data);
            Ok(())
        });
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "the signature is the library's")]
    fn an_unknown_key_fails_by_its_name_wherever_it_stands() {
        Jail::expect_with(|jail| {
            for (text, name) in [
                ("[http]\nlistn = '127.0.0.1:1'", "http.listn"),
                ("[htp]\nlisten = '127.0.0.1:1'", "htp"),
                ("listen = 1", "listen"),
            ] {
                jail.create_file(FILE, text)?;
                let error = Config::load(File::Usual, &Flags::default())
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(&format!("no setting {name} (in ")), "{error}");
                assert!(error.contains(FILE), "{error}");
            }
            for (looked_for, meant) in TOLD_TO_CLIENTS {
                jail.create_file("waypost.toml", &format!("{looked_for} = 1"))?;
                let error = Config::load(File::Usual, &Flags::default())
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(looked_for) && error.contains(meant), "{error}");
            }
            jail.set_env("WAYPOST__BROKER__CONECTIONS_MAX", "1");
            let error = Config::load(File::None, &Flags::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("no setting broker.conections_max (in the environment)"),
                "{error}"
            );
            Ok(())
        });
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "the signature is the library's")]
    fn a_value_that_cannot_be_one_fails_by_the_name_of_its_key() {
        Jail::expect_with(|jail| {
            jail.create_file("other.toml", "[http]\nlisten = 'here'")?;
            let error = Config::load(File::Named(Path::new("other.toml")), &Flags::default()).unwrap_err();
            assert!(error.to_string().contains("http.listen"), "{error}");
            jail.create_file("other.toml", "[store]\nengine = 'rocksdb'")?;
            let error = Config::load(File::Named(Path::new("other.toml")), &Flags::default()).unwrap_err();
            for part in ["store.engine", "rocksdb", "fjall and sled"] {
                assert!(error.to_string().contains(part), "{error}");
            }
            let error = Config::load(File::Named(Path::new("none.toml")), &Flags::default()).unwrap_err();
            assert!(error.to_string().contains("none.toml"), "{error}");
            Ok(())
        });
    }

    #[test]
    fn the_own_certificate_is_for_what_was_set_and_what_devices_are_told() {
        let settings = "tls.names = ['Waypost.Example', '2001:DB8::1']\nmqtt.public = ['mqtts://a.example:8883', \
                        'wss://[2001:db8::2]/mqtt', 'mqtts://192.0.2.7']";
        let figment = Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(settings));
        let config: Config = figment.extract().unwrap();
        assert_eq!(config.problems(), Vec::<String>::new());
        let CertificateSource::OwnAuthority { names } = config.tls_settings().source else {
            panic!()
        };
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            [
                "192.0.2.7",
                "2001:db8::1",
                "2001:db8::2",
                "a.example",
                "waypost.example"
            ]
        );
    }

    #[test]
    fn relations_between_settings_are_checked() {
        for (key, settings) in [
            ("server.name", "server.name = 'a b'"),
            ("log.level", "log.level = 'loud=x=y'"),
            ("http.listen", "mqtt.listen = '127.0.0.1:8080'"),
            ("mqtt.tls_listen", "mqtt.tls_listen = '127.0.0.1:8080'"),
            ("http.tls_listen", "http.tls_listen = '127.0.0.1:8080'"),
            ("http.tls_listen", "http.tls_listen = '[::]:8883'"),
            ("mqtt.tls_listen", "mqtt.tls_listen = '127.0.0.1:1883'"),
            ("mqtt.public", "mqtt.public = ['waypost.example']"),
            ("mqtt.topic_prefix", "mqtt.topic_prefix = 'a/#'"),
            ("http.connections_max", "http.connections_max = 0"),
            ("tls.certificate and tls.key", "tls.certificate = 'c.pem'"),
            ("tls.certificate and tls.key", "tls.key = 'k.pem'"),
            ("tls.names", "tls.names = ['a b']"),
            (
                "tls.names",
                "tls.names = ['a']\ntls.certificate = 'c.pem'\ntls.key = 'k.pem'",
            ),
            ("tls.ticket_days", "tls.ticket_days = 8"),
            ("tls.check_s", "tls.check_s = 0"),
            ("broker.handshakes_max", "broker.connections_max = 10"),
            (
                "broker.connections_per_address_per_minute",
                "broker.connections_per_address_per_minute = 0",
            ),
            ("broker.rate_addresses_max", "broker.rate_addresses_max = 0"),
            ("broker.sessions_max", "broker.sessions_max = 9999"),
            (
                "broker.sessions_per_principal_max",
                "broker.sessions_per_principal_max = 0",
            ),
            (
                "broker.detached_queued_bytes_max",
                "broker.detached_queued_bytes_max = 1000",
            ),
            ("broker.detached_bytes_max", "broker.detached_bytes_max = 4194303"),
            ("broker.handshake_timeout_s", "broker.handshake_timeout_s = 4000"),
            (
                "mqtt.keep_alive_max_s",
                "mqtt.keep_alive_max_s = 9\nbroker.handshake_timeout_s = 9",
            ),
            ("mqtt.packet_size_max", "mqtt.packet_size_max = 65536"),
            ("mqtt.receive_maximum", "mqtt.receive_maximum = 0"),
            ("mqtt.topic_alias_maximum", "mqtt.topic_alias_maximum = 0"),
            (
                "mqtt.dangerous_allow_anonymous",
                "mqtt.dangerous_allow_anonymous = true\nmqtt.broker = 'mqtt://broker.example'",
            ),
            ("mqtt.anonymous_deny", "mqtt.anonymous_deny = ['private/#', 'a#']"),
            ("mqtt.anonymous_deny", "mqtt.anonymous_deny = ['$share/x/y']"),
            ("broker.queued_bytes_max", "broker.queued_bytes_max = 1000"),
            (
                "broker.topic_bytes_max",
                "mqtt.topic_prefix = 'acme/waypost'\nbroker.topic_bytes_max = 70",
            ),
            (
                "broker.topic_levels_max",
                "mqtt.topic_prefix = 'acme/waypost'\nbroker.topic_levels_max = 5",
            ),
            ("bridge.window_bytes", "bridge.window_bytes = 1000"),
            ("bridge.repeat_min_s", "bridge.repeat_min_s = 301"),
            ("bridge.history_entries", "bridge.history_entries = 1001"),
            ("retention.positions_days", "retention.positions_days = 36501"),
            ("retention.events_days", "retention.entries_days = 30"),
            ("retention.events_days", "retention.events_days = 0"),
            ("store.disk_reserve_mb", "store.disk_reserve_mb = 1000001"),
            (
                "bridge.frame_bytes",
                "bridge.frame_bytes = 65537\nbridge.window_bytes = 65537",
            ),
        ] {
            let figment = Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(settings));
            let problems = figment.extract::<Config>().unwrap().problems();
            assert_eq!(problems.len(), 1, "{settings}: {problems:?}");
            assert!(problems[0].starts_with(key), "{settings}: {problems:?}");
        }
    }
}
