//! What the handlers share: the bridge, the settings, and the hooks by which the binary tells about itself.

use crate::authority::{Authority, Trust};
use crate::health::Check;
use crate::mqtt_socket::{HandOver, MqttSocket};
use crate::password::{PasswordError, Passwords};
use crate::sign_in_limit::SignInLimit;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use waypost_bridge::Bridge;

/// What the handlers share; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) transport: Transport,
}

/// How requests reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// In the clear: for loopback, and for a network that is trusted.
    #[default]
    Plain,
    /// Over TLS, spoken by this server: cookies are marked `Secure`.
    Tls,
    /// Through a proxy before this server that speaks TLS: cookies are marked `Secure`, and a client's address is the
    /// last hop of `X-Forwarded-For`.
    TlsOfProxy,
}

pub(crate) struct Shared {
    pub(crate) source: String,
    pub(crate) mqtt: Vec<String>,
    pub(crate) mqtt_authority: Option<Authority>,
    pub(crate) https: Option<String>,
    pub(crate) trust: Trust,
    pub(crate) server_token_hash: Option<[u8; 32]>,
    pub(crate) passwords: Passwords,
    pub(crate) sign_in_limit: SignInLimit,
    pub(crate) checks: Vec<Check>,
    pub(crate) warnings: Vec<(&'static str, &'static str)>,
    pub(crate) metrics: Option<Box<Render>>,
    pub(crate) shutdown: Option<watch::Receiver<bool>>,
    pub(crate) mqtt_socket: Option<Box<HandOver>>,
    bridge: Bridge,
}

/// Renders all metrics as Prometheus text.
type Render = dyn Fn() -> String + Send + Sync;

impl ApiState {
    /// Begins a state. `source` is the server's name, as it stands in the `source` of every event.
    pub fn builder(bridge: Bridge, source: impl Into<String>) -> ApiStateBuilder {
        ApiStateBuilder {
            bridge,
            source: source.into(),
            mqtt: Vec::new(),
            mqtt_authority: None,
            https: None,
            trust: Trust::default(),
            server_token_hash: None,
            transport: Transport::default(),
            checks: Vec::new(),
            warnings: Vec::new(),
            metrics: None,
            shutdown: None,
            mqtt_socket: None,
        }
    }

    /// The same state for a listener of another kind; one server may have both.
    #[must_use]
    pub fn reached_by(&self, transport: Transport) -> Self {
        Self {
            shared: self.shared.clone(),
            transport,
        }
    }

    pub(crate) fn bridge(&self) -> &Bridge {
        &self.shared.bridge
    }
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState")
            .field("source", &self.shared.source)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// Makes an [`ApiState`]; see [`ApiState::builder`]. Everything that is not set has a default that works.
#[must_use]
pub struct ApiStateBuilder {
    bridge: Bridge,
    source: String,
    mqtt: Vec<String>,
    mqtt_authority: Option<Authority>,
    https: Option<String>,
    trust: Trust,
    server_token_hash: Option<[u8; 32]>,
    transport: Transport,
    checks: Vec<Check>,
    warnings: Vec<(&'static str, &'static str)>,
    metrics: Option<Box<Render>>,
    shutdown: Option<watch::Receiver<bool>>,
    mqtt_socket: Option<Box<HandOver>>,
}

impl ApiStateBuilder {
    /// Where devices reach the broker, best first, such as `mqtt://waypost.example:1883`: what stands in the
    /// credentials of a device. None by default.
    pub fn mqtt(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.mqtt = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// The authority that has signed the certificate at those addresses, for the credentials of a device: it trusts no other
    /// there. By default one of those that a device knows.
    pub fn mqtt_authority(mut self, authority: Authority) -> Self {
        self.mqtt_authority = Some(authority);
        self
    }

    /// Where browsers reach this server over TLS, such as `https://waypost.example:8443/`. Nowhere by default.
    pub fn https(mut self, address: impl Into<String>) -> Self {
        self.https = Some(address.into());
        self
    }

    /// How a device comes to trust this server, which is what `/ca` says. By default the server does not speak TLS.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// SHA-256 of the server's own token (`admin.token`), which may do what an administrator may but is nobody. It
    /// must be at least 128 random bits: the hash is a fast one. Without it there is no such token.
    pub fn server_token_hash(mut self, sha256: [u8; 32]) -> Self {
        self.server_token_hash = Some(sha256);
        self
    }

    /// How requests reach this server; in the clear by default.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Adds a check to `/readyz`, which anybody may read: `Err` is a short reason without secrets. It is called for
    /// each request and must not block.
    pub fn check(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Check {
            name,
            check: Box::new(check),
        });
        self
    }

    /// Says in `/readyz` what is risky and meant to be so; the server is no less ready for it.
    pub fn warning(mut self, name: &'static str, warning: &'static str) -> Self {
        self.warnings.push((name, warning));
        self
    }

    /// What `/metrics` answers with: all metrics as Prometheus text. Without it the path answers 404.
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Box::new(render));
        self
    }

    /// Ends the streams of events once it is true or its sender is gone. Without it they end with their clients.
    pub fn shutdown(mut self, shutdown: watch::Receiver<bool>) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// What takes over the sockets of `GET /mqtt`, each with the address that it came from; it is called on the runtime and
    /// must not wait. Without it the path answers 404.
    pub fn mqtt_socket(mut self, hand_over: impl Fn(MqttSocket, SocketAddr) + Send + Sync + 'static) -> Self {
        self.mqtt_socket = Some(Box::new(hand_over));
        self
    }

    /// The state. Takes as long as one sign-in: it hashes a password that nobody has, so that an unknown address
    /// costs what a wrong password costs.
    ///
    /// # Errors
    /// [`PasswordError::Hash`] where the system has no random numbers or no memory to spare.
    pub fn build(self) -> Result<ApiState, PasswordError> {
        let shared = Shared {
            source: self.source,
            mqtt: self.mqtt,
            mqtt_authority: self.mqtt_authority,
            https: self.https,
            trust: self.trust,
            server_token_hash: self.server_token_hash,
            passwords: Passwords::new()?,
            sign_in_limit: SignInLimit::default(),
            checks: self.checks,
            warnings: self.warnings,
            metrics: self.metrics,
            shutdown: self.shutdown,
            mqtt_socket: self.mqtt_socket,
            bridge: self.bridge,
        };
        Ok(ApiState {
            shared: Arc::new(shared),
            transport: self.transport,
        })
    }
}

impl std::fmt::Debug for ApiStateBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiStateBuilder")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
