//! What happened, as CloudEvents 1.0 in JSON.
//!
//! `id` is the cursor in the event log, the same at every delivery. A position has no place in the log; its `id` is
//! made of the device and the time of the fix.

use crate::entries::EntryJson;
use crate::language::Language;
use crate::members::{MemberJson, Names};
use crate::positions::PositionJson;
use crate::receipts::{MomentJson, SERVER_HOP};
use crate::state::ApiState;
use crate::timestamp::Timestamp;
use serde::Serialize;
use std::str::FromStr;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::device::DeviceId;
use waypost_bridge::entry::{Author, Rung};
use waypost_bridge::event::{Event, EventKind};
use waypost_bridge::position::Position;

/// What expired waited in the outbox of its device for the server.
const OUTBOX_HOP: &str = "outbox";

/// The types of events that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventType {
    EntryAccepted,
    EntrySent,
    EntryDelivered,
    EntryRead,
    EntryActed,
    /// Of an entry at the server, or of an operation in the outbox of a device.
    EntryExpired,
    EntrySuperseded,
    DeviceOnline,
    DeviceOffline,
    DeviceEnrolled,
    DeviceRevoked,
    DeviceForked,
    /// Only where asked for, and not in the log.
    PositionUpdated,
}

impl EventType {
    pub(crate) const ALL: [Self; 13] = [
        Self::EntryAccepted,
        Self::EntrySent,
        Self::EntryDelivered,
        Self::EntryRead,
        Self::EntryActed,
        Self::EntryExpired,
        Self::EntrySuperseded,
        Self::DeviceOnline,
        Self::DeviceOffline,
        Self::DeviceEnrolled,
        Self::DeviceRevoked,
        Self::DeviceForked,
        Self::PositionUpdated,
    ];

    pub(crate) fn of(kind: &EventKind) -> Self {
        match kind {
            EventKind::EntryAccepted { .. } => Self::EntryAccepted,
            EventKind::EntriesReached { rung, .. } => match rung {
                Rung::Sent => Self::EntrySent,
                Rung::Delivered => Self::EntryDelivered,
                Rung::Read => Self::EntryRead,
                Rung::Acted => Self::EntryActed,
            },
            EventKind::EntryActed { .. } => Self::EntryActed,
            EventKind::EntryExpired { .. } | EventKind::OperationsExpired { .. } => Self::EntryExpired,
            EventKind::EntrySuperseded { .. } => Self::EntrySuperseded,
            EventKind::DeviceOnline(_) => Self::DeviceOnline,
            EventKind::DeviceOffline(_) => Self::DeviceOffline,
            EventKind::DeviceEnrolled(_) => Self::DeviceEnrolled,
            EventKind::DeviceRevoked(_) => Self::DeviceRevoked,
            EventKind::DeviceForked(_) => Self::DeviceForked,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EntryAccepted => "waypost.entry.accepted",
            Self::EntrySent => "waypost.entry.sent",
            Self::EntryDelivered => "waypost.entry.delivered",
            Self::EntryRead => "waypost.entry.read",
            Self::EntryActed => "waypost.entry.acted",
            Self::EntryExpired => "waypost.entry.expired",
            Self::EntrySuperseded => "waypost.entry.superseded",
            Self::DeviceOnline => "waypost.device.online",
            Self::DeviceOffline => "waypost.device.offline",
            Self::DeviceEnrolled => "waypost.device.enrolled",
            Self::DeviceRevoked => "waypost.device.revoked",
            Self::DeviceForked => "waypost.device.forked",
            Self::PositionUpdated => "waypost.position.updated",
        }
    }
}

impl FromStr for EventType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("{text:?} is not a type of event; those are {names}")
            })
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CloudEventJson<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: String,
    time: Timestamp,
    datacontenttype: &'static str,
    data: DataJson,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum DataJson {
    Entry {
        #[schema(value_type = EntryJson)]
        entry: Box<EntryJson>,
    },
    /// Everything in `from_seq..=seq` of other authors reached that rung.
    Reached {
        stream: String,
        from_seq: u64,
        seq: u64,
        member: MemberJson,
        #[serde(flatten)]
        moment: MomentJson,
    },
    Acted {
        stream: String,
        seq: u64,
        member: MemberJson,
        /// That of the answer: another where a broadcast was answered.
        answer_stream: String,
        answer_seq: u64,
    },
    /// It waited at the server for some of those for whom it was.
    Expired {
        hop: &'static str,
        stream: String,
        seq: u64,
        /// How many members had not received it; which, its receipts say.
        missed: u32,
    },
    /// They waited in the outbox of a device, and never were entries.
    ExpiredInOutbox {
        hop: &'static str,
        device: String,
        /// The number of the first operation.
        op: u64,
        /// How many there were, from that one on.
        count: u32,
    },
    Superseded {
        stream: String,
        seq: u64,
        /// The entry that counts instead.
        superseded_by: u64,
    },
    Device {
        device: String,
        name: Option<String>,
        since: Timestamp,
    },
    Position {
        device: String,
        position: PositionJson,
    },
}

