//! Deliberate faults, chosen by the environment variable `WAYPOST_FAULT`, each at the very line it breaks. A test that
//! guards a promise must fail with the fault that breaks it.

use std::sync::OnceLock;

/// Whether the fault of this name is switched on.
pub(crate) fn is(name: &str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| std::env::var("WAYPOST_FAULT").ok())
        .as_deref()
        == Some(name)
}
