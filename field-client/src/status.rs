//! How a client is doing, as a value.

use crate::Group;
use crate::client::Refused;
use std::time::Duration;
use waypost_proto::{Epoch, OpNumber, Seq, StreamId};

/// A snapshot of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The link to the server.
    pub link: LinkState,
    /// Operations that are stored and not yet accepted by the server.
    pub waiting_ops: u64,
    /// Bytes of their content.
    pub waiting_bytes: u64,
    /// How many operations may wait, with how many bytes.
    pub bounds: OutboxBounds,
    /// Operations that the server will not apply, oldest first; the newest 1,000 are kept.
    pub parked: Vec<Parked>,
    /// Entries that are stored and not yet confirmed as shown.
    pub unshown_entries: u64,
    /// The device's direct stream with the office, once a server has named it.
    pub office_stream: Option<StreamId>,
    /// Streams of which the server has earlier entries that are not here, with the last of them: see
    /// [`Client::earlier`](crate::Client::earlier).
    pub earlier: Vec<(StreamId, Seq)>,
    /// The groups that the device is in.
    pub groups: Vec<Group>,
    /// The version of the template catalogue; 0 while there is none.
    pub catalogue_version: u32,
    /// Whether that is the one that the server offers now; false while there is no link to ask.
    pub catalogue_is_current: bool,
    /// What to add to the device's wall clock to get the server's, in milliseconds, as it is estimated now; negative where
    /// the device is ahead. `None` before the first answer of a server.
    pub clock_offset_ms: Option<i64>,
    /// The random number of this outbox.
    pub epoch: Epoch,
    /// The idle time after which a ping keeps the connection, as far as that was learnt of the network.
    pub keep_alive: Duration,
    /// What was counted since the client was opened.
    pub counters: Counters,
}

/// What the outbox takes. History thins out at 7/8, before anything is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Operations that may wait, [`Options::outbox_ops_max`](crate::Options::outbox_ops_max).
    pub ops_max: u64,
    /// Bytes of their content, [`Options::outbox_bytes_max`](crate::Options::outbox_bytes_max).
    pub bytes_max: u64,
    /// Positions are taken while fewer operations than this wait: 15/16; what is left is for messages.
    pub history_ops_max: u64,
    /// The same for bytes.
    pub history_bytes_max: u64,
}

/// The link to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Cut by [`Client::pause_link`](crate::Client::pause_link).
    Paused,
    /// No connection; the next attempt is due after a pause. Holds why the last one failed, where one did.
    Offline(Option<String>),
    /// An attempt is under way.
    Connecting,
    /// MQTT is connected; the server has not yet answered the hello.
    Connected,
    /// The server has answered the hello: everything flows.
    InStep,
    /// The server will not have this device; says what a person has to do. No further attempt is made before
    /// [`Client::resume_link`](crate::Client::resume_link).
    Refused(String),
    /// Who answers is not the server but the network on the way, which wants a person to sign in, as the Wi-Fi of a hotel or a
    /// depot does. An app shows "This Wi-Fi wants you to sign in" and offers to open a browser, and the advice beside it, as it
    /// may also be a server that was set up wrongly. Attempts go on every 15 to 60 s, and at once after
    /// [`Client::network_changed`](crate::Client::network_changed); the state stays until one of them ends otherwise.
    CaptivePortal {
        /// What was seen and what helps.
        advice: String,
    },
}

impl LinkState {
    /// Whether a connection stands.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected | Self::InStep)
    }

    /// Whether the server has answered the hello of the connection.
    pub fn is_in_step(&self) -> bool {
        *self == Self::InStep
    }
}

/// An operation that was given up, with the reason to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Its number.
    pub op: OpNumber,
    /// The stream it was for; `None` for positions.
    pub stream: Option<StreamId>,
    /// Why the server will not apply it.
    pub reason: Refused,
}

/// What a client has counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames sent.
    pub frames_sent: u64,
    /// Their payload bytes.
    pub frame_bytes_sent: u64,
    /// Frames received, ignored ones included.
    pub frames_received: u64,
    /// Frames of another session that were ignored.
    pub frames_of_other_sessions: u64,
    /// Frames from a server of an older generation that were ignored.
    pub frames_of_older_generations: u64,
    /// Frames of groups that were ignored: while not in step, of another store or generation, or of a group that the
    /// device is not in.
    pub group_frames_ignored: u64,
    /// Groups and catalogues that were not taken: unreadable, older than what is here, or beyond a bound.
    pub snapshots_unusable: u64,
    /// Subscriptions of groups and catalogues that the server refused.
    pub topics_refused: u64,
    /// Frames that could not be read.
    pub frames_unreadable: u64,
    /// Frames of ours that the server could not read.
    pub frames_refused: u64,
    /// Operations sent, repetitions included.
    pub ops_sent: u64,
    /// Operations sent again.
    pub ops_repeated: u64,
    /// Operations accepted by the server.
    pub ops_accepted: u64,
    /// Operations refused by the server for good.
    pub ops_refused: u64,
    /// Operations given up because they expired before the server had them.
    pub ops_expired: u64,
    /// Entries whose change of standing was not told, as too many were.
    pub standings_over_bound: u64,
    /// Operations that the server put off (no space, too far ahead); they stay and are repeated.
    pub ops_put_off: u64,
    /// Operations refused to the caller because the outbox was full.
    pub ops_over_bound: u64,
    /// Operations of history that were put together with others, or given up, for want of room.
    pub ops_thinned: u64,
    /// Fixes that went with them: what the server gets is coarser by these.
    pub fixes_thinned: u64,
    /// Fixes that were recorded while the outbox took no positions, and for which there was no room to wait.
    pub fixes_refused: u64,
    /// Fixes that were left out of the history, as they were not later than one before.
    pub fixes_late: u64,
    /// How far at most the way that is told is from one of these fixes at its moment; metres, rounded up.
    pub thinning_error_m: u32,
    /// Refused operations that are not listed any more, as there were more than 1,000.
    pub parked_forgotten: u64,
    /// Accepted operations, of more than 10,000 whose entries had not come, that will show as ones that this device
    /// cannot show.
    pub accepted_forgotten: u64,
    /// Accepted operations, of more than 20,000 in seven days, that a server which is put back from a backup would not
    /// get again.
    pub kept_forgotten: u64,
    /// Entries stored.
    pub entries_stored: u64,
    /// Entries that came again and were ignored.
    pub entries_repeated: u64,
    /// Entries left for a later repetition because they would have opened a ninth range, or a stream or name too many.
    pub entries_over_bound: u64,
    /// Entries left to be repeated, as the server has not yet acknowledged the operation of ours that they are said to be.
    pub entries_put_off: u64,
    /// Times of reading that were forgotten because more than 32 of one stream waited: what was read then counts as read
    /// with what came next.
    pub reading_times_over_bound: u64,
    /// Entries that came by the page.
    pub entries_paged: u64,
    /// Pages that came again, or were not asked for, and were ignored.
    pub pages_repeated: u64,
    /// Hellos sent.
    pub hellos: u64,
    /// Times that this outbox was found to be a copy and drew a new epoch.
    pub forks: u64,
    /// Connections that stood.
    pub connections: u64,
}
