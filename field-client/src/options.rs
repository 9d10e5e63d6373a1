//! What an embedder may set, with the reasons for the defaults.

use crate::Policy;
use std::time::Duration;
use waypost_proto::TopicPrefix;

/// Settings of a client. `Options::default()` is right for a vehicle.
#[derive(Debug, Clone)]
pub struct Options {
    /// Operations that may wait for the server. From 7/8 on history thins out; at 15/16 positions are refused as
    /// [`PostError::HistoryFull`](crate::PostError::HistoryFull), at the whole messages as
    /// [`PostError::OutboxFull`](crate::PostError::OutboxFull). 100,000: a month of driving; so many
    /// take about 40 MB of memory.
    pub outbox_ops_max: usize,
    /// Bytes of their content, in the same way. 256 MB.
    pub outbox_bytes_max: u64,
    /// Sent and not yet accepted, at most: beyond it sending pauses until something is accepted. Within it the window
    /// follows the link, from two frames on: what is under way on a 2 kB/s link is about that. 16 kB.
    pub inflight_bytes_max: usize,
    /// BCP 47 tag of the driver's language, at most 35 bytes; `en`.
    pub locale: String,
    /// Name and version of the app, at most 64 bytes.
    pub app: String,
    /// What a shared broker puts before every topic; nothing.
    pub topic_prefix: TopicPrefix,
    /// Seconds without a byte in either direction after which a ping goes out, to begin with: the client looks for the longest
    /// that each network bears (see [`Client::network_changed`](crate::Client::network_changed)). Also how long nothing may come
    /// while frames are sent that are not answered. 60: a mobile carrier's address translation seldom forgets sooner.
    pub keep_alive_s: u16,
    /// The longest that it comes to, at least `keep_alive_s`; the server may name less. The server is told it when a connection
    /// begins, and takes a device that has vanished for gone after one and a half times as long. 450: 32 kB a day where 60
    /// costs 242, and 11 minutes for the server to notice. 840 would save 15 kB more, and take 21 minutes.
    pub keep_alive_max_s: u16,
    /// What was sent must be answered by anything at all within this time, or the connection counts as dead. 20 s.
    pub answer_timeout: Duration,
    /// For the connection to one address, TLS and WebSocket included, and again for the server's CONNACK. Where an address has not
    /// answered after 2.5 s the next one is tried beside it. 10 s.
    pub connect_timeout: Duration,
    /// The first pause between attempts to connect is drawn from nothing to this. 0.5 s.
    pub backoff_base: Duration,
    /// The pause is never longer than this. 60 s.
    pub backoff_cap: Duration,
    /// What of [`Client::fix`](crate::Client::fix) the history keeps, and how wrong the office may be about where the device is
    /// now. [`Policy::STANDARD`].
    pub policy: Policy,
    /// Fixes of [`Client::record`](crate::Client::record) that make a track operation. 60; at most [`waypost_proto::TRACK_FIXES_MAX`].
    pub track_fixes: usize,
    /// The oldest unsaved fix is never older than this: what a power cut may cost of the history. 30 s.
    pub track_age: Duration,
    /// Whether the client connects as soon as it is open.
    pub link: LinkAtStart,
}

/// Whether to connect at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkAtStart {
    /// Connect at once.
    Connect,
    /// Wait for [`Client::resume_link`](crate::Client::resume_link).
    Paused,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            outbox_ops_max: 100_000,
            outbox_bytes_max: 256_000_000,
            inflight_bytes_max: 16_000,
            locale: "en".to_owned(),
            app: concat!("waypost-field-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            topic_prefix: TopicPrefix::default(),
            keep_alive_s: 60,
            keep_alive_max_s: 450,
            answer_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(60),
            policy: Policy::STANDARD,
            track_fixes: 60,
            track_age: Duration::from_secs(30),
            link: LinkAtStart::Connect,
        }
    }
}

/// A setting that contradicts itself or another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client's option {option} must be {rule}")]
pub struct InvalidOption {
    /// Its name in [`Options`].
    pub option: &'static str,
    /// What it has to satisfy.
    pub rule: &'static str,
}

impl Options {
    /// Checks every setting and how they relate.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let invalid = |option, rule| Err(InvalidOption { option, rule });
        if self.outbox_ops_max == 0 {
            return invalid("outbox_ops_max", "at least 1");
        }
        if self.outbox_bytes_max < waypost_proto::FRAME_BYTES_MAX as u64 {
            return invalid("outbox_bytes_max", "at least one frame, 65,536");
        }
        if self.inflight_bytes_max == 0 {
            return invalid("inflight_bytes_max", "at least 1");
        }
        if self.locale.len() > 35 {
            return invalid("locale", "at most 35 bytes");
        }
        if self.app.len() > 64 {
            return invalid("app", "at most 64 bytes");
        }
        if self.keep_alive_s < 5 {
            return invalid("keep_alive_s", "at least 5");
        }
        if self.keep_alive_max_s < self.keep_alive_s {
            return invalid("keep_alive_max_s", "at least keep_alive_s");
        }
        if self.answer_timeout.is_zero() || self.connect_timeout.is_zero() {
            return invalid("answer_timeout and connect_timeout", "above zero");
        }
        if self.backoff_base.is_zero() || self.backoff_base > self.backoff_cap {
            return invalid("backoff_base", "above zero and at most backoff_cap");
        }
        if !(1..=waypost_proto::TRACK_FIXES_MAX).contains(&self.track_fixes) {
            return invalid("track_fixes", "1 to 1,000");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_contradictions_are_named() {
        assert_eq!(Options::default().check(), Ok(()));
        let contradiction = Options {
            backoff_base: Duration::from_secs(90),
            ..Options::default()
        };
        assert_eq!(contradiction.check().unwrap_err().option, "backoff_base");
        let contradiction = Options {
            keep_alive_s: 900,
            ..Options::default()
        };
        assert_eq!(contradiction.check().unwrap_err().option, "keep_alive_max_s");
    }
}
