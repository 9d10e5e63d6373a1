//! The clocks of the devices, as their frames tell them.

use super::{Core, Now};
use crate::clock::{ClockEstimate, Knot};
use crate::entry::Moment;
use crate::store::Change;
use waypost_proto::{DeviceId, Stamp, wire};

/// A smaller step of the server's wall clock is what its system corrects by the way.
const SET_BY_MS_MIN: i64 = 1_000;

impl Core {
    /// Notices where the server's wall clock was set: what is known of the devices' clocks is told in the new time.
    pub(super) fn read_clocks(&mut self, now: Now) {
        let Some(before) = self.clocks_read.replace(now) else {
            return;
        };
        let passed = now.monotonic.saturating_duration_since(before.monotonic);
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let set_by_ms = now
            .wall_ms
            .saturating_sub(before.wall_ms)
            .saturating_sub(passed_ms);
        if set_by_ms.saturating_abs() >= SET_BY_MS_MIN {
            for clock in self.clocks.values_mut() {
                clock.server_was_set(set_by_ms);
            }
        }
    }

    /// The hello of a session that begins, which is to be written.
    pub(super) fn hear_hello(&mut self, device: DeviceId, hello: &wire::Hello, now: Now) {
        let knot = Knot {
            steady_ms: i64::try_from(hello.uptime_ms).unwrap_or(i64::MAX),
            server_ms: now.wall_ms,
        };
        match self.clocks.get_mut(&device) {
            Some(clock) => clock.hello(hello.boot, knot),
            None => {
                self.clocks.insert(device, ClockEstimate::new(hello.boot, knot));
            }
        }
        self.put_clock(device);
    }

    /// A frame of the session, if it has a time.
    pub(super) fn hear_stamp(&mut self, device: DeviceId, stamp: Stamp, frame: &wire::UpFrame, now: Now) {
        let timed = !frame.ops.is_empty() || !frame.cursors.is_empty();
        if let (Some(session), Some(clock)) = (self.sessions.get(&device), self.clocks.get_mut(&device))
            && timed
            && frame.hello.is_none()
        {
            clock.hear(Knot {
                steady_ms: session.steady_ms(stamp, 0),
                server_ms: now.wall_ms,
            });
        }
    }

    /// What the server's clock showed at a reading of the device's steady clock.
    pub(super) fn on_server(&self, device: DeviceId, steady_ms: i64) -> Option<i64> {
        Some(self.clocks.get(&device)?.server_ms(steady_ms))
    }

    /// Now, by the clock of a device in session as well.
    pub(super) fn moment_of_sending(&self, device: DeviceId, now: Now) -> Moment {
        let (Some(session), Some(clock)) = (self.sessions.get(&device), self.clocks.get(&device)) else {
            return Moment::server(now.wall_ms);
        };
        let since_hello_ms = clock
            .steady_ms(now.wall_ms)
            .saturating_sub(session.hello_steady_ms);
        let device_ms = session.hello_ms.saturating_add(since_hello_ms);
        Moment {
            device_ms: Some(device_ms),
            server_ms: now.wall_ms,
            offset_ms: Some(now.wall_ms.saturating_sub(device_ms)),
        }
    }

    pub(super) fn put_clock(&mut self, device: DeviceId) {
        if let Some(clock) = self.clocks.get(&device) {
            self.changes.push(Change::PutClock(device, clock.clone()));
        }
    }
}
