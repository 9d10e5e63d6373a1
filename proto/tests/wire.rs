//! The wire against its promises: golden vectors that every language runs, and the bytes of the size table.

mod sizes;
mod vectors;
