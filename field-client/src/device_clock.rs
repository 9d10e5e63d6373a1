//! The clocks of the device: they are read here and nowhere else.
//!
//! The steady clock is the one that goes on while the device sleeps: CLOCK_BOOTTIME on Linux and Android, and with it the id
//! of the boot, so that a later process of the same boot can say how long ago something was done whatever the wall clock
//! did. Elsewhere it is `std::time::Instant`, which counts within this process only, and on macOS stands still in sleep.

use crate::core::{Boot, Now, Steady};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The present.
pub(crate) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let steady = steady();
    Now {
        mono: steady_now(steady),
        wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
        steady,
    }
}

/// The steady clock of this process.
fn steady() -> Steady {
    static STEADY: OnceLock<Steady> = OnceLock::new();
    *STEADY.get_or_init(|| Steady {
        boot: boot(),
        origin: Instant::now(),
        origin_ms: u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod boot_time {
    use crate::core::{Boot, Steady};
    use rustix::time::{ClockId, clock_gettime};
    use sha2::{Digest, Sha256};
    use std::time::{Duration, Instant};

    /// Time since the device was started, with the time that it slept.
    pub(super) fn since_boot() -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
    }

    pub(super) fn steady_now(steady: Steady) -> Instant {
        steady.origin + since_boot().saturating_sub(Duration::from_millis(steady.origin_ms))
    }

    /// The first bytes of a digest of the system's own id of this boot.
    pub(super) fn boot() -> Boot {
        let Ok(id) = std::fs::read("/proc/sys/kernel/random/boot_id") else {
            return super::boot_of_this_process();
        };
        let digest = Sha256::digest(id);
        Boot::new(u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}
#[cfg(any(target_os = "linux", target_os = "android"))]
use boot_time::{boot, since_boot, steady_now};

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod process_time {
    use crate::core::{Boot, Steady};
    use std::time::{Duration, Instant};

    pub(super) fn since_boot() -> Duration {
        Duration::ZERO
    }

    pub(super) fn steady_now(_: Steady) -> Instant {
        Instant::now()
    }

    pub(super) fn boot() -> Boot {
        super::boot_of_this_process()
    }
}
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use process_time::{boot, since_boot, steady_now};

/// Where nothing names the boot, each process counts for one.
fn boot_of_this_process() -> Boot {
    // Without randomness all processes look like one boot, and readings of one are taken for those of another.
    Boot::new(getrandom::u32().unwrap_or(std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_clock_runs_and_its_boot_stays() {
        let (first, second) = (now(), now());
        assert!(second.mono >= first.mono);
        assert_eq!(first.steady, second.steady);
        assert!(second.reading().ms >= first.reading().ms);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn readings_count_from_the_start_of_the_device() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let reading = now().reading();
        assert!(
            reading.ms as f64 / 1_000.0 >= seconds - 0.02,
            "{reading:?} {seconds}"
        );
    }
}
