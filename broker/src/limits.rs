//! Every bound of the broker, its unit, its default, and what happens when it is reached.
//!
//! A bound is never reached in silence: the one who reached it gets a typed answer, and [`crate::Stats`] counts it under
//! the [`crate::Reason`] named here.

use std::time::Duration;

/// The bounds of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at the same time; default 10,000. The next CONNECT is answered 0x97 (3.1.1: 3):
    /// [`crate::Reason::ConnectionLimit`]. The broker holds at most as many byte streams as this and twice `handshakes_max`:
    /// those that shake hands, and sessions that are being closed. Keep that below the limit of file handles.
    pub connections_max: usize,
    /// Byte streams that have not finished their CONNECT yet; default 1,000. The next one is closed unanswered:
    /// [`crate::Reason::HandshakeLimit`]. Each may hold `connect_bytes_max`.
    pub handshakes_max: usize,
    /// Connections that one address may open within a minute, all of them at once or one by one; default 3,000. Mobile
    /// operators put many clients behind one address. A /64 of IPv6 is one address. The next is answered 0x9F (3.1.1: 3)
    /// where half of `handshakes_max` are free, and closed unanswered otherwise: [`crate::Reason::ConnectionRate`]. On a
    /// listener with TLS it is closed unanswered before the TLS handshake, which is what costs.
    pub connections_per_address_per_minute: u32,
    /// Addresses whose rate is known, which are those that have connected within the last minute; default 16,384, 1 MB. At the
    /// bound all further ones together have the rate of one.
    pub rate_addresses_max: usize,
    /// Time from the first byte that could have come to the whole CONNECT, a PROXY header and TLS included; default 10 s. Then the stream is closed:
    /// [`crate::Reason::HandshakeTimeout`].
    pub handshake_timeout: Duration,
    /// A whole CONNECT packet, in bytes; default 16,384. A larger one is answered 0x95 (3.1.1: closed):
    /// [`crate::Reason::PacketTooLarge`].
    pub connect_bytes_max: usize,
    /// A whole packet from a client, in bytes; default 262,144; announced in MQTT 5. A larger one ends the
    /// connection with 0x95: [`crate::Reason::PacketTooLarge`].
    pub packet_bytes_max: usize,
    /// Levels of a topic or filter; default 16. A deeper topic is answered 0x90, a deeper filter 0x8F:
    /// [`crate::Reason::TopicInvalid`], [`crate::Reason::FilterInvalid`].
    pub topic_levels_max: usize,
    /// Bytes of a topic or filter; default 512. A longer one is answered like a deeper one.
    pub topic_bytes_max: usize,
    /// Filters that one session holds; default 100. One more is answered 0x97 (3.1.1: 0x80):
    /// [`crate::Reason::SubscriptionLimit`].
    pub subscriptions_max: usize,
    /// How long a session may outlive its connection; default a week. A client that asks for more is told this one in MQTT 5;
    /// in 3.1.1, where a session that is not clean has no end of its own, it is this one.
    pub session_expiry_max: Duration,
    /// Sessions, live and detached together; default 20,000, at least `connections_max`. A CONNECT that would need one more is
    /// answered 0x97 (3.1.1: 3): [`crate::Reason::SessionLimit`].
    pub sessions_max: usize,
    /// Sessions of one principal that outlive their connection; default 16. Answered like `sessions_max`.
    pub sessions_per_principal_max: usize,
    /// Bytes waiting for one detached session, counted as for `queued_bytes_max`; default 4 MiB. With what had come while it was
    /// connected it may hold `queued_bytes_max` more. A session that would go over it ends, and its client finds none when it is back (session present = 0): [`crate::Reason::SessionQueueFull`].
    pub detached_queued_bytes_max: usize,
    /// Bytes waiting for all detached sessions together; default 256 MiB. A session whose next message would go over it ends as
    /// one does that is over its own bound.
    pub detached_bytes_max: usize,
    /// Messages of QoS 1 that one session has received and not acknowledged; default 1,024. The client's own receive
    /// maximum counts where it is smaller. At the bound the session's queue waits.
    pub inflight_max: u16,
    /// Bytes waiting for one session (topic, payload, properties and 64 for each message); default 1 MiB. A receiver
    /// that would go over it is disconnected with 0x97: [`crate::Reason::SlowReceiver`].
    pub queued_bytes_max: usize,
    /// Retained messages; default 100,000. A retained publish on a new topic is refused with 0x97:
    /// [`crate::Reason::RetainedLimit`].
    pub retained_max: usize,
    /// Bytes of all retained messages, counted as for `queued_bytes_max`; default 64 MiB. Answered like `retained_max`.
    pub retained_bytes_max: usize,
    /// Publishes of QoS 1 that a client may have unacknowledged; default 256; announced in MQTT 5. An overrun ends
    /// the connection with 0x93: [`crate::Reason::ReceiveMaximumExceeded`].
    pub receive_maximum: u16,
    /// The longest keep-alive, in seconds; default 3,600. A client that asks for more, or for none, is told this one in
    /// MQTT 5 and held to it; in 3.1.1 it is left as asked, since the client cannot be told.
    pub keep_alive_max_s: u16,
    /// Topic aliases that a client may set; default 16; announced in MQTT 5. A larger alias ends the connection with
    /// 0x94: [`crate::Reason::TopicAliasInvalid`]. Worst case 16 × `topic_bytes_max` a connection.
    pub topic_alias_max: u16,
    /// Topic aliases that the broker sets towards a client that allows them; default 16.
    pub topic_alias_out_max: u16,
    /// How long a closing connection may take to take its last bytes; default 5 s. Then it is cut.
    pub close_timeout: Duration,
}

impl Limits {
    /// The longest session expiry in seconds; 0xFFFFFFFF, which is for ever, where it is that or more.
    pub(crate) fn session_expiry_max_s(&self) -> u32 {
        u32::try_from(self.session_expiry_max.as_secs()).unwrap_or(u32::MAX)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 10_000,
            handshakes_max: 1_000,
            connections_per_address_per_minute: 3_000,
            rate_addresses_max: 16_384,
            handshake_timeout: Duration::from_secs(10),
            connect_bytes_max: 16 * 1024,
            packet_bytes_max: 256 * 1024,
            topic_levels_max: 16,
            topic_bytes_max: 512,
            subscriptions_max: 100,
            session_expiry_max: Duration::from_secs(7 * 86_400),
            sessions_max: 20_000,
            sessions_per_principal_max: 16,
            detached_queued_bytes_max: 4 * 1024 * 1024,
            detached_bytes_max: 256 * 1024 * 1024,
            inflight_max: 1_024,
            queued_bytes_max: 1024 * 1024,
            retained_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            receive_maximum: 256,
            keep_alive_max_s: 3_600,
            topic_alias_max: 16,
            topic_alias_out_max: 16,
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// The bounds of one in-process link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkLimits {
    /// Bytes of messages that wait for the link, counted as for [`Limits::queued_bytes_max`]; default 8 MiB. At the bound
    /// network clients that publish to the link are not read until half of it is free; nothing is dropped. A single
    /// message always fits into an empty queue. Retained messages that a new subscription asks for come on top.
    pub queued_bytes_max: usize,
    /// Clients with a hint that was not taken yet; default 10,000. A newer hint of the same client replaces the older;
    /// one of a further client is dropped: [`crate::Reason::HintDropped`].
    pub hints_max: usize,
}

impl Default for LinkLimits {
    fn default() -> LinkLimits {
        LinkLimits {
            queued_bytes_max: 8 * 1024 * 1024,
            hints_max: 10_000,
        }
    }
}
