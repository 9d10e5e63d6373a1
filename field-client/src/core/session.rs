//! Where the device stands with the server: no connection, a hello to be sent, sent, or answered.

use super::compose::FRAME_BYTES_TARGET;
use super::outbox::UnderWay;
use super::positions::UNHURRIED_AGAIN;
use super::write::Batch;
use super::{Contact, Core, Mutation, Now, SESSION_MAX};
use std::time::{Duration, Instant};
use waypost_proto::{SessionTag, Window};

/// A hello that the server asks for is sent at most this often.
const HELLO_PAUSE: Duration = Duration::from_secs(5);
/// What the server says of the time in passing is rounded to seconds, and was under way.
const TIME_TOLD_DOUBT_MS: u64 = 1_000;
/// Positions in full are sent at most this often for one question: a server that has them and has no entry to send says
/// nothing that could be told from having lost them.
const POSITIONS_TIMES_MAX: u32 = 6;

/// The state of the session, and the tags.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) state: SessionState,
    /// The last tag that was reserved.
    last_tag: Option<SessionTag>,
    /// A tag that no hello has used, and whether it is on disk.
    reserved: Option<(SessionTag, bool)>,
    /// When the last hello left.
    last_hello: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum SessionState {
    /// No connection.
    Offline,
    /// Connected; the hello leaves as soon as its tag is on disk.
    Greeting,
    /// The hello has left; it is repeated, under the next tag, at `repeat`.
    Waiting { hello: Hello, repeat: Instant },
    /// The server has answered.
    InStep(InStep),
}

/// A hello that has left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hello {
    pub(super) tag: SessionTag,
    /// The base of all relative times of the session.
    pub(super) at: Now,
    /// From this number on it has listed nothing that is under way.
    pub(super) listed_below: u64,
}

/// A session that the server has answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct InStep {
    pub(super) hello: Hello,
    /// The server's clock when the hello arrived.
    pub(super) welcome_ms: i64,
    /// The positions in full, which the server asked for.
    pub(super) positions: Positions,
    /// When to say hello again on this connection.
    pub(super) hello_again: Instant,
}

/// Whether the server waits for the positions in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// It does not, or has shown that it has them.
    Settled,
    /// They are to be sent, after so many times.
    Owed { times: u32 },
    /// They were sent so often, the last time then; the first entry settles it, as the server sends none before.
    Sent { at: Instant, times: u32 },
}

impl Session {
    pub(super) fn new(last_tag: Option<SessionTag>) -> Self {
        Self {
            state: SessionState::Offline,
            last_tag,
            reserved: None,
            last_hello: None,
        }
    }

    pub(super) fn reserve(&mut self) -> SessionTag {
        let tag = self.last_tag.map_or(SessionTag::FIRST, SessionTag::next);
        self.last_tag = Some(tag);
        self.reserved = Some((tag, false));
        tag
    }

    pub(super) fn tag_stored(&mut self, stored: SessionTag) {
        if let Some((tag, on_disk)) = &mut self.reserved
            && *tag == stored
        {
            *on_disk = true;
        }
    }

    fn usable_tag(&self) -> Option<SessionTag> {
        self.reserved.filter(|&(_, on_disk)| on_disk).map(|(tag, _)| tag)
    }
}

impl Core {
    /// A connection is about to be made: reserves the tag of its hello, which also stands in its will.
    pub(crate) fn prepare(&mut self, now: Now) {
        if self.session.reserved.is_none() {
            let mut batch = Batch::default();
            self.reserve_tag(&mut batch);
            self.write(batch, now);
        }
    }

    /// The tag for the will of the connection that [`prepare`](Self::prepare) was called for; `None` until it is on
    /// disk.
    pub(crate) fn prepared_tag(&self) -> Option<SessionTag> {
        self.session.usable_tag()
    }

    /// MQTT is connected: the hello is due.
    pub(crate) fn handle_connected(&mut self, now: Now) {
        self.counters.connections += 1;
        self.window = Window::new(FRAME_BYTES_TARGET, self.config.inflight_bytes_max);
        self.known.begin_connection();
        self.greet(now);
    }

    /// The connection is gone. What is under way waits for the welcome of the next session.
    pub(crate) fn handle_disconnected(&mut self) {
        self.session.state = SessionState::Offline;
        self.known.end_connection();
        self.end_pages();
    }

