//! What the processes say to each other: twins of the client's types that know JSON.

use super::{HandoverError, HistoryReport, millis};
use crate::client::{Outcome, PostError};
use crate::{Catalogue, Entry, LinkState, Message, Posted, ReplyMessage, Standing, Status, Urgency};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use waypost_proto::{Author, EntryBody, Fix, MembershipChange, Motion, Seq, SlotKind, StreamId, Template};

/// What a process asks of the holder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Request {
    Ping,
    Post(PostMessage),
    Reply(PostReplyMessage),
    Templates,
    Status,
    Record(FixMessage),
    Live(FixMessage),
    Recording {
        fixes: Vec<FixMessage>,
    },
    Flush,
    Drained {
        wait_ms: u64,
    },
    /// From here on entries come, each as a line.
    Listen,
    History(HistoryMessage),
    Shown {
        stream: u32,
        seq: u64,
    },
    Read {
        stream: u32,
        seq: u64,
    },
}

/// What the holder answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Done,
    Sent(SendReport),
    Status(Box<StatusReport>),
    Templates(CatalogueReport),
    Waiting(u64),
    Entry(Box<EntryReport>),
    History(HistoryReport),
    Error(String),
}

impl Response {
    pub(super) fn into_done(self) -> Result<(), HandoverError> {
        match self {
            Self::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn into_send(self) -> Result<SendReport, HandoverError> {
        match self {
            Self::Sent(report) => Ok(report),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn into_status(self) -> Result<StatusReport, HandoverError> {
        match self {
            Self::Status(report) => Ok(*report),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn into_templates(self) -> Result<CatalogueReport, HandoverError> {
        match self {
            Self::Templates(report) => Ok(report),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn into_history(self) -> Result<HistoryReport, HandoverError> {
        match self {
            Self::History(report) => Ok(report),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn into_waiting(self) -> Result<u64, HandoverError> {
        match self {
            Self::Waiting(ops) => Ok(ops),
            other => Err(other.unexpected()),
        }
    }

    fn unexpected(self) -> HandoverError {
        HandoverError::Refused(match self {
            Self::Error(why) => why,
            _ => "the process that holds the state folder is of another version".to_owned(),
        })
    }
}

/// One line of the hand-over.
pub(super) fn line(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// A message to be posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PostMessage {
    stream: Option<u32>,
    text: String,
    urgent: bool,
    reply_to: Option<u64>,
    #[serde(default)]
    supersedes: Option<u64>,
    expires_in_s: Option<u32>,
    wait_ms: u64,
}

impl PostMessage {
    pub(super) fn of(message: &Message, wait: Duration) -> Self {
        Self {
            stream: message.stream.map(StreamId::number),
            text: message.text.clone(),
            urgent: message.urgency == Urgency::Urgent,
            reply_to: message.reply_to.map(Seq::number),
            supersedes: message.supersedes.map(Seq::number),
            expires_in_s: message.expires_in_s,
            wait_ms: millis(wait),
        }
    }

    /// `None` where a number is none.
    pub(super) fn into_message(self) -> Option<(Message, Duration)> {
        let message = Message {
            stream: optional(self.stream, StreamId::new)?,
            text: self.text,
            urgency: urgency(self.urgent),
            reply_to: optional(self.reply_to, Seq::new)?,
            supersedes: optional(self.supersedes, Seq::new)?,
            expires_in_s: self.expires_in_s,
        };
        Some((message, Duration::from_millis(self.wait_ms)))
    }
}

/// A quick reply to be posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PostReplyMessage {
    stream: Option<u32>,
    template: String,
    values: Vec<(String, String)>,
    urgent: bool,
    reply_to: Option<u64>,
    #[serde(default)]
    supersedes: Option<u64>,
    expires_in_s: Option<u32>,
    wait_ms: u64,
}

impl PostReplyMessage {
    pub(super) fn of(message: &ReplyMessage, wait: Duration) -> Self {
        Self {
            stream: message.stream.map(StreamId::number),
            template: message.template.clone(),
            values: message.values.clone(),
            urgent: message.urgency == Urgency::Urgent,
            reply_to: message.reply_to.map(Seq::number),
            supersedes: message.supersedes.map(Seq::number),
            expires_in_s: message.expires_in_s,
            wait_ms: millis(wait),
        }
    }

    /// `None` where a number is none.
    pub(super) fn into_message(self) -> Option<(ReplyMessage, Duration)> {
        let message = ReplyMessage {
            stream: optional(self.stream, StreamId::new)?,
            template: self.template,
            values: self.values,
            urgency: urgency(self.urgent),
            reply_to: optional(self.reply_to, Seq::new)?,
            supersedes: optional(self.supersedes, Seq::new)?,
            expires_in_s: self.expires_in_s,
        };
        Some((message, Duration::from_millis(self.wait_ms)))
    }
}

/// Which entries of a conversation are wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HistoryMessage {
    stream: u32,
    before: Option<u64>,
    limit: usize,
    wait_ms: u64,
}

impl HistoryMessage {
    pub(super) fn of(stream: StreamId, before: Option<Seq>, limit: usize, wait: Duration) -> Self {
        Self {
            stream: stream.number(),
            before: before.map(Seq::number),
            limit,
            wait_ms: millis(wait),
        }
    }

    /// `None` where a number is none.
    pub(super) fn into_parts(self) -> Option<(StreamId, Option<Seq>, usize, Duration)> {
        let wait = Duration::from_millis(self.wait_ms);
        Some((
            StreamId::new(self.stream)?,
            optional(self.before, Seq::new)?,
            self.limit,
            wait,
        ))
    }
}

/// `None` where a number is given that is none.
fn optional<N, T>(number: Option<N>, parse: impl FnOnce(N) -> Option<T>) -> Option<Option<T>> {
    match number {
        None => Some(None),
        Some(number) => parse(number).map(Some),
    }
}

fn urgency(urgent: bool) -> Urgency {
    if urgent {
        Urgency::Urgent
    } else {
        Urgency::Ordinary
    }
}

/// A fix, with the units in the names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct FixMessage {
    at_ms: i64,
    lat_e7: i32,
    lon_e7: i32,
    speed_cmps: Option<u32>,
    course_ddeg: Option<u32>,
    accuracy_m: Option<u32>,
    battery_pct: Option<u32>,
}

impl FixMessage {
    pub(super) fn of(fix: &Fix) -> Self {
        Self {
            at_ms: fix.at_ms,
            lat_e7: fix.lat_e7,
            lon_e7: fix.lon_e7,
            speed_cmps: fix.motion.speed_cmps,
            course_ddeg: fix.motion.course_ddeg,
            accuracy_m: fix.accuracy_m,
            battery_pct: fix.battery_pct,
        }
    }

    pub(super) fn into_fix(self) -> Fix {
        Fix {
            at_ms: self.at_ms,
            lat_e7: self.lat_e7,
            lon_e7: self.lon_e7,
            motion: Motion {
                speed_cmps: self.speed_cmps,
                course_ddeg: self.course_ddeg,
            },
            accuracy_m: self.accuracy_m,
            battery_pct: self.battery_pct,
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReport {
    /// The number of its operation.
    pub op: u64,
    /// `stored`, `accepted` or `refused`.
    pub state: String,
    /// The stream of its entry, where it is known.
    pub stream: Option<String>,
    /// The place of its entry there, where it is known.
    pub seq: Option<u64>,
    /// Why it was refused, where it was.
    pub reason: Option<String>,
}

impl SendReport {
    pub(super) fn of(posted: &Posted, outcome: Outcome) -> Self {
        let mut report = Self {
            op: posted.op.number(),
            state: "stored".to_owned(),
            stream: posted.stream.map(|stream| stream.to_string()),
            seq: None,
            reason: None,
        };
        match outcome {
            Outcome::StillStored => {}
            Outcome::Accepted { stream, seq } => {
                report.state = "accepted".to_owned();
                report.stream = stream.map(|stream| stream.to_string()).or(report.stream);
                report.seq = seq.map(Seq::number);
            }
            Outcome::Refused(reason) => {
                report.state = "refused".to_owned();
                report.reason = Some(reason.to_string());
            }
        }
        report
    }
}

/// How a client is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// `paused`, `offline`, `connecting`, `connected`, `in_step`, `refused` or `captive_portal`.
    pub link: String,
    /// Why the last connection ended, or what a person has to do.
    pub detail: Option<String>,
    /// Operations that are stored and not yet accepted.
    pub waiting: u64,
    /// Bytes of their content.
    pub waiting_bytes: u64,
    /// How many operations may wait; positions are refused at 15/16 of it.
    pub waiting_max: u64,
    /// How many bytes may.
    pub waiting_bytes_max: u64,
    /// Operations that the server will not apply.
    pub parked: Vec<ParkedReport>,
    /// Entries that are stored and not yet confirmed as shown.
    pub unshown: u64,
    /// The device's direct stream with the office, once it is known.
    pub office_stream: Option<String>,
    /// Conversations of which the server has earlier entries that are not here.
    pub earlier: Vec<EarlierReport>,
    /// The groups that the device is in.
    pub groups: Vec<GroupReport>,
    /// The version of the template catalogue; 0 while there is none.
    pub catalogue_version: u32,
    /// Whether that is the one that the server offers now; false while there is no link to ask.
    pub catalogue_is_current: bool,
    /// What to add to the device's wall clock to get the server's, in milliseconds; negative where the device is ahead.
    pub clock_offset_ms: Option<i64>,
    /// The random number of the outbox.
    pub epoch: String,
    /// Counts since the holder has opened the folder.
    pub counters: CountersReport,
}

/// A conversation of which the server has earlier entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierReport {
    /// The conversation.
    pub stream: String,
    /// The last of them.
    pub until: u64,
}

/// A group that the device is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its id.
    pub id: String,
    /// Its conversation.
    pub stream: String,
    /// What people call it.
    pub title: String,
}

/// The quick replies that can be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueReport {
    /// Grows with each change; 0 while the device has none.
    pub version: u32,
    /// In the order of their numbers.
    pub templates: Vec<TemplateReport>,
}

/// One quick reply that can be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateReport {
    /// What systems call it.
    pub key: String,
    /// What it says, with its slots in braces.
    pub text: String,
    /// What is filled in.
    pub slots: Vec<SlotReport>,
}

/// A slot of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// As it stands between the braces.
    pub name: String,
    /// `text`, `number` or `time`.
    pub kind: String,
}

impl CatalogueReport {
    pub(super) fn of(catalogue: &Catalogue) -> Self {
        let slot = |slot: &waypost_proto::Slot| SlotReport {
            name: slot.name.clone(),
            kind: match slot.kind {
                SlotKind::Text => "text",
                SlotKind::Number => "number",
                SlotKind::Time => "time",
            }
            .to_owned(),
        };
        let template = |template: &Template| TemplateReport {
            key: template.key.clone(),
            text: template.text.clone(),
            slots: template.slots.iter().map(slot).collect(),
        };
        Self {
            version: catalogue.version,
            templates: catalogue.templates.iter().map(template).collect(),
        }
    }
}

/// An operation that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedReport {
    /// Its number.
    pub op: u64,
    /// The stream it was for.
    pub stream: Option<String>,
    /// Why.
    pub reason: String,
}

/// The counts that say something to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersReport {
    /// Connections that stood.
    pub connections: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Their payload bytes.
    pub frame_bytes_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Operations sent, repetitions included.
    pub ops_sent: u64,
    /// Operations sent again.
    pub ops_repeated: u64,
    /// Operations accepted.
    pub ops_accepted: u64,
    /// Operations refused for good.
    pub ops_refused: u64,
    /// Operations that were not taken, as the outbox was full.
    pub ops_over_bound: u64,
    /// Operations of history that were put together or given up for want of room.
    pub ops_thinned: u64,
    /// Fixes that went with them.
    pub fixes_thinned: u64,
    /// Fixes for which there was no room at all.
    pub fixes_refused: u64,
    /// Fixes that were not later than one before.
    pub fixes_late: u64,
    /// How wrong the history is at most without these fixes, in metres.
    pub thinning_error_m: u32,
    /// Entries stored.
    pub entries_stored: u64,
    /// Entries that came again and were ignored.
    pub entries_repeated: u64,
}

impl StatusReport {
    pub(super) fn of(status: &Status) -> Self {
        let (link, detail) = match &status.link {
            LinkState::Paused => ("paused", None),
            LinkState::Offline(why) => ("offline", why.clone()),
            LinkState::Connecting => ("connecting", None),
            LinkState::Connected => ("connected", None),
            LinkState::InStep => ("in_step", None),
            LinkState::Refused(advice) => ("refused", Some(advice.clone())),
            LinkState::CaptivePortal { advice } => ("captive_portal", Some(advice.clone())),
        };
        let parked = status.parked.iter().map(|parked| ParkedReport {
            op: parked.op.number(),
            stream: parked.stream.map(|stream| stream.to_string()),
            reason: parked.reason.to_string(),
        });
        let groups = status.groups.iter().map(|group| GroupReport {
            id: group.group.to_string(),
            stream: group.stream.to_string(),
            title: group.title.clone(),
        });
        let earlier = status.earlier.iter().map(|(stream, until)| EarlierReport {
            stream: stream.to_string(),
            until: until.number(),
        });
        let counters = status.counters;
        Self {
            link: link.to_owned(),
            detail,
            waiting: status.waiting_ops,
            waiting_bytes: status.waiting_bytes,
            waiting_max: status.bounds.ops_max,
            waiting_bytes_max: status.bounds.bytes_max,
            parked: parked.collect(),
            unshown: status.unshown_entries,
            office_stream: status.office_stream.map(|stream| stream.to_string()),
            earlier: earlier.collect(),
            groups: groups.collect(),
            catalogue_version: status.catalogue_version,
            catalogue_is_current: status.catalogue_is_current,
            clock_offset_ms: status.clock_offset_ms,
            epoch: status.epoch.to_string(),
            counters: CountersReport {
                connections: counters.connections,
                frames_sent: counters.frames_sent,
                frame_bytes_sent: counters.frame_bytes_sent,
                frames_received: counters.frames_received,
                ops_sent: counters.ops_sent,
                ops_repeated: counters.ops_repeated,
                ops_accepted: counters.ops_accepted,
                ops_refused: counters.ops_refused,
                ops_over_bound: counters.ops_over_bound,
                ops_thinned: counters.ops_thinned,
                fixes_thinned: counters.fixes_thinned,
                fixes_refused: counters.fixes_refused,
                fixes_late: counters.fixes_late,
                thinning_error_m: counters.thinning_error_m,
                entries_stored: counters.entries_stored,
                entries_repeated: counters.entries_repeated,
            },
        }
    }
}

/// An entry to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReport {
    /// The conversation that it belongs to.
    pub stream: String,
    /// Its place there.
    pub seq: u64,
    /// `device`, `person` or `system`.
    pub author_kind: String,
    /// The author's id; `None` for the system.
    pub author_id: Option<String>,
    /// The author's name, where the server has told it.
    pub author_name: Option<String>,
    /// When the server accepted it, UTC milliseconds; `None` for the device's own.
    pub server_ms: Option<i64>,
    /// When a device wrote it, UTC milliseconds by its clock.
    pub device_ms: Option<i64>,
    /// The author's operation number; devices only.
    pub author_op: Option<u64>,
    /// Goes before ordinary ones.
    pub urgent: bool,
    /// The entry that it answers.
    pub reply_to: Option<u64>,
    /// The broadcast to which that entry belongs; `None` for one of the same stream.
    pub reply_stream: Option<String>,
    /// UTC milliseconds after which it must not be shown as current.
    pub expires_ms: Option<i64>,
    /// `current`, `expired` or `superseded`. An entry that was offered as current and is not any more comes again.
    pub standing: String,
    /// The earlier entry whose place it takes.
    pub supersedes: Option<u64>,
    /// The later one that has taken its place.
    pub superseded_by: Option<u64>,
    /// What it says, for a quick reply too; `None` for what is no message, or that this version cannot show.
    pub text: Option<String>,
    /// The quick reply that it is.
    pub reply: Option<ReplyReport>,
    /// Who has joined or left.
    pub member: Option<MemberReport>,
}

/// A quick reply, beside what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyReport {
    /// What systems call its template; its number where this device does not have it.
    pub template: String,
    /// The version of the catalogue in which its author saw it.
    pub version: u32,
    /// The values by the names of their slots.
    pub slots: BTreeMap<String, String>,
}

