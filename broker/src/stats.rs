//! A snapshot of what the broker holds and has done, for tests, health pages and operators.

use std::collections::BTreeMap;

use crate::reason::Reason;

/// What the broker holds now and has counted since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Clients that are connected.
    pub clients: usize,
    /// The most clients that were connected at the same time.
    pub clients_max: usize,
    /// Sessions, with a connection or without.
    pub sessions: usize,
    /// Sessions without a connection.
    pub detached: usize,
    /// Connections that hold a slot: live ones, those still being closed, and wills that wait for room on a link.
    pub connections: usize,
    /// Subscriptions of sessions and links.
    pub subscriptions: usize,
    /// Retained messages.
    pub retained: usize,
    /// Bytes of retained messages, as [`crate::Limits::retained_bytes_max`] counts them.
    pub retained_bytes: usize,
    /// Messages that wait for sessions, or were sent and are not acknowledged to the end.
    pub queued_messages: usize,
    /// Bytes that wait for sessions, as [`crate::Limits::queued_bytes_max`] counts them.
    pub queued_bytes: usize,
    /// The part of it that waits for sessions without a connection.
    pub detached_bytes: usize,
    /// Bytes that wait for links.
    pub link_queued_bytes: usize,
    /// Messages of QoS 1 and 2 that were sent and are not acknowledged to the end.
    pub inflight: usize,
    /// CONNECTs that were accepted.
    pub connects: u64,
    /// Messages received from clients and links, and accepted.
    pub received: u64,
    /// Messages handed to the connections of receivers, and to links.
    pub delivered: u64,
    /// Packets of any kind received from clients that were let in.
    pub packets_received: u64,
    /// Packets of any kind for clients that were let in.
    pub packets_sent: u64,
    /// Bytes of MQTT received from clients that were let in, but for their first packet.
    pub bytes_received: u64,
    /// Bytes of MQTT sent to clients that were let in.
    pub bytes_sent: u64,
    /// How often each reason occurred; a reason that never did is missing.
    pub reasons: BTreeMap<Reason, u64>,
}

impl Stats {
    /// How often `reason` occurred.
    pub fn count(&self, reason: Reason) -> u64 {
        self.reasons.get(&reason).copied().unwrap_or(0)
    }
}
