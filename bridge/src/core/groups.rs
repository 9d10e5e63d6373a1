//! Groups: who is a member from which entry to which, and what each device is told of its groups.
//!
//! Joining and leaving are entries of the group's stream. The interval of who joins begins with that entry, or with the
//! first one where the group shows its history; the interval of who leaves ends before it, and with it the subscription
//! to the group's topic, before anything later goes out.

use super::directory::{check_name, invalid};
use super::session::Welcome;
use super::{Core, Effect, Now, Output, Ticket};
use crate::entry::{Author, Entry, EntryBody, MembershipChange, Moment};
use crate::group::{GROUP_DEVICES_MAX, Group, GroupPatch, GroupView, History, NewGroup};
use crate::once::Made;
use crate::service::BridgeError;
use crate::store::Change;
use crate::stream::{Member, Membership, Stream, StreamKind};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use waypost_proto::{DeviceId, GroupId, PersonId, Seq, StreamId, groups_digest, wire};

type Staged<T> = Result<(T, Option<Ticket>), BridgeError>;
type Making = Result<Made, BridgeError>;

/// What a device does in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Join,
    Leave,
}

impl Core {
    /// Stages a group, its channel, and that its devices have joined.
    pub(crate) fn add_group(&mut self, new: NewGroup, now: Now) -> Making {
        check_name("/name", &new.name)?;
        let devices = self.checked_members(&new.devices)?;
        self.check_room_for_entry()?;
        let (Some(id), Some(stream)) = (GroupId::new(self.next_group), StreamId::new(self.next_stream))
        else {
            return Err(BridgeError::Conflict("there are no group numbers left"));
        };
        self.next_group += 1;
        self.next_stream += 1;
        let group = Group {
            id,
            name: new.name,
            stream,
            history: new.history,
            deleted: false,
        };
        let channel = Stream {
            id: stream,
            kind: StreamKind::Group(id),
            title: group.name.clone(),
            members: vec![Membership {
                member: Member::Office,
                first_seq: 1,
                last_seq: None,
            }],
        };
        self.put_group(group.clone());
        self.move_members(&group, channel, &BTreeSet::new(), &devices, now);
        Ok(Made::Group(id))
    }

    pub(crate) fn update_group(&mut self, id: GroupId, patch: GroupPatch, now: Now) -> Staged<()> {
        let mut group = self.live_group(id)?;
        if let Some(name) = patch.name {
            check_name("/name", &name)?;
            group.name = name;
        }
        group.history = patch.history.unwrap_or(group.history);
        let mut channel = self.newest_stream(group.stream)?;
        channel.title.clone_from(&group.name);
        let members: BTreeSet<DeviceId> = channel.devices().collect();
        let wanted = match patch.devices {
            Some(devices) => {
                self.check_room_for_entry()?;
                self.checked_members(&devices)?
            }
            None => members.clone(),
        };
        self.put_group(group.clone());
        self.move_members(&group, channel, &(&members - &wanted), &(&wanted - &members), now);
        self.audit("group.changed", format!("group/{id}"));
        Ok(((), self.commit()))
    }

    /// Stages that a group has no members and takes no more.
    pub(crate) fn delete_group(&mut self, id: GroupId, now: Now) -> Staged<()> {
        let mut group = self.live_group(id)?;
        group.deleted = true;
        let channel = self.newest_stream(group.stream)?;
        let members = channel.devices().collect();
        self.put_group(group.clone());
        self.move_members(&group, channel, &members, &BTreeSet::new(), now);
        self.audit("group.deleted", format!("group/{id}"));
        Ok(((), self.commit()))
    }

    /// What has to change so that a device is a member of these groups and of no others: the groups, with whether it joins.
    pub(super) fn checked_moves(
        &self,
        device: DeviceId,
        groups: &[GroupId],
    ) -> Result<Vec<(Group, Stream, Move)>, BridgeError> {
        for id in groups {
            self.live_group(*id)
                .map_err(|_| invalid("/groups", "the ids of groups that there are"))?;
        }
        let mut moves = Vec::new();
        for id in self.groups.keys() {
            let Ok(group) = self.live_group(*id) else { continue };
            let channel = self.newest_stream(group.stream)?;
            match (channel.has(Member::Device(device)), groups.contains(id)) {
                (true, false) => moves.push((group, channel, Move::Leave)),
                (false, true) if channel.devices().count() >= GROUP_DEVICES_MAX => {
                    return Err(BridgeError::Conflict("a group has at most 10,000 devices"));
                }
                (false, true) => moves.push((group, channel, Move::Join)),
                _ => {}
            }
        }
        if !moves.is_empty() {
            self.check_room_for_entry()?;
        }
        Ok(moves)
    }

