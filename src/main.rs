//! The binary of Waypost: subcommands, settings, wiring, shutdown and the log.
//!
//! What a command prints for its caller goes to standard output; errors and the log go to standard error. The exit
//! status is 0, 1 for an error, 2 for wrong usage, or 3 for a server whose data another one has taken over.

mod archive;
mod broker_choice;
mod command;
mod config;
mod data_folder;
mod limits;
mod listen_address;
mod output;
mod secret;
mod server_client;
mod telemetry;
mod timestamp;
mod tls;
mod trace;
mod wiring;

use clap::Parser;
use command::Command;
use output::Format;
use std::process::ExitCode;

/// A field-operations messenger for fleets on poor networks.
#[derive(Parser)]
#[command(name = "waypost", version, propagate_version = true, max_term_width = 110)]
struct CommandLine {
    /// Print one JSON object, or one a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let CommandLine { json, command } = CommandLine::parse();
    let format = if json { Format::Json } else { Format::Human };
    match command.run(format) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has had enough, as in `waypost driver … listen | head -1`.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn commands_are_spelled_as_documented() {
        for line in [
            "waypost serve --config waypost.toml --data d --http 127.0.0.1:0 --mqtt 127.0.0.1:0 --json",
            "waypost serve --https [::]:8443 --mqtts 0.0.0.0:8883",
            "waypost serve --https= --mqtts=",
            "waypost demo --vehicles 3 --speed 2 --data d",
            "waypost device add truck-17 --driver Ada --locale de --out f --data d",
            "waypost device list --server http://127.0.0.1:8080 --token t --json",
            "waypost device rotate 7c --out f",
            "waypost device list --server https://waypost.example:8443 --token t --ca ca.pem",
            "waypost device revoke 7c",
            "waypost driver --as f send Hello",
            "waypost driver --as f --state d send --to 4711 Hello --urgent --wait 10s --json",
            "waypost driver --as f reply on_my_way",
            "waypost driver --as f reply --to 4711 --reply-to 3 late minutes=15 why=a=b --urgent --wait 10s --json",
            "waypost driver --as f listen --for 30s --json",
            "waypost driver --as f replay t.csv.gz --trace nds-02 --speed 10 --wait 1m",
            "waypost driver --as f replay t.csv --as-recorded",
            "waypost driver --as f status",
            "waypost backup --to b --data d --keep 7 --json",
            "waypost backup --to b --server http://127.0.0.1:8080 --token t",
            "waypost restore --from b --check",
            "waypost restore --from b --at 2026-11-24T13:45:12Z --data d --engine sled --json",
            "waypost store copy --from d --to-engine sled",
            "waypost store copy --from d --from-engine sled --to e --to-engine fjall --json",
            "waypost check-config --config waypost.toml",
        ] {
            CommandLine::try_parse_from(line.split(' '))
                .map(drop)
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "waypost",
            "waypost dance",
            "waypost driver send Hello",
            "waypost driver --as f send --to first Hello",
            "waypost driver --as f reply",
            "waypost driver --as f reply late 15",
            "waypost driver --as f replay t.csv --speed 0",
            "waypost driver --as f replay t.csv --speed 2 --as-recorded",
            "waypost device list --server http://127.0.0.1:8080 --data d",
            "waypost device list --data d --ca ca.pem",
            "waypost serve --https 8443",
            "waypost device rotate 7C",
            "waypost demo --vehicles 0",
            "waypost store copy --from d",
            "waypost store copy --from d --to-engine rocksdb",
        ] {
            let error = CommandLine::try_parse_from(line.split(' ')).err();
            let error = error.unwrap_or_else(|| panic!("{line} must not be accepted"));
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
