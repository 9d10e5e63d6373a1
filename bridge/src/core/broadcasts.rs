//! Broadcasts: one message to many, whose recipients are fixed when it is accepted.

use super::directory::invalid;
use super::{Core, Effect, Now};
use crate::broadcast::{Broadcast, Counts, NewBroadcast, RECIPIENTS_MAX};
use crate::entry::{Author, Entry, EntryBody, Moment, Rung};
use crate::once::Made;
use crate::service::BridgeError;
use crate::store::Change;
use crate::stream::{Member, Membership, Stream, StreamKind};
use std::collections::BTreeSet;
use waypost_proto::{DeviceId, Seq, StreamId};

/// The one entry of a broadcast.
pub(crate) fn only_entry() -> Seq {
    Seq::new(1).expect("1 is the number of an entry")
}

/// How many characters of its text name a broadcast in lists.
const TITLE_CHARS: usize = 60;

impl Core {
    /// Stages a broadcast and its stream.
    pub(crate) fn add_broadcast(&mut self, new: NewBroadcast, now: Now) -> Result<Made, BridgeError> {
        let mut recipients = BTreeSet::new();
        for device in &new.devices {
            self.live_device(*device)
                .map_err(|_| invalid("/to/devices", "the ids of devices that are not revoked"))?;
            recipients.insert(*device);
        }
        for id in &new.groups {
            let group = self
                .group(*id)
                .ok_or_else(|| invalid("/to/groups", "the ids of groups that there are"))?;
            recipients.extend(group.devices);
        }
        if recipients.is_empty() || recipients.len() > RECIPIENTS_MAX {
            return Err(invalid("/to", "at least one recipient and at most 10,000"));
        }
        if new.expires_ms.is_some_and(|expires_ms| expires_ms <= now.wall_ms) {
            return Err(invalid("/expires_at", "a time in the future"));
        }
        let body = self.checked_body(new.body)?;
        self.check_room_for_entry()?;
        let stream = StreamId::new(self.next_stream)
            .ok_or(BridgeError::Conflict("there are no stream numbers left"))?;
        self.next_stream += 1;
        let title = match &body {
            EntryBody::Text(text) => text.clone(),
            EntryBody::Reply(reply) => self
                .render(reply, crate::template::FALLBACK_LOCALE)
                .map(|rendered| rendered.text)
                .unwrap_or_default(),
            EntryBody::Membership(..) => String::new(),
        };
        let recipient = |device: &DeviceId| Membership {
            member: Member::Device(*device),
            first_seq: 1,
            last_seq: None,
        };
        self.put_stream(Stream {
            id: stream,
            kind: StreamKind::Broadcast,
            title: title.chars().take(TITLE_CHARS).collect(),
            members: recipients.iter().map(recipient).collect(),
        });
        let broadcast = Broadcast {
            stream,
            devices: new.devices,
            groups: new.groups,
        };
        self.changes.push(Change::PutBroadcast(broadcast.clone()));
        self.effects.push(Effect::Broadcast(broadcast));
        let entry = Entry {
            stream,
            seq: only_entry(),
            id: self.person_entry_id(new.author, stream, only_entry()),
            author: Author::Person(new.author),
            operation: None,
            accepted: Moment::server(now.wall_ms),
            urgent: new.urgent,
            expires_ms: new.expires_ms,
            reply_to: None,
            reply_stream: None,
            supersedes: None,
            superseded_by: None,
            earlier: None,
            body,
        };
        self.append_entry(entry, Member::Office, now);
        Ok(Made::Broadcast(stream))
    }

    /// Newest first, with how many have come how far; that may be on its way to the disk: see [`Core::last_open`].
    pub(crate) fn broadcasts(
        &self,
        before: Option<StreamId>,
    ) -> impl Iterator<Item = (Broadcast, Counts)> + '_ {
        let before = before.map_or(u32::MAX, StreamId::number);
        self.broadcasts
            .values()
            .rev()
            .filter(move |broadcast| broadcast.stream.number() < before)
            .map(|broadcast| (broadcast.clone(), self.counts(broadcast.stream)))
    }

    pub(crate) fn broadcast(&self, stream: StreamId) -> Option<Broadcast> {
        self.broadcasts.get(&stream).cloned()
    }

    /// Counts what is on its way to the disk, too.
    pub(super) fn counts(&self, stream: StreamId) -> Counts {
        let mut counts = Counts::default();
        let members = self
            .streams
            .get(&stream)
            .map_or(&[][..], |state| &state.stream.members);
        for membership in members {
            let cursor = self.cursors.get(&(stream, membership.member));
            counts.count(cursor.and_then(|cursor| {
                let only = only_entry().number();
                // What was passed over was neither sent nor read, though the cursors went on.
                let not_passed_over = !cursor.passed_over.contains(only);
                let rungs = [
                    (cursor.answered > 0, Rung::Acted),
                    (cursor.read > 0 && not_passed_over, Rung::Read),
                    (cursor.has_received(only), Rung::Delivered),
                    (cursor.sent > 0 && not_passed_over, Rung::Sent),
                ];
                rungs
                    .into_iter()
                    .find_map(|(reached, rung)| reached.then_some(rung))
            }));
        }
        counts
    }
}