    /// Stages what [`Self::checked_moves`] found.
    pub(super) fn move_device(&mut self, device: DeviceId, moves: Vec<(Group, Stream, Move)>, now: Now) {
        let (one, nobody) = (BTreeSet::from([device]), BTreeSet::new());
        for (group, channel, what) in moves {
            match what {
                Move::Leave => self.move_members(&group, channel, &one, &nobody, now),
                Move::Join => self.move_members(&group, channel, &nobody, &one, now),
            }
        }
    }

    /// Stages that a device, which is revoked, has left all its groups.
    pub(super) fn leave_groups(&mut self, device: DeviceId, now: Now) {
        let one = BTreeSet::from([device]);
        let all: Vec<Group> = self.groups.values().cloned().collect();
        for group in all {
            if let Ok(channel) = self.newest_stream(group.stream)
                && channel.has(Member::Device(device))
            {
                self.move_members(&group, channel, &one, &BTreeSet::new(), now);
            }
        }
    }

    pub(crate) fn groups(&self, after: Option<GroupId>) -> impl Iterator<Item = GroupView> + '_ {
        let after = after.map_or(0, GroupId::number);
        self.groups
            .values()
            .filter(move |group| group.id.number() > after && !group.deleted)
            .map(|group| self.view_group(group))
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<GroupView> {
        let group = self.groups.get(&id).filter(|group| !group.deleted)?;
        Some(self.view_group(group))
    }

    fn view_group(&self, group: &Group) -> GroupView {
        let devices: BTreeSet<DeviceId> = self
            .streams
            .get(&group.stream)
            .into_iter()
            .flat_map(|state| state.stream.devices())
            .collect();
        GroupView {
            group: group.clone(),
            devices: devices.into_iter().collect(),
        }
    }

    /// The groups of a device as it is told of them, in ascending order.
    pub(super) fn groups_of(&self, device: DeviceId) -> Vec<wire::Group> {
        let streams = self.streams_of.get(&device).into_iter().flatten();
        let mut groups: Vec<wire::Group> = streams
            .filter_map(|stream| {
                let state = self.streams.get(stream)?;
                match state.stream.kind {
                    StreamKind::Group(group) if state.stream.has(Member::Device(device)) => {
                        Some(wire::Group {
                            group: group.number(),
                            stream: stream.number(),
                            title: state.stream.title.clone(),
                        })
                    }
                    _ => None,
                }
            })
            .collect();
        groups.sort_by_key(|group| group.group);
        groups
    }

    /// A stream of a group as it now stands on disk, after the one that stood there `before`: who has left hears nothing
    /// more, and everybody is told of their groups.
    pub(super) fn take_membership(&mut self, group: GroupId, before: Option<&Stream>, after: &Stream) {
        let members = |stream: &Stream| stream.devices().collect::<BTreeSet<DeviceId>>();
        let (was, is) = (before.map(members).unwrap_or_default(), members(after));
        let renamed = before.is_some_and(|before| before.title != after.title);
        for device in was.union(&is) {
            let (had, has) = (was.contains(device), is.contains(device));
            if had != has {
                let groups = self.groups_of(*device);
                self.outputs.push_back(Output::Groups {
                    device: *device,
                    groups: groups
                        .iter()
                        .filter_map(|group| GroupId::new(group.group))
                        .collect(),
                    left: (had && !has).then_some(group),
                });
            }
            if had != has || renamed {
                self.compare_small_state(*device);
            }
        }
    }

    /// Says anew to a device what it does not know of its groups and of the catalogue.
    pub(super) fn compare_small_state(&mut self, device: DeviceId) {
        let digest = groups_digest(&self.groups_of(device));
        let version = self.catalogue.version();
        if let Some(session) = self.sessions.get_mut(&device)
            && session.welcome != Welcome::Awaited
        {
            session.groups.set(digest);
            session.catalogue.set(version);
            self.dirty.insert(device);
        }
    }

