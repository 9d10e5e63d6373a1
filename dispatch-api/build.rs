//! Makes cargo notice a new build of the web pages, which are embedded when this crate is compiled.

use std::path::Path;

fn main() {
    // Cargo takes a path that is missing for one that has changed, and would compile this crate anew each time. So,
    // while the pages have not been built, it watches for the folder to appear.
    let watched = if Path::new("web/dist").is_dir() {
        "web/dist"
    } else {
        "web"
    };
    println!("cargo::rerun-if-changed={watched}");
    println!("cargo::rerun-if-changed=build.rs");
}
