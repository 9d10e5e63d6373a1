//! The one place that introduces broker, bridge and HTTP to each other.
//!
//! Start: the store is read, then the broker listens, then HTTP; whoever connects earlier is told to come back. Stop:
//! nothing more is taken, what was taken is put away and answered, everybody is told goodbye, and only then the process ends.

mod admission;
mod anonymous;
mod client_certificate;
mod external_link;
mod link;
mod public;
mod roll_call;

use crate::broker_choice::{BrokerChoice, ExternalBroker};
use crate::config::Config;
use crate::data_folder::{Addresses, AdminToken};
use crate::limits::{Connections, raise_open_files};
use crate::tls::ServerTls;
use admission::{Admission, Permissions};
use anonymous::Anonymous;
use anyhow::Context;
use external_link::{ExternalLink, Standing};
use link::{Drain, InProcessLink};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use public::Listening;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use waypost_bridge::store::Store;
use waypost_bridge::{Bridge, BridgeOptions, Running, SpaceProbe};
use waypost_broker::{Broker, ListenerOptions, ProxyProtocol};
use waypost_dispatch_api::{ApiState, Authority, Places, Transport, Trust, router, serve, serve_tls};

/// How often counts are taken in and old samples dropped, so that they do not pile up while nobody asks for them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// How long what was taken may take to be put away and answered before everybody is told goodbye all the same. With what HTTP
/// and closing connections may take, a server ends within a minute or so, whatever its disk does.
const PUT_AWAY_MAX: Duration = Duration::from_secs(10);
/// How long the store may take to finish at the end.
const FINISH_MAX: Duration = Duration::from_secs(20);
/// Bounds of every histogram in seconds.
const SECONDS_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// The sockets of a server, bound and not yet served.
pub(crate) struct Listeners {
    http: TcpListener,
    /// `None` where it is off.
    https: Option<TcpListener>,
    mqtt: MqttSide,
    addresses: Addresses,
}

/// What listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Http,
    Https,
    Mqtt,
    Mqtts,
}

impl Port {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Mqtt => "MQTT",
            Self::Mqtts => "MQTT over TLS",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Http => "--http",
            Self::Https => "--https",
            Self::Mqtt => "--mqtt",
            Self::Mqtts => "--mqtts",
        }
    }
}

/// Where devices and this server meet.
enum MqttSide {
    /// At the embedded broker.
    Here(MqttListeners),
    /// At a broker elsewhere: nothing listens here.
    Elsewhere(ExternalBroker),
}

/// The sockets of the embedded broker.
struct MqttListeners {
    plain: TcpListener,
    /// Where `plain` listens.
    listens: SocketAddr,
    /// `None` where it is off.
    tls: Option<TcpListener>,
}

/// What to do where somebody else has a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenTaken {
    /// Say so.
    Fail,
    /// Take any other port.
    TakeAnother,
}

/// A server that runs.
pub(crate) struct Server {
    /// The domain, for what a command does beside HTTP.
    pub(crate) bridge: Bridge,
    embedded: Option<Embedded>,
    running: Running,
    /// In the clear and over TLS.
    http: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Listeners {
    /// Takes the ports.
    pub(crate) async fn bind(config: &Config, taken: impl Fn(Port) -> WhenTaken) -> anyhow::Result<Self> {
        let bind = async |port, address| bind(port, address, taken(port)).await;
        let http = bind(Port::Http, config.http.listen).await?;
        let https = match config.http.tls_listen.address() {
            Some(address) => Some(bind(Port::Https, address).await?),
            None => None,
        };
        let mqtt = match &config.mqtt.broker {
            BrokerChoice::External(broker) => MqttSide::Elsewhere(broker.clone()),
            BrokerChoice::Embedded => {
                let mqtt = bind(Port::Mqtt, config.mqtt.listen).await?;
                let listens = mqtt.local_addr().context("the address of MQTT cannot be read")?;
                let tls = match config.mqtt.tls_listen.address() {
                    Some(address) => Some(bind(Port::Mqtts, address).await?),
                    None => None,
                };
                MqttSide::Here(MqttListeners {
                    plain: mqtt,
                    listens,
                    tls,
                })
            }
        };
        let addresses = Addresses {
            http: http.local_addr().context("the address of HTTP cannot be read")?,
            https: match &https {
                Some(https) => Some(
                    https
                        .local_addr()
                        .context("the address of HTTPS cannot be read")?,
                ),
                None => None,
            },
            mqtt: match &mqtt {
                MqttSide::Here(MqttListeners { listens, .. }) => listens.to_string(),
                MqttSide::Elsewhere(broker) => broker.to_string(),
            },
            mqtts: match &mqtt {
                MqttSide::Here(MqttListeners { tls: Some(tls), .. }) => {
                    let listens = tls.local_addr();
                    Some(listens.context("the address of MQTT over TLS cannot be read")?)
                }
                MqttSide::Here(_) | MqttSide::Elsewhere(_) => None,
            },
        };
        Ok(Self {
            http,
            https,
            mqtt,
            addresses,
        })
    }

    /// Where they listen, with the port that was taken.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    fn speaks_tls(&self) -> bool {
        self.addresses.https.is_some() || self.addresses.mqtts.is_some()
    }

