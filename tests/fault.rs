//! Runs a test again with a deliberate fault: a test that guards a promise has to fail when the promise is broken.

use std::process::Command;

/// # Panics
/// When the test passes in spite of the fault.
pub(crate) fn must_fail(fault: &str, test: &str) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this)
        .args(["--exact", test])
        .env("WAYPOST_FAULT", fault)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("running 1 test"),
        "no test is called {test}:\n{said}"
    );
    assert!(
        !output.status.success(),
        "{test} does not notice the fault {fault}:\n{said}"
    );
}
