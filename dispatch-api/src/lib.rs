//! HTTP and server-sent events for people and systems, and the two web apps.
//!
//! [`router`] makes everything that is served from an [`ApiState`]: the interface under `/api/v1`, `/healthz`,
//! `/readyz`, `/metrics`, and the dashboard at `/`. [`serve`] and [`serve_tls`] listen with it.
//!
//! ```no_run
//! # async fn start(bridge: waypost_bridge::Bridge) -> Result<(), Box<dyn std::error::Error>> {
//! use waypost_dispatch_api::{ApiState, Places, router, serve};
//!
//! let (stop, stopping) = tokio::sync::watch::channel(false);
//! let state = ApiState::builder(bridge, "waypost.example")
//!     .mqtt(["mqtt://waypost.example:1883"])
//!     .shutdown(stopping.clone())
//!     .build()?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! tokio::spawn(serve(listener, router(state), Places::new(1_024), stopping));
//! // … and at the end:
//! stop.send(true)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Shape
//!
//! Each resource has a file with its handlers and the JSON twins of the bridge's types; `routes.rs` is the one table
//! of what is served and who may call it. Whatever is refused is a problem document whose `type` is one of
//! [`ProblemType`].
//!
//! # The rule
//!
//! This crate decides who may ask and how it is written, nothing else: every promise about what is kept is the
//! bridge's, and an answer that says "done" is given after the bridge has said so.

mod access;
mod audit;
mod authority;
mod backup;
mod bodies;
mod broadcasts;
mod cloud_event;
mod credentials;
mod cursor;
mod devices;
mod entries;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod groups;
mod headers;
mod health;
mod idempotency;
mod json;
mod keys;
mod language;
mod members;
mod mqtt_socket;
mod observe;
mod openapi;
mod origin;
mod owntracks;
mod page;
mod password;
mod people;
mod positions;
mod problem;
mod query;
mod receipts;
mod routes;
mod secret;
mod server;
mod session;
mod sign_in_limit;
mod state;
mod streams;
mod templates;
mod timestamp;
mod traccar;
mod track;
mod web;
mod websocket;

#[cfg(test)]
mod tests;

pub use authority::{Authority, Trust};
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::fuzz_bodies;
pub use mqtt_socket::MqttSocket;
pub use password::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN, PasswordError, hash_password};
pub use problem::ProblemType;
pub use routes::router;
pub use server::{Places, serve, serve_tls};
pub use state::{ApiState, ApiStateBuilder, Transport};
