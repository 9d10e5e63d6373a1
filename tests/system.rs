//! Whole-system tests. One binary, so that everything is linked once.

mod durability;
#[cfg(feature = "fault-injection")]
mod fault;
mod tidy;
