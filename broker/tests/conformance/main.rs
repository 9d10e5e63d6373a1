//! Every normative clause of MQTT 5 and 3.1.1, on the wire.
//!
//! `mqtt5.md` and `mqtt311.md` are the tables: each clause once, and the tests that keep it or why there is none; `table.rs` holds
//! them to that. The tests stand in files by what they are about, and speak to a whole broker over streams in memory, in bytes
//! that are made by hand (`wire.rs`), through a client that checks all that it hears (`client.rs`).

// `allow-unwrap-in-tests` knows test functions, not what they share.
#![allow(clippy::unwrap_used)]

mod aliases;
mod client;
mod connect;
mod disconnect;
mod encoding;
mod expiry;
mod flow_control;
mod keep_alive;
mod ordering;
mod packet_size;
mod properties;
mod publish;
mod qos2;
mod retained;
mod sessions;
mod shared;
mod subscribe;
mod table;
mod topics;
mod unsubscribe;
mod will;
mod will_delay;
mod wire;
