//! The offline-first client for devices: a durable outbox and inbox, a sync core without IO, and its connection loop.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use waypost_field_client::{Client, Credentials, Message, Options, Outcome};
//!
//! let credentials = Credentials::read("truck-17.json")?;
//! let client = Client::open(credentials, "truck-17.json.state", Options::default()).await?;
//! let posted = client.post_text(Message::to_office("At the gate")).await?; // on the device's disk now
//! match client.wait_accepted(&posted, Duration::from_secs(10)).await? {
//!     Outcome::Accepted { seq, .. } => println!("on the server's disk as {seq:?}"),
//!     Outcome::StillStored => println!("will be sent"),
//!     Outcome::Refused(reason) => println!("given up: {reason}"),
//! }
//! # Ok(()) }
//! ```
//!
//! - [`Client`]: the handle an app holds. Behind it one task drives the core, one thread writes the store.
//! - [`Driver`](handover::Driver): the same from several processes on one state folder, of which one holds it.
//! - `core/`: the protocol as plain values. Store writes are its outputs, their completion its inputs: nothing is
//!   sent, reported, shown or acknowledged before the write that holds it has reached the disk.
//! - `store`: outbox and inbox in redb. `connection`: MQTT 5 or 3.1.1 on any byte stream. `tls`: whom the device trusts.
//!
//! **What is promised.** An operation is stored before `post_text` returns, and accepted by the server exactly once,
//! in the order of its stream and class. An entry stands in the inbox exactly once, under its stream and seq; it is
//! offered to the screen at least once: one that was not confirmed before a crash is offered again, and a consumer
//! tells it by stream and seq.

#[cfg(all(feature = "fault-injection", not(debug_assertions)))]
compile_error!("fault-injection breaks promises on purpose; a release build must not have it");

mod captive;
mod catalogue;
mod client;
mod connection;
mod core;
mod credentials;
mod device_clock;
mod dial;
mod earlier;
mod engine;
mod entry;
mod fault;
mod group;
#[cfg(unix)]
pub mod handover;
mod incoming;
mod link;
mod network;
mod options;
mod packet;
mod race;
mod status;
mod store;
mod tls;
#[doc(hidden)]
pub mod virtual_device;
mod websocket;
mod writer;

pub use catalogue::{BadReply, Catalogue, ReplyWords};
pub use client::{
    Client, ClientError, Message, OpenError, Outcome, PostError, Posted, Refused, ReplyMessage, Urgency,
};
pub use core::{History, Policy, PostId};
pub use credentials::{Authority, Credentials, CredentialsError, Scheme, Secret, ServerAddress};
pub use earlier::EarlierError;
pub use entry::{Entry, Standing};
pub use group::Group;
pub use incoming::{Entries, Incoming};
pub use network::NetworkName;
pub use options::{InvalidOption, LinkAtStart, Options};
pub use status::{Counters, LinkState, OutboxBounds, Parked, Status};
pub use store::StoreError;
