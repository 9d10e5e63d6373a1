//! How many files this process may open, and who may have them: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are no connections: the store (128 files of data, its journals and locks), the terminal, the runtime, and
/// whatever is taken only to be turned away.
const OTHER_FILES: usize = 256;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connections {
    /// Of HTTP.
    pub(crate) http_max: usize,
    /// Clients of the broker.
    pub(crate) mqtt_max: usize,
    /// Clients that have not finished their CONNECT; as many again may be on their way out.
    pub(crate) mqtt_handshakes_max: usize,
}

impl Connections {
    /// As many of these as fit into `files_max` open files, with a reserve for everything else: 256 files, or half of them
    /// where there are fewer than 512. `None` where there is no limit.
    pub(crate) fn within(self, files_max: Option<u64>) -> Self {
        let Some(files_max) = files_max else {
            return self;
        };
        let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
        let room = files_max.saturating_sub(OTHER_FILES).max(files_max / 2);
        let http_max = self.http_max.min(room / 4).max(1);
        let room = room.saturating_sub(http_max);
        let mqtt_handshakes_max = self.mqtt_handshakes_max.min(room / 10).max(1);
        let mqtt_max = self
            .mqtt_max
            .min(room.saturating_sub(2 * mqtt_handshakes_max))
            .max(1);
        Self {
            http_max,
            mqtt_max,
            mqtt_handshakes_max,
        }
    }
}

/// Raises the limit of open files as far as the system lets us, and returns it; `None` for no limit.
pub(crate) fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        Ok(()) => maximum,
        // What there is will have to do; the bounds of both listeners follow it.
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Connections = Connections {
        http_max: 1_024,
        mqtt_max: 10_000,
        mqtt_handshakes_max: 1_000,
    };

    #[test]
    fn with_files_enough_there_are_as_many_connections_as_are_wanted() {
        for files_max in [Some(1_048_576), Some(20_000), None] {
            assert_eq!(WANTED.within(files_max), WANTED, "{files_max:?}");
        }
    }

    #[test]
    fn however_few_files_there_are_a_reserve_is_kept() {
        for files_max in (64..20_000).step_by(7) {
            let Connections {
                http_max,
                mqtt_max,
                mqtt_handshakes_max,
            } = WANTED.within(Some(files_max));
            let files_max = usize::try_from(files_max).unwrap();
            let held = http_max + mqtt_max + 2 * mqtt_handshakes_max;
            let reserve = OTHER_FILES.min(files_max / 2);
            assert!(held + reserve <= files_max, "{files_max}: {held}");
            // And what can be given is given.
            assert!(mqtt_max >= files_max / 5, "{files_max}: {mqtt_max}");
        }
    }
}
