//! Devices and streams: what the office sees and changes.

use super::{Core, Effect, Now, Ticket};
use crate::device::{Device, DevicePatch, DeviceView, Driver, NewDevice, Presence};
use crate::entry::{Author, Entry, Moment, NewEntry, Rung};
use crate::event::{EventCursor, EventKind};
use crate::once::Made;
use crate::service::BridgeError;
use crate::store::Change;
use crate::stream::{Member, Membership, Stream, StreamKind, StreamView};
use sha2::{Digest, Sha256};
use waypost_proto::{DeviceId, GroupId, PersonId, Seq, StreamId};

type Staged<T> = Result<(T, Option<Ticket>), BridgeError>;
/// For what [`Core::make`] commits.
type Making = Result<Made, BridgeError>;

const NAME_CHARS_MAX: usize = 100;
const LABELS_MAX: usize = 20;
const LABEL_CHARS_MAX: usize = 50;
impl Core {
    /// Stages a device and its direct stream with the office.
    pub(crate) fn add_device(&mut self, new: NewDevice, now: Now) -> Making {
        check_name("/name", &new.name)?;
        check_driver(new.driver.as_ref())?;
        check_labels(&new.labels)?;
        let (Some(id), Some(stream)) = (DeviceId::new(self.next_device), StreamId::new(self.next_stream))
        else {
            return Err(BridgeError::Conflict("there are no device numbers left"));
        };
        let moves = self.checked_moves(id, &new.groups)?;
        self.next_device += 1;
        self.next_stream += 1;
        let member = |member| Membership {
            member,
            first_seq: 1,
            last_seq: None,
        };
        let direct = Stream {
            id: stream,
            kind: StreamKind::Direct,
            title: new.name.clone(),
            members: vec![member(Member::Device(id)), member(Member::Office)],
        };
        let device = Device {
            id,
            name: new.name,
            driver: new.driver,
            labels: new.labels,
            secret_hash: new.secret_hash,
            stream,
            app: None,
            last_seen_ms: None,
            revoked: false,
        };
        self.put_stream(direct);
        self.put_device(device);
        self.move_device(id, moves, now);
        self.log_event(EventKind::DeviceEnrolled(id), now);
        Ok(Made::Device(id))
    }

    /// Stages a new secret for a device, whose session ends.
    pub(crate) fn rotate_secret(&mut self, id: DeviceId, secret_hash: [u8; 32]) -> Making {
        let device = self.newest_device(id).ok_or(BridgeError::NotFound("device"))?;
        if device.revoked {
            return Err(BridgeError::Conflict(
                "this device is revoked and cannot connect again; add the unit as a new device",
            ));
        }
        self.put_device(Device {
            secret_hash,
            ..device.clone()
        });
        self.effects.push(Effect::EndSessions(id));
        Ok(Made::Credentials(id))
    }

    pub(crate) fn update_device(&mut self, id: DeviceId, patch: DevicePatch, now: Now) -> Staged<()> {
        let mut device = self.live_device(id)?;
        // Everything is checked before anything is staged.
        patch
            .name
            .as_ref()
            .map_or(Ok(()), |name| check_name("/name", name))?;
        if let Some(driver) = &patch.driver {
            check_driver(driver.as_ref())?;
        }
        patch
            .labels
            .as_ref()
            .map_or(Ok(()), |labels| check_labels(labels))?;
        let moves = match &patch.groups {
            Some(groups) => self.checked_moves(id, groups)?,
            None => Vec::new(),
        };
        if let Some(name) = patch.name {
            if let Some(state) = self.streams.get(&device.stream) {
                self.put_stream(Stream {
                    title: name.clone(),
                    ..state.stream.clone()
                });
            }
            device.name = name;
        }
        if let Some(driver) = patch.driver {
            device.driver = driver;
        }
        if let Some(labels) = patch.labels {
            device.labels = labels;
        }
        self.put_device(device);
        self.move_device(id, moves, now);
        self.audit("device.changed", format!("device/{id}"));
        Ok(((), self.commit()))
    }