    /// Where the embedded broker listens; `None` with one elsewhere.
    pub(crate) fn mqtt(&self) -> Option<SocketAddr> {
        match &self.mqtt {
            MqttSide::Here(mqtt) => Some(mqtt.listens),
            MqttSide::Elsewhere(_) => None,
        }
    }
}

async fn bind(port: Port, address: SocketAddr, taken: WhenTaken) -> anyhow::Result<TcpListener> {
    let (what, flag) = (port.name(), port.flag());
    match bind_of_either_kind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && taken == WhenTaken::TakeAnother => {
            eprintln!("{address} is in use; {what} takes a free port instead");
            let any = SocketAddr::new(address.ip(), 0);
            TcpListener::bind(any)
                .await
                .with_context(|| format!("{what} cannot listen on {any}"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(anyhow::anyhow!(
            "{what} cannot listen on {address}: another program has this port. Stop it, or choose another with \
             {flag} (port 0 takes any that is free)"
        )),
        Err(error) => Err(error)
            .with_context(|| format!("{what} cannot listen on {address}; choose another with {flag}")),
    }
}

/// Every address means those of IPv4 alone where there is no IPv6.
async fn bind_of_either_kind(address: SocketAddr) -> std::io::Result<TcpListener> {
    const NO_SUCH_FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    const NO_SUCH_ADDRESS: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && matches!(error.raw_os_error(), Some(NO_SUCH_FAMILY | NO_SUCH_ADDRESS)) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

impl Server {
    /// Starts everything on sockets that are bound; returns once it serves.
    pub(crate) async fn start(
        config: &Config,
        store: Arc<dyn Store>,
        token: &AdminToken,
        listeners: Listeners,
    ) -> anyhow::Result<Self> {
        // Before the broker: it registers its metrics when it is made.
        let metrics = install_metrics()?;
        let connections = config.connections().within(raise_open_files());
        warn_about_few_files(config.connections(), connections);
        let tls = if listeners.speaks_tls() {
            let tls = ServerTls::open(&config.tls_settings(), &config.server.data)?;
            tokio::spawn(tls.keep_current()?);
            Some(tls)
        } else {
            None
        };
        let mut options = config.bridge_options()?;
        let data = config.server.data.clone();
        options.space = SpaceProbe::new(move || free_bytes(&data));
        for (_, warning) in config.warnings() {
            tracing::warn!("{warning}");
        }
        warn_about_open_addresses(config, listeners.addresses.http, listeners.mqtt());
        let Listeners {
            http,
            https,
            mqtt,
            addresses,
        } = listeners;
        let trust = trust(tls.as_ref())?;
        let is_here = matches!(mqtt, MqttSide::Here(_));
        let public = mqtt.public(config, &addresses);
        let Devices {
            bridge,
            running,
            embedded,
            check,
        } = match mqtt {
            MqttSide::Here(listeners) => {
                meet_here(config, connections, listeners, tls.as_ref(), store, options)?
            }
            MqttSide::Elsewhere(external) => meet_elsewhere(config, external, store, options)?,
        };
        let (stop, stopping) = watch::channel(false);
        let mut api = ApiState::builder(bridge.clone(), &config.server.name)
            .mqtt(public)
            .server_token_hash(token.sha256())
            .transport(if config.http.behind_tls {
                Transport::TlsOfProxy
            } else {
                Transport::Plain
            })
            .check("broker", check)
            .metrics(render_metrics(metrics, embedded.as_ref()))
            .shutdown(stopping.clone());
        if let Trust::Own(authority) = &trust {
            let page = addresses
                .https
                .map_or(String::new(), |https| format!("{}ca", public::dashboard(https)));
            let fingerprint = authority.fingerprint();
            tracing::info!(
                "devices that do not trust this server yet get its authority at {page}; its SHA-256 fingerprint is {fingerprint}"
            );
            // A broker elsewhere shows a certificate of its own.
            if is_here {
                api = api.mqtt_authority(authority.clone());
            }
        }
        api = api.trust(trust);
        if let Some(https) = addresses.https {
            api = api.https(public::dashboard(https));
        }
        if let Some(Embedded { broker, .. }) = &embedded {
            let broker = broker.clone();
            api = api
                .mqtt_socket(move |socket, peer| drop(tokio::spawn(broker.serve_connection(socket, peer))));
        }
        for (name, warning) in config.warnings() {
            api = api.warning(name, warning);
        }
        let api = api.build().context("sign-in cannot be prepared")?;
        let places = Places::new(connections.http_max);
        let over_tls = api.reached_by(Transport::Tls);
        let mut serving = vec![tokio::spawn(serve(
            http,
            router(api),
            places.clone(),
            stopping.clone(),
        ))];
        if let (Some(listener), Some(tls)) = (https, tls) {
            let router = router(over_tls);
            serving.push(tokio::spawn(serve_tls(
                listener,
                tls.https(),
                router,
                places,
                stopping,
            )));
        }
        Ok(Self {
            bridge,
            embedded,
            running,
            http: serving,
            stop,
        })
    }

    /// Ready when the server cannot go on, with the reason.
    pub(crate) async fn broken(&mut self) -> anyhow::Error {
        match self.running.finished().await {
            Ok(()) => anyhow::anyhow!("the bridge has ended by itself"),
            Err(error) => anyhow::Error::new(error).context("the store has failed, so the server stops"),
        }
    }

    /// Takes nothing more, puts away and answers what was taken, tells everybody, and ends after all of it is on disk.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        if let Some(Embedded { broker, .. }) = &self.embedded {
            broker.quiesce();
        }
        // The bridge still answers the requests that are under way.
        let mut http = Ok(());
        for serving in &mut self.http {
            http = http.and(serving.await.context("HTTP ended in an unexpected way"));
        }
        if let Some(Embedded { broker, drain }) = &self.embedded {
            put_away(&self.bridge, drain).await;
            broker.shutdown().await;
            // The wills of those who were told.
            put_away(&self.bridge, drain).await;
        }
        self.bridge.stop().await;
        tokio::time::timeout(FINISH_MAX, self.running.finished())
            .await
            .context("the store has not finished in time; devices say again what it did not take")?
            .context("the store failed while the server stopped")?;
        http
    }
}

/// Has everything handled, written and answered that the broker has for the bridge; nothing more may come.
async fn put_away(bridge: &Bridge, drain: &Drain) {
    let all = async {
        drain.drained().await;
        // A bridge that has ended has reported why.
        let _ = bridge.settle().await;
    };
    if tokio::time::timeout(PUT_AWAY_MAX, all).await.is_err() {
        tracing::warn!(
            "what devices have said is not on disk after {} s, so it goes unanswered; they say it again",
            PUT_AWAY_MAX.as_secs()
        );
    }
}

impl MqttSide {
    /// What stands in credentials.
    fn public(&self, config: &Config, addresses: &Addresses) -> Vec<String> {
        match self {
            _ if !config.mqtt.public.is_empty() => config.mqtt.public.clone(),
            Self::Here(mqtt) => Listening {
                https: addresses.https,
                mqtt: mqtt.listens,
                mqtts: addresses.mqtts,
            }
            .mqtt_addresses(),
            Self::Elsewhere(broker) => vec![format!("mqtt://{broker}")],
        }
    }
}

/// What is behind HTTP, on either side.
struct Devices {
    bridge: Bridge,
    running: Running,
    embedded: Option<Embedded>,
    /// Whether devices can be reached; of `/readyz`.
    check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// The embedded broker, and what asks whether the bridge is through with what it took.
struct Embedded {
    broker: Broker,
    drain: Drain,
}

/// Starts the bridge with the embedded broker, which listens from now on.
fn meet_here(
    config: &Config,
    connections: Connections,
    listeners: MqttListeners,
    tls: Option<&ServerTls>,
    store: Arc<dyn Store>,
    options: BridgeOptions,
) -> anyhow::Result<Devices> {
    let mqtt = &config.mqtt;
    let anonymous = mqtt
        .dangerous_allow_anonymous
        .then(|| Anonymous::new(&options.topic_prefix, &mqtt.anonymous_deny));
    let admission = Admission::new(anonymous);
    let broker = Broker::new(
        config.broker_limits(connections),
        Arc::new(admission.clone()),
        Arc::new(Permissions::new(options.topic_prefix.clone(), admission.clone())),
    );
    let (link, drain) = InProcessLink::open(&broker, &options.topic_prefix, config.broker.link_limits())
        .context("the bridge cannot subscribe to what devices publish; check mqtt.topic_prefix")?;
    let (bridge, running) = Bridge::start(store, link, options).context("the store cannot be read")?;
    admission.open(bridge.access().clone());
    if let Some(every) = mqtt.sys_interval() {
        tokio::spawn(broker.clone().publish_sys(every));
    }
    let listen = |listener, tls| {
        let options = ListenerOptions {
            tls,
            proxy_protocol: if mqtt.proxy_protocol {
                ProxyProtocol::Required
            } else {
                ProxyProtocol::Off
            },
        };
        tokio::spawn(broker.clone().listen(listener, options)).abort_handle()
    };
    let mut listening = vec![listen(listeners.plain, None)];
    if let (Some(listener), Some(tls)) = (listeners.tls, tls) {
        listening.push(listen(listener, Some(tls.mqtt())));
    }
    Ok(Devices {
        bridge,
        running,
        embedded: Some(Embedded { broker, drain }),
        check: Box::new(move || {
            if listening.iter().any(AbortHandle::is_finished) {
                Err("does not listen any more".to_owned())
            } else {
                Ok(())
            }
        }),
    })
}

/// Starts the bridge with a broker elsewhere, whether or not that can be reached yet.
fn meet_elsewhere(
    config: &Config,
    broker: ExternalBroker,
    store: Arc<dyn Store>,
    options: BridgeOptions,
) -> anyhow::Result<Devices> {
    let name = broker.to_string();
    let (link, standing) = ExternalLink::open(broker, &options.topic_prefix, config.mqtt.packet_size_max())?;
    let (bridge, running) = Bridge::start(store, link, options).context("the store cannot be read")?;
    Ok(Devices {
        bridge,
        running,
        embedded: None,
        check: Box::new(move || match &*standing.borrow() {
            Standing::Stands => Ok(()),
            Standing::Down(reason) => Err(format!("there is no link to the broker at {name}: {reason}")),
        }),
    })
}

/// Renders all metrics, up to date with what the embedded broker has counted.
fn render_metrics(
    metrics: PrometheusHandle,
    embedded: Option<&Embedded>,
) -> impl Fn() -> String + Send + Sync + 'static {
    let broker = embedded.map(|embedded| embedded.broker.clone());
    move || {
        if let Some(broker) = &broker {
            broker.stats();
        }
        metrics.render()
    }
}

fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("the metrics cannot be prepared")?;
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        let mut due = tokio::time::interval(METRICS_UPKEEP);
        loop {
            due.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(metrics)
}

/// What may still be written where a folder is, without the part that the system keeps for its administrator.
fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// How devices come to trust the certificate.
fn trust(tls: Option<&ServerTls>) -> anyhow::Result<Trust> {
    Ok(match tls.map(ServerTls::authority_pem) {
        None => Trust::NoTls,
        Some(None) => Trust::FromFiles,
        Some(Some(pem)) => {
            Trust::Own(Authority::from_pem(pem).context("the authority of TLS is no certificate")?)
        }
    })
}

fn warn_about_few_files(wanted: Connections, connections: Connections) {
    if connections != wanted {
        let Connections {
            http_max, mqtt_max, ..
        } = connections;
        tracing::warn!(
            mqtt_max,
            http_max,
            "this process may open few files, so at most {mqtt_max} devices can be connected, and {http_max} connections \
             of HTTP; raise `ulimit -n`"
        );
    }
}

fn warn_about_open_addresses(config: &Config, http: SocketAddr, mqtt: Option<SocketAddr>) {
    if !http.ip().is_loopback() && !config.http.behind_tls {
        tracing::warn!(
            "HTTP listens on {http} without TLS: passwords and messages travel in the clear; leave it on loopback and use HTTPS"
        );
    }
    if let Some(mqtt) = mqtt.filter(|mqtt| !mqtt.ip().is_loopback()) {
        tracing::warn!(
            "MQTT listens on {mqtt} without TLS: secrets and messages travel in the clear; use it in a network you trust, and MQTT \
             over TLS elsewhere"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, Flags};
    use crate::listen_address::ListenAddress;

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_or_another_port() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::load(File::None, &Flags::default()).unwrap();
        config.http.listen = taken.local_addr().unwrap();
        config.mqtt.listen = "127.0.0.1:0".parse().unwrap();
        config.http.tls_listen = "127.0.0.1:0".parse().unwrap();
        config.mqtt.tls_listen = ListenAddress::Off;
        let error = Listeners::bind(&config, |_| WhenTaken::Fail)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(&config.http.listen.to_string()) && error.contains("--http"),
            "{error}"
        );
        let may_move = |movable| {
            move |port| {
                if port == movable {
                    WhenTaken::TakeAnother
                } else {
                    WhenTaken::Fail
                }
            }
        };
        let listeners = Listeners::bind(&config, may_move(Port::Http)).await.unwrap();
        assert_ne!(listeners.addresses().http.port(), config.http.listen.port());
        assert_eq!(listeners.addresses().mqtts, None);

        config.http.tls_listen = ListenAddress::At(config.http.listen);
        config.http.listen = "127.0.0.1:0".parse().unwrap();
        let error = Listeners::bind(&config, may_move(Port::Http))
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("--https"), "{error}");
        let listeners = Listeners::bind(&config, may_move(Port::Https)).await.unwrap();
        assert_ne!(listeners.addresses().https.unwrap(), taken.local_addr().unwrap());
    }
}
