//! Whole-system tests, and the rules of the repository. One binary, so that everything is linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod anonymous;
mod browser;
mod chatter;
mod durability;
mod expiry;
mod external_broker;
#[cfg(feature = "fault-injection")]
mod fault;
mod groups;
mod history;
mod https;
mod kill;
mod mosquitto;
mod mqtt_clients;
mod office;
mod open_files;
mod owners;
mod owntracks;
mod proxy;
mod raw_mqtt;
mod restore;
mod round_trip;
mod server;
mod shutdown;
mod space;
mod store_copy;
mod tidy;
mod tls;