    pub(crate) fn revoke_device(&mut self, id: DeviceId, now: Now) -> Staged<()> {
        let device = self.live_device(id)?;
        self.leave_groups(id, now);
        let streams: Vec<StreamId> = self.streams_of.get(&id).into_iter().flatten().copied().collect();
        for stream in streams {
            let state = &self.streams[&stream];
            if matches!(state.stream.kind, StreamKind::Group(_)) {
                continue;
            }
            let (mut left, head) = (state.stream.clone(), state.staged_head);
            for membership in &mut left.members {
                if membership.member == Member::Device(id) {
                    membership.last_seq.get_or_insert(head);
                }
            }
            self.put_stream(left);
        }
        self.put_device(Device {
            revoked: true,
            ..device
        });
        self.effects.push(Effect::Presence(
            id,
            Presence::Offline {
                since_ms: now.wall_ms,
            },
        ));
        self.effects.push(Effect::EndSessions(id));
        self.log_event(EventKind::DeviceRevoked(id), now);
        self.audit("device.revoked", format!("device/{id}"));
        Ok(((), self.commit()))
    }

    /// Stages an entry of a person.
    /// `replaced` is the entry that it supersedes, as it was read just before; `None` where there is none.
    pub(crate) fn post_entry(&mut self, new: NewEntry, replaced: Option<&Entry>, now: Now) -> Making {
        let body = self.checked_body(new.body)?;
        let state = self
            .streams
            .get(&new.stream)
            .ok_or(BridgeError::NotFound("stream"))?;
        if state.stream.kind == StreamKind::Direct && !has_open_device(&state.stream) {
            return Err(BridgeError::Conflict(
                "the device of this stream was revoked; nobody would get the message",
            ));
        }
        match state.stream.kind {
            StreamKind::Broadcast => {
                return Err(BridgeError::Conflict(
                    "a broadcast is one message; send another one, or write to its recipients",
                ));
            }
            StreamKind::Group(group) if self.group(group).is_none() => {
                return Err(BridgeError::Conflict(
                    "this group was deleted; nobody would get the message",
                ));
            }
            StreamKind::Direct | StreamKind::Group(_) => {}
        }
        let head = state.staged_head;
        if new.reply_to.is_some_and(|answered| answered.number() > head) {
            return Err(invalid("/reply_to", "the number of an entry of this stream"));
        }
        if new.expires_ms.is_some_and(|expires_ms| expires_ms <= now.wall_ms) {
            return Err(invalid("/expires_at", "a time in the future"));
        }
        if new.supersedes.is_some() {
            self.check_replaced(replaced, Author::Person(new.author))?;
        }
        self.check_room_for_entry()?;
        let seq = self.next_seq(new.stream);
        let entry = Entry {
            stream: new.stream,
            seq,
            id: self.person_entry_id(new.author, new.stream, seq),
            author: Author::Person(new.author),
            operation: None,
            accepted: Moment::server(now.wall_ms),
            urgent: new.urgent,
            expires_ms: new.expires_ms,
            reply_to: new.reply_to,
            reply_stream: None,
            supersedes: new.supersedes,
            superseded_by: None,
            earlier: None,
            body,
        };
        self.append_entry(entry, Member::Office, now);
        // Whoever had read everything has read their own words too.
        let reader = (new.stream, Member::Person(new.author));
        let mut cursor = self.cursors.get(&reader).cloned().unwrap_or_default();
        if cursor.read == head {
            cursor.read = seq.number();
            self.put_cursor(reader.0, reader.1, cursor);
        }
        Ok(Made::Entry {
            stream: new.stream,
            seq,
        })
    }

