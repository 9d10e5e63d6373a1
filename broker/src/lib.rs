//! An embeddable MQTT 5 and 3.1.1 broker: a core without IO and a thin rim of listeners around it.
//!
//! The protocol lives in `core/`: plain values in, plain values out, no clock, no socket, no task. The rim
//! ([`Broker`]) reads bytes, takes one lock for a batch of packets, and writes what the core left for each
//! connection. Who may connect, publish and subscribe is the embedder's decision, through [`Authenticate`] and
//! [`Authorise`]; what may pile up is bounded by [`Limits`], and every bound answers with a typed [`Reason`] and a
//! counter.
//!
//! The one rule: nothing is dropped in silence. A packet is processed, refused with a reason that reaches its sender,
//! or ends the connection that sent it; a receiver that cannot keep up is disconnected with a reason.
//!
//! Sessions live as long as their connection, or longer where the client asks for it, within [`Limits::session_expiry_max`];
//! they are kept in memory and end with the process. A publish of QoS 1 or 2 is acknowledged once it is routed in memory; what
//! has to survive a crash is the business of those who publish and subscribe.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use waypost_broker::{
//!     Authenticate, Authorise, Broker, ConnectAttempt, LinkEvent, LinkLimits, Limits, Principal, QoS, Reason, Retain,
//!     Verdict, filter,
//! };
//!
//! struct Fleet;
//!
//! impl Authenticate for Fleet {
//!     fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, waypost_broker::Refusal> {
//!         match (attempt.username, attempt.password) {
//!             (Some(name), Some(b"secret")) => Ok(Principal::new(name, attempt.client_id)),
//!             _ => Err(waypost_broker::Refusal::BadCredentials),
//!         }
//!     }
//! }
//!
//! impl Authorise for Fleet {
//!     fn may_publish(&self, who: &Principal, topic: &str, retain: Retain) -> Verdict {
//!         Verdict::allow_if(topic == format!("u/{}", who.name) && retain == Retain::No)
//!     }
//!     fn may_subscribe(&self, who: &Principal, requested: &str) -> Verdict {
//!         Verdict::allow_if(filter::contains(&format!("d/{}", who.name), requested))
//!     }
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let fleet = Arc::new(Fleet);
//! let broker = Broker::new(Limits::default(), fleet.clone(), fleet);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:1883").await?;
//! tokio::spawn(broker.clone().listen_tcp(listener));
//!
//! let (to_devices, mut from_devices) = broker.link("bridge", LinkLimits::default());
//! to_devices.subscribe("u/+", QoS::AtLeastOnce).expect("the filter is well formed");
//! while let Some(event) = from_devices.recv().await {
//!     if let LinkEvent::Message { from, payload, .. } = event {
//!         // Never waits for a slow member, and says how many sessions it was routed to.
//!         let _ = to_devices.publish(&format!("d/{from}"), payload, QoS::AtLeastOnce, Retain::No);
//!     }
//! }
//! broker.disconnect(|who| who.name.as_ref() == "7", Reason::Administrative);
//! broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! TLS and the PROXY protocol are options of a listener: see [`ListenerOptions`]. A byte stream from elsewhere, such as an
//! upgraded WebSocket, is handed over with [`Broker::serve_connection`].
//!
//! # Metrics
//!
//! Through the `metrics` facade, at most a quarter of a second behind while something happens, and up to date after
//! [`Broker::stats`]:
//!
//! | metric | what |
//! |---|---|
//! | `waypost_broker_connections` | gauge: clients that are connected |
//! | `waypost_broker_listener_connections{listener}`, `waypost_broker_listener_connects_total{listener}` | gauge and counter of them by the way that they came: `tcp`, `tls`, or `handed` over with [`Broker::serve_connection`] |
//! | `waypost_broker_sessions{state}` | gauge: sessions, `live` (with a connection) and `detached` |
//! | `waypost_broker_subscriptions` | gauge: subscriptions of sessions and links |
//! | `waypost_broker_queued_messages`, `waypost_broker_queued_bytes` | gauges: what waits for sessions, with what is not acknowledged |
//! | `waypost_broker_detached_bytes` | gauge: the part of it that waits for detached sessions |
//! | `waypost_broker_inflight_messages` | gauge: sent and not acknowledged to the end |
//! | `waypost_broker_link_queued_bytes` | gauge: what waits for links |
//! | `waypost_broker_retained_messages`, `waypost_broker_retained_bytes` | gauges: what is retained, `$SYS` left out |
//! | `waypost_broker_connects_total` | counter: CONNECTs that were accepted |
//! | `waypost_broker_messages_received_total` | counter: messages taken from clients and links |
//! | `waypost_broker_messages_delivered_total` | counter: messages handed to connections and links |
//! | `waypost_broker_received_bytes_total`, `waypost_broker_sent_bytes_total` | counters: MQTT on all connections, without TLS |
//! | `waypost_broker_reasons_total{reason}` | counter: refusals, ended connections and dropped messages, by [`Reason::label`] |
//! | `waypost_broker_delivery_seconds{to}` | from when a message was taken to when it is on its way to a connected `client`, or taken by a `link`; told as `_bucket{le}`, `_count` and `_sum`, as Prometheus keeps a histogram |
//! | `waypost_broker_accept_errors_total` | counter: a listener could not accept |
//!
//! The log says of each connection in a span `connection` who is at the other end: `peer`, the `listener`, and `client.id` and `principal` once
//! they are known. It has no topics and no payloads.
//!
//! Whoever would rather ask by MQTT: [`Broker::publish_sys`].

mod auth;
mod broker;
mod clock;
mod connection;
mod core;
pub mod filter;
mod front;
mod limits;
mod link;
mod listener;
mod peer;
mod proxy_protocol;
mod rate;
mod reason;
mod signal;
mod span;
mod stats;
mod sys;
mod telemetry;
mod traffic;
mod via;

/// Runs the whole path of a packet with the history that these bytes are; for the fuzz target.
///
/// # Panics
/// When something that must hold does not.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn fuzz_packets(input: &[u8]) {
    core::fuzzing::drive(input, std::time::Instant::now());
}

pub use crate::auth::{
    AllowList, Authenticate, Authorise, ConnectAttempt, Principal, Refusal, Retain, Verdict,
};
pub use crate::broker::Broker;
pub use crate::core::message::QoS;
pub use crate::limits::{Limits, LinkLimits};
pub use crate::link::{LinkError, LinkEvent, LinkReceiver, LinkSender};
pub use crate::listener::{ListenerOptions, ProxyProtocol};
pub use crate::peer::Peer;
pub use crate::reason::Reason;
pub use crate::stats::Stats;