    /// Whether the server has answered the hello.
    pub(crate) fn is_in_step(&self) -> bool {
        matches!(self.session.state, SessionState::InStep(_))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, or a frame is; the past for at once.
    pub(crate) fn poll_timeout(&self, now: Now) -> Option<Instant> {
        let due = [self.next_end(now), self.session_due(now), self.in_hand_due()];
        due.into_iter().flatten().min()
    }

    fn session_due(&self, now: Now) -> Option<Instant> {
        match self.session.state {
            SessionState::Offline | SessionState::Greeting => None,
            SessionState::Waiting { repeat, .. } => Some(repeat),
            SessionState::InStep(session) => {
                let repetition = self
                    .oldest_unanswered(session)
                    .map(|at| at + self.repetition.interval());
                let report = self.inbox.next_due(now);
                let fetch = self.known.fetch_due(self.repetition.interval());
                let unhurried = self.outbox.oldest_unhurried().map(|at| at + UNHURRIED_AGAIN);
                [Some(session.hello_again), repetition, unhurried, report, fetch]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.end_what_is_over(now);
        self.write_in_hand_if_due(now);
        match self.session.state {
            SessionState::Waiting { repeat, .. } if repeat <= now.mono => {
                self.repetition.expired();
                self.greet(now);
            }
            SessionState::InStep(session) if session.hello_again <= now.mono => self.greet(now),
            SessionState::InStep(session) => {
                self.known.repeat_fetch(self.repetition.interval(), now);
                self.repeat_what_is_due(session, now);
            }
            _ => {}
        }
    }

    /// A hello is due: on a new connection, or again on this one, always under a tag of its own.
    pub(super) fn greet(&mut self, now: Now) {
        self.session.state = SessionState::Greeting;
        self.prepare(now);
    }

    /// The server does not know the session.
    pub(super) fn handle_hello_please(&mut self, now: Now) {
        let earliest = self
            .session
            .last_hello
            .map_or(now.mono, |last| last + HELLO_PAUSE);
        match &mut self.session.state {
            SessionState::Offline | SessionState::Greeting => {}
            _ if earliest <= now.mono => self.greet(now),
            // Too soon: it may have crossed the hello that it asks for.
            SessionState::Waiting { repeat, .. } => *repeat = (*repeat).min(earliest),
            SessionState::InStep(session) => session.hello_again = session.hello_again.min(earliest),
        }
    }

    /// The hello is in a frame that leaves now. `None` where its tag is not yet on disk.
    pub(super) fn say_hello(&mut self, now: Now) -> Option<(Hello, UnderWay)> {
        let tag = self.session.usable_tag()?;
        self.outbox.begin_session();
        self.session.reserved = None;
        self.session.last_hello = Some(now.mono);
        let under_way = self.outbox.under_way();
        let hello = Hello {
            tag,
            at: now,
            listed_below: under_way.end(),
        };
        let repeat = now.mono + self.repetition.interval();
        self.session.state = SessionState::Waiting { hello, repeat };
        self.counters.hellos += 1;
        Some((hello, under_way))
    }

    /// The server has answered `hello`.
    pub(super) fn enter_step(&mut self, hello: Hello, welcome_ms: i64, positions: Positions, now: Now) {
        self.repetition
            .measured(now.mono.saturating_duration_since(hello.at.mono));
        self.repetition.progress();
        self.window.handle_acknowledged(0, 0, hello.at.mono, now.mono);
        self.pages.repeat();
        self.session.state = SessionState::InStep(InStep {
            hello,
            welcome_ms,
            positions,
            hello_again: now.mono + SESSION_MAX,
        });
    }

    /// A welcome says what the server's clock showed when the hello arrived: on average half a round trip ago.
    pub(super) fn note_contact(&mut self, hello: Hello, welcome_ms: i64, batch: &mut Batch, now: Now) {
        let round_trip = now.mono.saturating_duration_since(hello.at.mono);
        let half_ms = u64::try_from((round_trip / 2).as_millis()).unwrap_or(u64::MAX);
        self.take_contact(welcome_ms.saturating_add_unsigned(half_ms), half_ms, batch, now);
    }

    /// In a long session the server tells now and then how long ago the hello arrived: how fast the steady clock runs does
    /// not have to wait for the next connection.
    pub(super) fn note_time_told(&mut self, session: InStep, seconds: u32, batch: &mut Batch, now: Now) {
        if seconds > 0 {
            let server_ms = session.welcome_ms.saturating_add(i64::from(seconds) * 1_000);
            self.take_contact(server_ms, TIME_TOLD_DOUBT_MS, batch, now);
        }
    }

    fn take_contact(&mut self, server_ms: i64, doubt_ms: u64, batch: &mut Batch, now: Now) {
        let contact = Contact {
            steady: now.reading(),
            wall_ms: now.wall_ms,
            server_ms,
            doubt_ms,
        };
        if self.server_clock.take(contact) {
            let clock = self.server_clock.clone();
            batch.mutations.push(Mutation::PutServerClock(clock));
        }
    }

    /// What was sent longest ago and has no answer.
    fn oldest_unanswered(&self, session: InStep) -> Option<Instant> {
        let positions = match session.positions {
            Positions::Sent { at, .. } => Some(at),
            Positions::Settled | Positions::Owed { .. } => None,
        };
        let voids = self.voids.values().filter_map(|void| void.sent).min();
        let parts = [
            self.outbox.oldest_sent(),
            self.inbox.oldest_reported(),
            voids,
            positions,
            self.pages.oldest_sent(),
        ];
        parts.into_iter().flatten().min()
    }

    /// Nothing waits for luck: what has had no answer for the repetition interval is due again.
    fn repeat_what_is_due(&mut self, session: InStep, now: Now) {
        let oldest = self.outbox.oldest_unhurried();
        if oldest.is_some_and(|at| at + UNHURRIED_AGAIN <= now.mono) {
            // With what is nearly due, in the same frame.
            self.outbox
                .repeat_unhurried(|at| at + UNHURRIED_AGAIN / 2 <= now.mono);
        }
        let interval = self.repetition.interval();
        if self
            .oldest_unanswered(session)
            .is_none_or(|oldest| oldest + interval > now.mono)
        {
            return;
        }
        // What is nearly due goes in the same frame rather than after a doubled interval.
        let Some(before) = now.mono.checked_sub(interval / 2) else {
            return;
        };
        self.repetition.expired();
        self.outbox.repeat_sent_before(before);
        self.inbox.repeat_reported_before(before);
        self.pages.repeat_sent_before(before);
        for void in self.voids.values_mut() {
            void.sent = void.sent.filter(|&at| at > before);
        }
        if let SessionState::InStep(session) = &mut self.session.state
            && let Positions::Sent { at, times } = session.positions
            && at <= before
        {
            session.positions = if times < POSITIONS_TIMES_MAX {
                Positions::Owed { times }
            } else {
                Positions::Settled
            };
        }
    }
}