/// Somebody who has joined or left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The device.
    pub device: String,
    /// Its name, where the server has told it.
    pub name: Option<String>,
    /// Joined otherwise.
    pub left: bool,
}

impl EntryReport {
    /// The entry as it is printed and handed over.
    pub fn of(entry: &Entry) -> Self {
        let (author_kind, author_id) = match entry.author {
            Author::Device(device) => ("device", Some(device.to_string())),
            Author::Person(person) => ("person", Some(person.to_string())),
            Author::System => ("system", None),
        };
        let (standing, superseded_by) = match entry.standing {
            Standing::Current => ("current", None),
            Standing::Expired => ("expired", None),
            Standing::Superseded { by } => ("superseded", Some(by)),
        };
        let (mut reply, mut member) = (None, None);
        match &entry.body {
            EntryBody::Reply { reply: of, .. } => {
                let words = entry.reply.as_ref();
                reply = Some(ReplyReport {
                    template: words
                        .and_then(|words| words.key.clone())
                        .unwrap_or_else(|| of.template.to_string()),
                    version: of.version,
                    slots: words.map_or_else(BTreeMap::new, |words| words.slots.iter().cloned().collect()),
                });
            }
            EntryBody::Membership { device, change } => {
                member = Some(MemberReport {
                    device: device.to_string(),
                    name: entry.member_name.clone(),
                    left: *change == MembershipChange::Left,
                });
            }
            EntryBody::Text(_) | EntryBody::Unsupported => {}
        }
        Self {
            stream: entry.stream.to_string(),
            seq: entry.seq.number(),
            author_kind: author_kind.to_owned(),
            author_id,
            author_name: entry.author_name.clone(),
            server_ms: entry.server_ms,
            device_ms: entry.device_ms,
            author_op: entry.author_op.map(waypost_proto::OpNumber::number),
            urgent: entry.urgent,
            reply_to: entry.reply_to.map(Seq::number),
            expires_ms: entry.expires_ms,
            standing: standing.to_owned(),
            supersedes: entry.supersedes.map(Seq::number),
            superseded_by: superseded_by.map(Seq::number),
            reply_stream: entry.reply_stream.map(|stream| stream.to_string()),
            text: entry.text().map(str::to_owned),
            reply,
            member,
        }
    }

    /// Its stream and seq; `None` where another version wrote what is neither.
    pub fn place(&self) -> Option<(StreamId, Seq)> {
        Some((self.stream.parse().ok()?, Seq::new(self.seq)?))
    }
}

impl From<PostError> for Response {
    fn from(error: PostError) -> Self {
        Self::Error(error.to_string())
    }
}

impl From<HandoverError> for Response {
    fn from(error: HandoverError) -> Self {
        Self::Error(error.to_string())
    }
}
