//! The wire against its promises: golden vectors that every language runs, and the bytes of the size table.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod sizes;
mod tracks;
mod vectors;