    /// What the device says that it knows.
    pub(super) fn handle_known(&mut self, device: DeviceId, known: &wire::Known) {
        if let Some(session) = self.sessions.get_mut(&device) {
            session.groups.hear(known.groups_digest);
            session.catalogue.hear(known.catalogue);
            // The timer that guards it may rest now.
            self.dirty.insert(device);
        }
    }

    fn move_members(
        &mut self,
        group: &Group,
        mut channel: Stream,
        leave: &BTreeSet<DeviceId>,
        join: &BTreeSet<DeviceId>,
        now: Now,
    ) {
        let head = self.next_seq(channel.id).number() - 1;
        let mut seq = head;
        let mut entries = Vec::with_capacity(leave.len() + join.len());
        for device in leave {
            for membership in &mut channel.members {
                if membership.member == Member::Device(*device) {
                    // All who leave together hear as little of the others' leaving as of their own.
                    membership.last_seq.get_or_insert(head);
                }
            }
            seq += 1;
            entries.push((seq, *device, MembershipChange::Left));
        }
        for device in join {
            seq += 1;
            channel.members.push(Membership {
                member: Member::Device(*device),
                first_seq: match group.history {
                    History::All => 1,
                    History::SinceJoining => seq,
                },
                last_seq: None,
            });
            entries.push((seq, *device, MembershipChange::Joined));
        }
        // The end of a membership goes before the entry that tells the others of it.
        let stream = channel.id;
        self.put_stream(channel);
        for (seq, device, change) in entries {
            let seq = Seq::new(seq).expect("one more than a number is not 0");
            let entry = Entry {
                stream,
                seq,
                id: self.system_entry_id(stream, seq),
                author: Author::System,
                operation: None,
                accepted: Moment::server(now.wall_ms),
                urgent: false,
                expires_ms: None,
                reply_to: None,
                reply_stream: None,
                supersedes: None,
                superseded_by: None,
                earlier: None,
                body: EntryBody::Membership(device, change),
            };
            self.append_entry(entry, Member::Office, now);
        }
        // Who comes and goes is nothing that somebody in the office has to read.
        let read_all: Vec<PersonId> = self
            .people
            .values()
            .filter(|person| !person.removed)
            .map(|person| person.id)
            .filter(|person| {
                let cursor = self.cursors.get(&(stream, Member::Person(*person)));
                cursor.map_or(0, |cursor| cursor.read) == head
            })
            .collect();
        for person in read_all {
            let reader = Member::Person(person);
            let mut cursor = self.cursors.get(&(stream, reader)).cloned().unwrap_or_default();
            cursor.read = seq;
            self.put_cursor(stream, reader, cursor);
        }
    }

    fn checked_members(&self, devices: &[DeviceId]) -> Result<BTreeSet<DeviceId>, BridgeError> {
        let wanted: BTreeSet<DeviceId> = devices.iter().copied().collect();
        let all_there = wanted.iter().all(|device| self.live_device(*device).is_ok());
        if wanted.len() > GROUP_DEVICES_MAX || !all_there {
            return Err(invalid(
                "/devices",
                "at most 10,000 ids of devices that are not revoked",
            ));
        }
        Ok(wanted)
    }

    fn live_group(&self, id: GroupId) -> Result<Group, BridgeError> {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Group(group) if group.id == id => Some(group),
            _ => None,
        });
        let group = staged.or_else(|| self.groups.get(&id));
        group
            .filter(|group| !group.deleted && self.groups.contains_key(&id))
            .cloned()
            .ok_or(BridgeError::NotFound("group"))
    }

    fn put_group(&mut self, group: Group) {
        self.changes.push(Change::PutGroup(group.clone()));
        self.effects.push(Effect::Group(group));
    }

    /// The name of an entry for ever; the number of an entry is used once in a store.
    fn system_entry_id(&self, stream: StreamId, seq: Seq) -> [u8; 16] {
        let mut hash = Sha256::new_with_prefix(b"waypost entry by system\0");
        hash.update(self.incarnation.number().to_be_bytes());
        hash.update(stream.number().to_be_bytes());
        hash.update(seq.number().to_be_bytes());
        let digest = hash.finalize();
        digest[..16].try_into().expect("SHA-256 has 32 bytes")
    }
}