    pub(crate) fn mark_read(&mut self, person: PersonId, stream: StreamId, seq: u64, now: Now) -> Staged<()> {
        let state = self.streams.get(&stream).ok_or(BridgeError::NotFound("stream"))?;
        if seq > state.head {
            return Err(invalid("/read", "the number of an entry that exists"));
        }
        let has_office = state.stream.has(Member::Office);
        let reader = Member::Person(person);
        let mut cursor = self.cursors.get(&(stream, reader)).cloned().unwrap_or_default();
        if seq > cursor.read {
            cursor.read = seq;
            self.put_cursor(stream, reader, cursor);
        }
        // That the office has read something is a promise to the driver, which no program makes for it.
        if self.keys.contains_key(&person) {
            return Ok(((), self.commit()));
        }
        let mut office = self
            .cursors
            .get(&(stream, Member::Office))
            .cloned()
            .unwrap_or_default();
        if has_office && seq > office.read {
            // The office's screen stands beside the server: what is read there was sent and delivered there.
            let (range, moment) = ((office.read + 1, seq), Moment::server(now.wall_ms));
            self.reach(stream, Member::Office, Rung::Sent, range, moment, true, now);
            self.reach(stream, Member::Office, Rung::Delivered, range, moment, true, now);
            self.reach(stream, Member::Office, Rung::Read, range, moment, false, now);
            office.read = seq;
            self.put_cursor(stream, Member::Office, office);
        }
        Ok(((), self.commit()))
    }

    pub(crate) fn devices(&self, after: Option<DeviceId>) -> impl Iterator<Item = DeviceView> + '_ {
        let after = after.map_or(0, DeviceId::number);
        self.devices
            .values()
            .filter(move |device| device.id.number() > after)
            .map(|device| self.view(device))
    }

    pub(crate) fn device(&self, id: DeviceId) -> Option<DeviceView> {
        self.devices.get(&id).map(|device| self.view(device))
    }

    pub(crate) fn streams(
        &self,
        viewer: Option<PersonId>,
        after: Option<StreamId>,
    ) -> impl Iterator<Item = StreamView> + '_ {
        let after = after.map_or(0, StreamId::number);
        self.streams
            .keys()
            .filter(move |id| id.number() > after)
            .filter_map(move |id| self.stream(viewer, *id))
    }

    pub(crate) fn stream(&self, viewer: Option<PersonId>, id: StreamId) -> Option<StreamView> {
        let state = self.streams.get(&id)?;
        let read = viewer.map(|person| {
            self.cursors
                .get(&(id, Member::Person(person)))
                .map_or(0, |c| c.read)
        });
        // Of what the office only sends there is nothing for it to read.
        let read = read.filter(|_| state.stream.has(Member::Office));
        // What was trimmed is not unread any more.
        let trimmed = self.first_seq(id) - 1;
        let unread = read.map_or(0, |read| state.head.saturating_sub(read.max(trimmed)));
        Some(StreamView {
            stream: state.stream.clone(),
            head: state.head,
            unread,
        })
    }

    /// Where the one goes on whose last event was of a store that was lost; `None` for an event of this store, or of
    /// none that it knows.
    pub(crate) fn resume_after_lost(&self, event: EventCursor) -> Option<EventCursor> {
        let mut restores = self.restores.values();
        let lost = restores.find(|restore| restore.lost(event));
        // Beyond the present it may be of any store that was lost; what came after the last restore, it does not have.
        let newest = || self.restores.values().map(|restore| restore.last_event).max();
        lost.map(|restore| restore.last_event)
            .or_else(|| newest().filter(|_| event > self.last_event))
    }

    /// The number of the event that follows, whether there is one yet or not.
    pub(crate) fn event_after(&self, event: EventCursor) -> EventCursor {
        let mut next = event.saturating_add(1);
        // Nothing may have happened between two restores.
        while let Some(gap) = self.restores.values().find(|gap| gap.last_event + 1 == next) {
            next = gap.first_event;
        }
        next
    }

    pub(crate) fn last_event(&self) -> EventCursor {
        self.last_event
    }

    pub(crate) fn author_name(&self, author: Author) -> Option<String> {
        match author {
            Author::Device(device) => self.devices.get(&device).map(|device| device.name.clone()),
            Author::Person(person) => self.name_of(person).cloned(),
            Author::System => Some("Waypost".to_owned()),
        }
    }

    fn view(&self, device: &Device) -> DeviceView {
        let position = self.latest.get(&device.id).copied();
        let groups = self.groups_of(device.id);
        DeviceView {
            groups: groups
                .iter()
                .filter_map(|group| GroupId::new(group.group))
                .collect(),
            presence: self
                .presence
                .get(&device.id)
                .copied()
                .unwrap_or(Presence::Unknown),
            position,
            last_seen_ms: self.heard_ms.get(&device.id).copied().or(device.last_seen_ms),
            device: device.clone(),
        }
    }

    pub(super) fn live_device(&self, id: DeviceId) -> Result<Device, BridgeError> {
        let device = self.newest_device(id).filter(|device| !device.revoked);
        device.cloned().ok_or(BridgeError::NotFound("device"))
    }

    /// As it is on disk or on its way there: two changes at the same time must not undo each other.
    pub(super) fn newest_device(&self, id: DeviceId) -> Option<&Device> {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Device(device) if device.id == id => Some(device),
            _ => None,
        });
        staged.or_else(|| self.devices.get(&id))
    }

    fn put_device(&mut self, device: Device) {
        self.changes.push(Change::PutDevice(device.clone()));
        self.effects.push(Effect::Device(device));
    }

    /// As it is on disk or on its way there.
    pub(super) fn newest_stream(&self, id: StreamId) -> Result<Stream, BridgeError> {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Stream(stream) if stream.id == id => Some(stream),
            _ => None,
        });
        let stream = staged.or_else(|| self.streams.get(&id).map(|state| &state.stream));
        stream.cloned().ok_or(BridgeError::NotFound("stream"))
    }

    pub(super) fn put_stream(&mut self, stream: Stream) {
        self.changes.push(Change::PutStream(stream.clone()));
        self.effects.push(Effect::Stream(stream));
    }

    /// The name of an entry for ever; the number of an entry is used once in a store.
    pub(super) fn person_entry_id(&self, person: PersonId, stream: StreamId, seq: Seq) -> [u8; 16] {
        let mut hash = Sha256::new_with_prefix(b"waypost entry by person\0");
        hash.update(person.number().to_be_bytes());
        hash.update(self.incarnation.number().to_be_bytes());
        hash.update(stream.number().to_be_bytes());
        hash.update(seq.number().to_be_bytes());
        let digest = hash.finalize();
        digest[..16].try_into().expect("SHA-256 has 32 bytes")
    }
}

