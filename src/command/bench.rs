//! `waypost bench`: what the parts of Waypost cost, measured.

mod air;

use crate::output::Format;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What positions cost over the air, and how right they are: recorded drives through the real device and server
    Air(air::Arguments),
}

pub(crate) fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    match arguments.what {
        What::Air(arguments) => air::run(&arguments, format),
    }
}
