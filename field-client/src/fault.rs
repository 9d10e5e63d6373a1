//! Deliberate faults: they let a test show that it would notice.
//!
//! Compiled in with the feature `fault-injection` alone, and then switched on by the environment variable
//! `WAYPOST_FAULT`, which is read once.

use std::sync::OnceLock;

/// One line that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `client-dedupe`: an entry that is received again is shown again.
    Dedupe,
    /// `client-sync`: a write counts as durable before it is.
    Sync,
}

/// Whether `fault` is switched on; always false without the feature.
pub(crate) fn injected(fault: Fault) -> bool {
    static CHOSEN: OnceLock<Option<Fault>> = OnceLock::new();
    cfg!(feature = "fault-injection")
        && *CHOSEN.get_or_init(|| match std::env::var("WAYPOST_FAULT").as_deref() {
            Ok("client-dedupe") => Some(Fault::Dedupe),
            Ok("client-sync") => Some(Fault::Sync),
            _ => None,
        }) == Some(fault)
}