fn has_open_device(stream: &Stream) -> bool {
    stream
        .members
        .iter()
        .any(|m| matches!(m.member, Member::Device(_)) && m.last_seq.is_none())
}

pub(super) fn invalid(field: &'static str, expected: &str) -> BridgeError {
    BridgeError::Invalid {
        field: field.into(),
        reason: format!("expected {expected}"),
    }
}

pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), BridgeError> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && !name.trim().is_empty();
    if fits && !name.contains(char::is_control) {
        Ok(())
    } else {
        Err(invalid(field, "1 to 100 characters"))
    }
}

fn check_driver(driver: Option<&Driver>) -> Result<(), BridgeError> {
    let Some(driver) = driver else { return Ok(()) };
    check_name("/driver/name", &driver.name)?;
    let tag = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (2..=35).contains(&driver.locale.len()) && driver.locale.chars().all(tag) {
        Ok(())
    } else {
        Err(invalid("/driver/locale", "a language tag such as de or pt-BR"))
    }
}

fn check_labels(labels: &[String]) -> Result<(), BridgeError> {
    let fits = |label: &String| (1..=LABEL_CHARS_MAX).contains(&label.chars().count());
    if labels.len() <= LABELS_MAX && labels.iter().all(fits) {
        Ok(())
    } else {
        Err(invalid("/labels", "at most 20 labels of 1 to 50 characters"))
    }
}
