//! Positions that come in a track or from an OwnTracks app: into the history, and perhaps as where the device is.

use super::up::check_fix_time;
use super::{Core, Now, Ticket};
use crate::position::{Origin, Position, Way, fix_at};
use crate::service::BridgeError;
use crate::store::Change;
use waypost_proto::{DeviceId, Fix, TrackBatch, TrackKind};

/// Whether a message is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was said just now.
    Now,
    /// A broker kept it, and tells it to whoever subscribes: it may have been taken long ago.
    Before,
}

impl Core {
    /// Stages positions that an app reports without an operation number. Saying one twice changes nothing: the
    /// history has one record for each time of a device. What a broker kept counts where it is newer than what is known.
    /// While there is no room for history they move where the device is, and are refused nevertheless, so that the app
    /// says them again.
    pub(crate) fn report_positions(
        &mut self,
        device: DeviceId,
        fixes: &[Fix],
        told: Told,
        now: Now,
    ) -> Result<((), Option<Ticket>), BridgeError> {
        if self.devices.get(&device).is_none_or(|known| known.revoked) {
            return Err(BridgeError::NotFound("device"));
        }
        if fixes.iter().any(|fix| check_fix_time(fix, now).is_err()) {
            return Err(BridgeError::Invalid {
                field: "/tst".into(),
                reason: "must be after 1999 and at most 72 hours ahead of the server's clock".to_owned(),
            });
        }
        if told == Told::Now {
            self.heard_ms.insert(device, now.wall_ms);
        }
        let news: Vec<Fix> = fixes
            .iter()
            .filter(|fix| told == Told::Now || self.is_newest(device, fix))
            .copied()
            .collect();
        let room = match news.is_empty() {
            true => Ok(()),
            false => self.check_room_for_history(),
        };
        for fix in &news {
            if room.is_ok() {
                self.add_to_history(device, *fix, now);
                metrics::counter!("waypost_bridge_owntracks_positions_total").increment(1);
            }
            self.move_latest(device, *fix, now);
        }
        let ticket = self.commit();
        room.map(|()| ((), ticket))
    }

    /// One record for each time of a device: the same position from two sources is one.
    pub(super) fn add_to_history(&mut self, device: DeviceId, fix: Fix, now: Now) {
        self.add_position(device, Position::measured(fix, now.wall_ms), now);
    }

    fn add_position(&mut self, device: DeviceId, position: Position, now: Now) {
        self.mark_position(device, &position.fix, now);
        self.changes.push(Change::AddPosition(device, position));
    }

    /// The points of a batch. The last one, with its velocity, may be where the device is.
    pub(super) fn take_batch(
        &mut self,
        device: DeviceId,
        batch: &TrackBatch,
        battery_pct: Option<u32>,
        kind: TrackKind,
        now: Now,
    ) {
        let last = batch.points.len().saturating_sub(1);
        for (index, point) in batch.points.iter().enumerate() {
            let is_last = index == last;
            let velocity = batch.velocity.filter(|_| is_last);
            let was_watched = if index == 0 {
                batch.leads_on
            } else {
                !point.after_gap
            };
            let position = Position {
                fix: fix_at(point, velocity, battery_pct.filter(|_| is_last)),
                received_ms: now.wall_ms,
                origin: if batch.exact {
                    Origin::Measured
                } else {
                    Origin::Corner
                },
                way: if was_watched { Way::Watched } else { Way::Unknown },
                velocity,
            };
            self.add_position(device, position, now);
            if is_last && kind == TrackKind::Travelled {
                self.put_latest(device, position);
            }
        }
    }

    /// A fix from before the latest one changes nothing: history arrives late.
    pub(super) fn move_latest(&mut self, device: DeviceId, fix: Fix, now: Now) {
        self.put_latest(device, Position::measured(fix, now.wall_ms));
    }

    fn put_latest(&mut self, device: DeviceId, position: Position) {
        if !self.is_newest(device, &position.fix) {
            return;
        }
        self.staged_latest.insert(device, position);
        self.changes.push(Change::PutLatest(device, position));
        self.effects.push(super::Effect::Latest(device, position));
    }

    fn is_newest(&self, device: DeviceId, fix: &Fix) -> bool {
        self.staged_latest
            .get(&device)
            .is_none_or(|latest| fix.at_ms > latest.fix.at_ms)
    }
}
