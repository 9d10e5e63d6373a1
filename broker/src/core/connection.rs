//! One connection: what it is told besides messages, how long it may be silent, and which session it speaks for.
//!
//! A connection that has ended keeps its slot until its task has written the last word; the session goes on without it, or is
//! taken over by another connection, so that `session` is empty from then on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::Version;
use super::packet::Output;
use crate::auth::Principal;
use crate::reason::Reason;

/// One client that was let in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) principal: Principal,
    pub(crate) version: Version,
    /// The session that it speaks for, until it ends.
    pub(crate) session: Option<usize>,
    /// Set once; from then on nothing is read from it.
    pub(crate) ended: Option<Reason>,
    /// True from the wake-up until the connection has taken its output.
    pub(crate) woken: bool,
    /// True while a packet of it waits for room on a link.
    pub(crate) paused: bool,
    /// When it said something last.
    pub(crate) last_heard: Instant,
    silence_max: Option<Duration>,
    control: VecDeque<Output>,
    acknowledgements_unsent: u16,
}

impl Connection {
    pub(crate) fn new(
        principal: Principal,
        version: Version,
        session: usize,
        keep_alive_s: u16,
        now: Instant,
    ) -> Connection {
        Connection {
            principal,
            version,
            session: Some(session),
            ended: None,
            woken: false,
            paused: false,
            last_heard: now,
            // [MQTT-3.1.2-22] one and a half times the keep-alive; zero turns it off.
            silence_max: (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1_500)),
            control: VecDeque::new(),
            acknowledgements_unsent: 0,
        }
    }

    /// When the silence becomes too long; `None` where it never does, or where it is the broker that does not read.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.paused || self.ended.is_some() {
            return None;
        }
        self.silence_max.map(|silence| self.last_heard + silence)
    }

    /// Says something that is not an application message. Bounded by what the client says and has answered: while output
    /// is unsent, nothing more is read from it.
    pub(crate) fn say(&mut self, output: Output) {
        // The last word has been said.
        if self.ended.is_some() {
            return;
        }
        // A PUBREC that takes a message leaves it unacknowledged; its identifier is counted by the session.
        let acknowledges = match output {
            Output::PubAck { .. } | Output::PubComp { .. } => true,
            Output::PubRec { refused, .. } => refused.is_some(),
            _ => false,
        };
        if acknowledges {
            self.acknowledgements_unsent = self.acknowledgements_unsent.saturating_add(1);
        }
        self.control.push_back(output);
    }

    /// Publishes that the client has no last acknowledgement for, although there is one.
    pub(crate) fn acknowledgements_unsent(&self) -> usize {
        usize::from(self.acknowledgements_unsent)
    }

    /// Moves what it is told into `out`.
    pub(crate) fn drain(&mut self, out: &mut Vec<Output>) {
        self.woken = false;
        self.acknowledgements_unsent = 0;
        // An idle connection holds no queue.
        out.extend(std::mem::take(&mut self.control));
    }

    /// What was drained, and is to be drained again before anything that is said from now on.
    pub(crate) fn put_back(&mut self, outputs: Vec<Output>) {
        self.control = outputs.into_iter().chain(self.control.drain(..)).collect();
    }

    /// Ends it; the session that it spoke for, the first time.
    pub(crate) fn end(&mut self, reason: Reason) -> Option<usize> {
        let session = self.session.take()?;
        self.ended = Some(reason);
        if !matches!(reason, Reason::ClientDisconnected | Reason::ConnectionLost) {
            self.control.push_back(Output::Disconnect(reason));
        }
        Some(session)
    }
}
