//! Why something was refused, dropped or ended, and the code that says so in each protocol version.
//!
//! One closed list, so that a log line, a metric label, a CONNACK and a DISCONNECT cannot disagree.

/// Why a connect, a packet or a session was refused, dropped or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Reason {
    /// The client said goodbye with DISCONNECT.
    ClientDisconnected,
    /// The byte stream ended or failed without a DISCONNECT.
    ConnectionLost,
    /// The CONNECT did not arrive in time.
    HandshakeTimeout,
    /// Too many byte streams without a CONNECT.
    HandshakeLimit,
    /// Too many sessions.
    ConnectionLimit,
    /// Too many connections from one address within a minute.
    ConnectionRate,
    /// The TLS handshake failed, or was broken off.
    TlsHandshakeFailed,
    /// The stream does not begin with a PROXY header that can be used, on a listener that requires one.
    ProxyHeaderInvalid,
    /// The first packet was not a CONNECT.
    NotConnect,
    /// A protocol level that is neither 3.1.1 nor 5.
    UnsupportedVersion,
    /// Enhanced authentication was asked for.
    BadAuthenticationMethod,
    /// Unknown user or wrong password.
    BadCredentials,
    /// A client identifier that these credentials may not use.
    ClientIdNotAllowed,
    /// An empty or malformed client identifier.
    ClientIdInvalid,
    /// Known, but not allowed to connect.
    ConnectForbidden,
    /// The embedder is busy.
    ServerBusy,
    /// The embedder cannot decide at the moment.
    ServerUnavailable,
    /// A will on a topic that may not be published.
    WillForbidden,
    /// A publish on a topic that may not be published.
    PublishForbidden,
    /// A filter that may not be subscribed.
    SubscribeForbidden,
    /// Something that the embedder denied without saying why.
    Unexplained,
    /// A live subscription was revoked.
    SubscriptionRevoked,
    /// Bytes that are not a packet.
    Malformed,
    /// A packet that breaks the rules of the protocol.
    ProtocolError,
    /// A packet over the bound.
    PacketTooLarge,
    /// A topic that is malformed, too long or too deep.
    TopicInvalid,
    /// A filter that is malformed, too long or too deep.
    FilterInvalid,
    /// A topic alias that was not established or is over the maximum.
    TopicAliasInvalid,
    /// More unacknowledged publishes than the receive maximum.
    ReceiveMaximumExceeded,
    /// Too many subscriptions in one session.
    SubscriptionLimit,
    /// Too many retained messages, or too many bytes of them.
    RetainedLimit,
    /// The receiver did not take its messages quickly enough.
    SlowReceiver,
    /// Silent for one and a half times its keep-alive.
    KeepAliveTimeout,
    /// Another connection took the same client identifier.
    TakenOver,
    /// Ended by the embedder.
    Administrative,
    /// The broker is shutting down.
    ShuttingDown,
    /// A message larger than the receiver's maximum packet size was not sent to it.
    TooLargeForReceiver,
    /// A message expired before it was sent.
    Expired,
    /// A hint for a link was dropped, since too many waited.
    HintDropped,
    /// Too many sessions, live and detached, of all or of one principal.
    SessionLimit,
    /// A detached session had more waiting than may, and was ended.
    SessionQueueFull,
    /// A detached session ended because nobody came back to it in time.
    SessionExpired,
    /// A CONNACK, SUBACK or UNSUBACK would be larger than the client's maximum packet size.
    AnswerTooLarge,
}