impl<'a> CloudEventJson<'a> {
    /// An event of the log, for a reader of this language; `None` for an entry that is there no more.
    pub(crate) async fn of_event(
        state: &'a ApiState,
        event: &Event,
        language: &Language,
    ) -> Result<Option<Self>, BridgeError> {
        let mut names = Names::in_language(state.bridge(), language);
        let about_device = |device: &DeviceId| format!("device/{device}");
        let (subject, data) = match &event.kind {
            EventKind::EntryAccepted { stream, seq } => {
                let Some(entry) = state.bridge().entry(*stream, *seq).await? else {
                    return Ok(None);
                };
                let entry = Box::new(EntryJson::new(entry, &mut names).await?);
                (format!("stream/{stream}/{seq}"), DataJson::Entry { entry })
            }
            EventKind::EntriesReached {
                rung: _,
                stream,
                first_seq,
                last_seq,
                member,
                moment,
            } => {
                let data = DataJson::Reached {
                    stream: stream.to_string(),
                    from_seq: *first_seq,
                    seq: *last_seq,
                    member: names.member(*member).await?,
                    moment: (*moment).into(),
                };
                (format!("stream/{stream}/{last_seq}"), data)
            }
            EventKind::EntryActed {
                stream,
                seq,
                member,
                answer_stream,
                answer,
            } => {
                let data = DataJson::Acted {
                    stream: stream.to_string(),
                    seq: seq.number(),
                    member: names.member(*member).await?,
                    answer_stream: answer_stream.to_string(),
                    answer_seq: answer.number(),
                };
                (format!("stream/{stream}/{seq}"), data)
            }
            EventKind::EntryExpired { stream, seq, missed } => {
                let data = DataJson::Expired {
                    hop: SERVER_HOP,
                    stream: stream.to_string(),
                    seq: seq.number(),
                    missed: *missed,
                };
                (format!("stream/{stream}/{seq}"), data)
            }
            EventKind::OperationsExpired {
                device,
                first_op,
                count,
            } => {
                let data = DataJson::ExpiredInOutbox {
                    hop: OUTBOX_HOP,
                    device: device.to_string(),
                    op: *first_op,
                    count: *count,
                };
                (about_device(device), data)
            }
            EventKind::EntrySuperseded { stream, seq, by } => {
                let data = DataJson::Superseded {
                    stream: stream.to_string(),
                    seq: seq.number(),
                    superseded_by: by.number(),
                };
                (format!("stream/{stream}/{seq}"), data)
            }
            EventKind::DeviceOnline(device)
            | EventKind::DeviceOffline(device)
            | EventKind::DeviceEnrolled(device)
            | EventKind::DeviceRevoked(device)
            | EventKind::DeviceForked(device) => {
                let data = DataJson::Device {
                    device: device.to_string(),
                    name: names.name(Author::Device(*device)).await?,
                    since: Timestamp(event.at_ms),
                };
                (about_device(device), data)
            }
        };
        let id = event.cursor.to_string();
        Ok(Some(Self::new(
            state,
            id,
            EventType::of(&event.kind),
            subject,
            event.at_ms,
            data,
        )))
    }

    /// The latest position of a device.
    pub(crate) fn of_position(state: &'a ApiState, device: DeviceId, position: &Position) -> Self {
        let id = format!("position-{device}-{}", position.fix.at_ms);
        let data = DataJson::Position {
            device: device.to_string(),
            position: position.into(),
        };
        let subject = format!("device/{device}");
        Self::new(
            state,
            id,
            EventType::PositionUpdated,
            subject,
            position.received_ms,
            data,
        )
    }

    fn new(
        state: &'a ApiState,
        id: String,
        kind: EventType,
        subject: String,
        at_ms: i64,
        data: DataJson,
    ) -> Self {
        Self {
            specversion: "1.0",
            id,
            source: &state.shared.source,
            kind: kind.name(),
            subject,
            time: Timestamp(at_ms),
            datacontenttype: "application/json",
            data,
        }
    }

    /// As JSON on one line.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).expect("an event has text for keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_found_by_its_name() {
        for kind in EventType::ALL {
            assert_eq!(kind.name().parse::<EventType>(), Ok(kind));
        }
        assert!(
            "waypost.entry"
                .parse::<EventType>()
                .unwrap_err()
                .contains("waypost.entry.accepted")
        );
    }
}
