//! Compiles the `.proto` files with protox, so that nobody has to install protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["waypost/v1/frame.proto"], ["proto"])?;
    prost_build::Config::new().skip_protoc_run().compile_fds(files)?;
    Ok(())
}