/// What the broker does about a [`Reason`] towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Codes {
    /// The reason code of MQTT 5, in CONNACK, PUBACK, SUBACK or DISCONNECT.
    pub(crate) v5: u8,
    /// The return code of a 3.1.1 CONNACK; `None` where that version has none, and the connection is closed.
    pub(crate) v4_connack: Option<u8>,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Reason; 43] = [
        Reason::ClientDisconnected,
        Reason::ConnectionLost,
        Reason::HandshakeTimeout,
        Reason::HandshakeLimit,
        Reason::ConnectionLimit,
        Reason::ConnectionRate,
        Reason::TlsHandshakeFailed,
        Reason::ProxyHeaderInvalid,
        Reason::NotConnect,
        Reason::UnsupportedVersion,
        Reason::BadAuthenticationMethod,
        Reason::BadCredentials,
        Reason::ClientIdNotAllowed,
        Reason::ClientIdInvalid,
        Reason::ConnectForbidden,
        Reason::ServerBusy,
        Reason::ServerUnavailable,
        Reason::WillForbidden,
        Reason::PublishForbidden,
        Reason::SubscribeForbidden,
        Reason::Unexplained,
        Reason::SubscriptionRevoked,
        Reason::Malformed,
        Reason::ProtocolError,
        Reason::PacketTooLarge,
        Reason::TopicInvalid,
        Reason::FilterInvalid,
        Reason::TopicAliasInvalid,
        Reason::ReceiveMaximumExceeded,
        Reason::SubscriptionLimit,
        Reason::RetainedLimit,
        Reason::SlowReceiver,
        Reason::KeepAliveTimeout,
        Reason::TakenOver,
        Reason::Administrative,
        Reason::ShuttingDown,
        Reason::TooLargeForReceiver,
        Reason::Expired,
        Reason::HintDropped,
        Reason::SessionLimit,
        Reason::SessionQueueFull,
        Reason::SessionExpired,
        Reason::AnswerTooLarge,
    ];

    /// The label of this reason in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Reason::ClientDisconnected => "client_disconnected",
            Reason::ConnectionLost => "connection_lost",
            Reason::HandshakeTimeout => "handshake_timeout",
            Reason::HandshakeLimit => "handshake_limit",
            Reason::ConnectionLimit => "connection_limit",
            Reason::ConnectionRate => "connection_rate",
            Reason::TlsHandshakeFailed => "tls_handshake_failed",
            Reason::ProxyHeaderInvalid => "proxy_header_invalid",
            Reason::NotConnect => "not_connect",
            Reason::UnsupportedVersion => "unsupported_version",
            Reason::BadAuthenticationMethod => "bad_authentication_method",
            Reason::BadCredentials => "bad_credentials",
            Reason::ClientIdNotAllowed => "client_id_not_allowed",
            Reason::ClientIdInvalid => "client_id_invalid",
            Reason::ConnectForbidden => "connect_forbidden",
            Reason::ServerBusy => "server_busy",
            Reason::ServerUnavailable => "server_unavailable",
            Reason::WillForbidden => "will_forbidden",
            Reason::PublishForbidden => "publish_forbidden",
            Reason::SubscribeForbidden => "subscribe_forbidden",
            Reason::Unexplained => "unexplained",
            Reason::SubscriptionRevoked => "subscription_revoked",
            Reason::Malformed => "malformed",
            Reason::ProtocolError => "protocol_error",
            Reason::PacketTooLarge => "packet_too_large",
            Reason::TopicInvalid => "topic_invalid",
            Reason::FilterInvalid => "filter_invalid",
            Reason::TopicAliasInvalid => "topic_alias_invalid",
            Reason::ReceiveMaximumExceeded => "receive_maximum_exceeded",
            Reason::SubscriptionLimit => "subscription_limit",
            Reason::RetainedLimit => "retained_limit",
            Reason::SlowReceiver => "slow_receiver",
            Reason::KeepAliveTimeout => "keep_alive_timeout",
            Reason::TakenOver => "taken_over",
            Reason::Administrative => "administrative",
            Reason::ShuttingDown => "shutting_down",
            Reason::TooLargeForReceiver => "too_large_for_receiver",
            Reason::AnswerTooLarge => "answer_too_large",
            Reason::Expired => "expired",
            Reason::HintDropped => "hint_dropped",
            Reason::SessionLimit => "session_limit",
            Reason::SessionQueueFull => "session_queue_full",
            Reason::SessionExpired => "session_expired",
        }
    }

    /// What a client is told in a reason string of MQTT 5 [MQTT-2.2.2]: what is wrong, and what would help where that is not
    /// plain. Short: it may go over a poor network.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Reason::ClientDisconnected => "goodbye",
            Reason::ConnectionLost => "the connection was lost",
            Reason::HandshakeTimeout => "no CONNECT came in time",
            Reason::HandshakeLimit => "too many connections without a CONNECT; try again later",
            Reason::ConnectionLimit => "too many clients are connected; try again later",
            Reason::ConnectionRate => "too many connections from this address; try again in a minute",
            Reason::TlsHandshakeFailed => "the TLS handshake failed",
            Reason::ProxyHeaderInvalid => "the PROXY header is missing or cannot be used",
            Reason::NotConnect => "the first packet has to be a CONNECT",
            Reason::UnsupportedVersion => "MQTT 5 and 3.1.1 are spoken here",
            Reason::BadAuthenticationMethod => "enhanced authentication is not offered",
            Reason::BadCredentials => "unknown user name or wrong password",
            Reason::ClientIdNotAllowed => "these credentials may not use this client identifier",
            Reason::ClientIdInvalid => "a client identifier is needed",
            Reason::ConnectForbidden => "not allowed to connect",
            Reason::ServerBusy => "busy; try again later",
            Reason::ServerUnavailable => "not available at the moment; try again later",
            Reason::WillForbidden => "the will may not be published",
            Reason::PublishForbidden => "this topic may not be published",
            Reason::SubscribeForbidden => "this filter may not be subscribed",
            Reason::Unexplained => "denied",
            Reason::SubscriptionRevoked => "the subscription was revoked",
            Reason::Malformed => "these bytes are not a packet",
            Reason::ProtocolError => "the packet breaks the rules of the protocol",
            Reason::PacketTooLarge => "the packet is larger than the maximum that CONNACK named",
            Reason::TopicInvalid => "the topic is malformed, too long or too deep",
            Reason::FilterInvalid => "the filter is malformed, too long or too deep",
            Reason::TopicAliasInvalid => "the topic alias is unknown or over the maximum",
            Reason::ReceiveMaximumExceeded => "more publishes unacknowledged than the receive maximum",
            Reason::SubscriptionLimit => "too many subscriptions",
            Reason::RetainedLimit => "no room for a further retained message",
            Reason::SlowReceiver => "messages were not taken quickly enough",
            Reason::KeepAliveTimeout => "silent for longer than the keep-alive allows",
            Reason::TakenOver => "another connection took this client identifier",
            Reason::Administrative => "ended by the operator",
            Reason::ShuttingDown => "the server is shutting down; it will be back",
            Reason::TooLargeForReceiver => "larger than the receiver takes",
            Reason::AnswerTooLarge => "the answer would be larger than the client takes",
            Reason::Expired => "expired",
            Reason::HintDropped => "too many hints waited",
            Reason::SessionLimit => "too many sessions; let some expire or connect with clean start",
            Reason::SessionQueueFull => "too much waited for the session",
            Reason::SessionExpired => "the session has expired",
        }
    }

    /// The codes that tell a client.
    pub(crate) fn codes(self) -> Codes {
        let (v5, v4_connack) = match self {
            Reason::ClientDisconnected => (0x00, None),
            Reason::ConnectionLost | Reason::Expired | Reason::HintDropped | Reason::SessionExpired => {
                (0x80, None)
            }
            // Where MQTT has not begun nobody is told.
            Reason::TlsHandshakeFailed | Reason::ProxyHeaderInvalid => (0x80, None),
            Reason::HandshakeTimeout | Reason::NotConnect => (0x82, None),
            Reason::HandshakeLimit | Reason::ServerBusy => (0x89, Some(3)),
            Reason::ConnectionLimit | Reason::SessionLimit => (0x97, Some(3)),
            Reason::ConnectionRate => (0x9F, Some(3)),
            Reason::UnsupportedVersion => (0x84, Some(1)),
            Reason::BadAuthenticationMethod => (0x8C, None),
            // 3.1.1 clients get "not authorized", so that a guesser does not learn which part was wrong.
            Reason::BadCredentials => (0x86, Some(5)),
            // [MQTT-3.1.3-9] of 3.1.1: a client identifier that is rejected has a code of its own.
            Reason::ClientIdNotAllowed | Reason::ClientIdInvalid => (0x85, Some(2)),
            Reason::ConnectForbidden | Reason::WillForbidden => (0x87, Some(5)),
            Reason::ServerUnavailable => (0x88, Some(3)),
            Reason::Unexplained => (0x80, Some(5)),
            Reason::PublishForbidden | Reason::SubscribeForbidden | Reason::SubscriptionRevoked => {
                (0x87, None)
            }
            Reason::Malformed => (0x81, None),
            Reason::ProtocolError => (0x82, None),
            Reason::PacketTooLarge | Reason::TooLargeForReceiver | Reason::AnswerTooLarge => (0x95, None),
            Reason::TopicInvalid => (0x90, Some(5)),
            Reason::FilterInvalid => (0x8F, None),
            Reason::TopicAliasInvalid => (0x94, None),
            Reason::ReceiveMaximumExceeded => (0x93, None),
            Reason::SubscriptionLimit
            | Reason::RetainedLimit
            | Reason::SlowReceiver
            | Reason::SessionQueueFull => (0x97, None),
            Reason::KeepAliveTimeout => (0x8D, None),
            Reason::TakenOver => (0x8E, None),
            Reason::Administrative => (0x98, None),
            Reason::ShuttingDown => (0x8B, Some(3)),
        };
        Codes { v5, v4_connack }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_number_with_its_own_label() {
        let mut labels = std::collections::BTreeSet::new();
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{reason:?}");
            assert!(labels.insert(reason.label()), "{reason:?}");
        }
    }
}
