//! The domain of Waypost: devices and people, the streams they share, the positions of the fleet and the log of
//! what happened, kept in a store and spoken to devices through a broker.
//!
//! * [`core`] decides: exactly-once, numbering, membership, repetition. It does no IO; a store write is one of its
//!   outputs, the completion of that write one of its inputs.
//! * [`store`] keeps: one trait at the level of the domain, one conformance suite, engines under a smaller trait.
//! * [`Bridge`] is the thin rim around both: one task owns the core, one thread writes, and whoever calls is
//!   answered after the write that holds the effect has reached the disk.
//!
//! The one rule: nothing is acknowledged, shown or sent before it is durable. What the bridge needs from a broker
//! is the small trait [`link::BrokerLink`]; HTTP and browsers are other people's business.

pub mod audit;
pub mod broadcast;
pub mod clock;
pub mod core;
pub mod device;
pub mod entry;
pub mod event;
pub mod group;
pub mod key;
pub mod link;
pub mod once;
pub mod owntracks;
pub mod person;
pub mod position;
pub mod store;
pub mod stream;
pub mod template;

mod access;
#[cfg(feature = "fault-injection")]
mod fault;
mod service;
mod writer;

pub use access::DeviceAccess;
pub use service::{Bridge, BridgeError, BridgeOptions, Export, Running, SpaceProbe};

#[cfg(all(feature = "fault-injection", not(debug_assertions)))]
compile_error!("fault-injection breaks promises on purpose and must not be in a release build");
