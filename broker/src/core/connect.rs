//! CONNECT: who is let in, on which terms, to which session, and who has to make way.

use std::sync::Arc;
use std::time::Instant;

use super::connection::Connection;
use super::encode::connack_bytes;
use super::link::Hint;
use super::message::Version;
use super::packet::{ConnAck, Connect, Output, SessionPresent};
use super::session::Session;
use super::subscribe::judged_part;
use super::{Core, system};
use crate::auth::{Principal, Verdict};
use crate::filter;
use crate::reason::Reason;

/// Where the client identifier of a session came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientIdFrom {
    Client,
    Server,
}

impl Core {
    /// Lets an authenticated client in; the CONNACK is its first output. A live connection with the same client id makes way.
    ///
    /// # Errors
    /// The reason that goes into the CONNACK; it is counted.
    pub(crate) fn connect(
        &mut self,
        connect: Connect,
        principal: Principal,
        client_id_from: ClientIdFrom,
        now: Instant,
    ) -> Result<usize, Reason> {
        // What is over by now is not taken up again.
        self.handle_due(now);
        let asked_s = connect.keep_alive_s;
        let keep_alive_s = match connect.version {
            // [MQTT-3.2.2-22] the server's own keep-alive holds, where it says one.
            Version::V5 if asked_s == 0 || asked_s > self.limits.keep_alive_max_s => {
                self.limits.keep_alive_max_s
            }
            _ => asked_s,
        };
        let asked_expiry_s = connect.session_expiry_s;
        let expiry_s = asked_expiry_s.min(self.limits.session_expiry_max_s());
        let answer = ConnAck {
            session_present: SessionPresent::No,
            // [MQTT-3.2.2-21] where it is not the client's own.
            session_expiry_s: (expiry_s != asked_expiry_s).then_some(expiry_s),
            // [MQTT-3.2.2-16] a client that sent none learns its identifier.
            assigned_client_id: (client_id_from == ClientIdFrom::Server).then(|| principal.client_id.clone()),
            server_keep_alive_s: (keep_alive_s != asked_s).then_some(keep_alive_s),
        };
        if let Err(reason) = self.judge_connect(&connect, &principal, &answer) {
            self.counters.count(reason, 1);
            return Err(reason);
        }
        let session_present = self.make_way(&connect, &principal, now);
        let session = self
            .clients
            .get(&principal.client_id)
            .copied()
            .unwrap_or_else(|| {
                let key = self.sessions.insert(Session::new(principal.clone()));
                self.clients.insert(Arc::clone(&principal.client_id), key);
                key
            });
        let mut connection = Connection::new(principal.clone(), connect.version, session, keep_alive_s, now);
        connection.say(Output::ConnAck(ConnAck {
            session_present,
            ..answer
        }));
        let key = self.connections.insert(connection);
        self.live += 1;
        self.live_max = self.live_max.max(self.live);
        self.not_due(session);
        let limits = &self.limits;
        self.sessions.change(session, |session| {
            session.attach(key, connect, expiry_s, limits, now);
        });
        self.counters.connects += 1;
        self.counters.packets_received += 1;
        self.hint(
            &principal.client_id,
            Hint::Connected {
                principal: principal.name,
            },
        );
        Ok(key)
    }

    /// Ends what was there under this client id, but for a session that the client comes back to. What ends has left its will and
    /// all else that it held before the answer is given, which counts for the session as it then is.
    fn make_way(&mut self, connect: &Connect, principal: &Principal, now: Instant) -> SessionPresent {
        // [MQTT-3.1.4-3] the client that was there is told, and what it leaves goes out before the new one is heard.
        let before = self.clients.get(&principal.client_id).copied();
        if let Some(connection) = before.and_then(|key| self.sessions[key].connection) {
            self.end(connection, Reason::TakenOver, now);
            self.settle(now);
        }
        // It may have ended with its connection.
        let Some(key) = self.clients.get(&principal.client_id).copied() else {
            return SessionPresent::No;
        };
        // [MQTT-3.1.2-4], [MQTT-3.1.2-5]; and nobody takes up what was somebody else's.
        if connect.clean_start || self.sessions[key].principal != *principal {
            self.end_session(key, None);
            self.settle(now);
            return SessionPresent::No;
        }
        self.drop_forbidden_subscriptions(key);
        SessionPresent::Yes
    }

    /// What a client may read may have changed while it was away.
    fn drop_forbidden_subscriptions(&mut self, key: usize) {
        let (session, authorise) = (&self.sessions[key], self.authorise.clone());
        let principal = session.principal.clone();
        let is_forbidden = |filter: &str| authorise.may_subscribe(&principal, filter) != Verdict::Allow;
        let forbidden: Vec<Arc<str>> = session
            .filters
            .iter()
            .filter(|whole| is_forbidden(judged_part(whole)))
            .cloned()
            .collect();
        self.end_subscriptions(key, &forbidden, is_forbidden);
    }

    fn judge_connect(
        &mut self,
        connect: &Connect,
        principal: &Principal,
        answer: &ConnAck,
    ) -> Result<(), Reason> {
        if self.shutting_down {
            return Err(Reason::ShuttingDown);
        }
        // [MQTT-3.1.2-24] whoever does not take the answer cannot be told that it is let in.
        if connect
            .packet_bytes_max
            .is_some_and(|max| connack_bytes(answer) > max as usize)
        {
            return Err(Reason::AnswerTooLarge);
        }
        if principal.client_id.is_empty() {
            return Err(Reason::ClientIdInvalid);
        }
        if let Some(will) = &connect.will {
            if !filter::is_topic(&will.topic) || !self.topic_is_within_bounds(&will.topic) {
                return Err(Reason::TopicInvalid);
            }
            if system::is_system(&will.topic) {
                return Err(Reason::WillForbidden);
            }
            self.authorise
                .may_publish(principal, &will.topic, will.retain)
                .or(Reason::WillForbidden)?;
        }
        let before = self
            .clients
            .get(&principal.client_id)
            .map(|key| &self.sessions[*key]);
        let takes_over = usize::from(before.is_some_and(|session| session.connection.is_some()));
        let held = self.live - takes_over + self.wills_owed.len();
        // Connections that are still being closed hold memory too; a client that reconnects in a loop must not add to it.
        let closing_max = self.limits.connections_max + self.limits.handshakes_max;
        if held >= self.limits.connections_max || self.connections.len() >= closing_max {
            return Err(Reason::ConnectionLimit);
        }
        let replaced = usize::from(before.is_some());
        let replaced_kept = usize::from(
            before.is_some_and(|session| session.is_kept() && session.principal.name == principal.name),
        );
        let is_kept = connect.session_expiry_s > 0 && self.limits.session_expiry_max_s() > 0;
        let kept = self.sessions.kept_of(&principal.name) - replaced_kept;
        if self.sessions.len() - replaced >= self.limits.sessions_max
            || (is_kept && kept >= self.limits.sessions_per_principal_max)
        {
            return Err(Reason::SessionLimit);
        }
        Ok(())
    }
}
