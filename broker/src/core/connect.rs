//! CONNECT: who is let in, on which terms, and who has to make way.

use std::sync::Arc;
use std::time::Instant;

use super::Core;
use super::link::Hint;
use super::message::{QoS, Version};
use super::packet::{ConnAck, Connect, Output};
use super::session::Session;
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
    /// Lets an authenticated client in; the CONNACK is its first output. A live session with the same client id makes way.
    ///
    /// # Errors
    /// The reason that goes into the CONNACK; it is counted.
    pub(crate) fn connect(
        &mut self,
        mut connect: Connect,
        principal: Principal,
        client_id_from: ClientIdFrom,
        now: Instant,
    ) -> Result<usize, Reason> {
        if let Err(reason) = self.judge_connect(&mut connect, &principal) {
            self.counters.count(reason, 1);
            return Err(reason);
        }
        // [MQTT-3.1.4-3] the client that was there is told, and its will goes out before the new one is heard.
        if let Some(old) = self.clients.get(&principal.client_id).copied() {
            self.end(old, Reason::TakenOver);
            self.publish_wills_due(now);
        }
        let asked_s = connect.keep_alive_s;
        let keep_alive_s = match connect.version {
            // [MQTT-3.2.2-22] the server's own keep-alive holds, where it says one.
            Version::V5 if asked_s == 0 || asked_s > self.limits.keep_alive_max_s => {
                self.limits.keep_alive_max_s
            }
            _ => asked_s,
        };
        let mut session = Session::new(connect, principal.clone(), keep_alive_s, &self.limits, now);
        session.say(Output::ConnAck(ConnAck {
            // [MQTT-3.2.2-16] a client that sent none learns its identifier.
            assigned_client_id: (client_id_from == ClientIdFrom::Server).then(|| principal.client_id.clone()),
            server_keep_alive_s: (keep_alive_s != asked_s).then_some(keep_alive_s),
        }));
        let key = self.sessions.insert(session);
        self.clients.insert(Arc::clone(&principal.client_id), key);
        self.counters.connects += 1;
        self.hint(
            &principal.client_id,
            Hint::Connected {
                principal: principal.name,
            },
        );
        Ok(key)
    }

    fn judge_connect(&mut self, connect: &mut Connect, principal: &Principal) -> Result<(), Reason> {
        if self.shutting_down {
            return Err(Reason::ShuttingDown);
        }
        if principal.client_id.is_empty() {
            return Err(Reason::ClientIdInvalid);
        }
        if let Some(will) = &mut connect.will {
            if will.qos == QoS::ExactlyOnce {
                // [MQTT-3.2.2-12] 5 is told the maximum; 3.1.1 cannot be, and QoS 1 delivers at least as often.
                match connect.version {
                    Version::V5 => return Err(Reason::QosNotSupported),
                    Version::V311 => will.qos = QoS::AtLeastOnce,
                }
            }
            if !filter::is_topic(&will.topic) || !self.topic_is_within_bounds(&will.topic) {
                return Err(Reason::TopicInvalid);
            }
            if self.authorise.may_publish(principal, &will.topic, will.retain) == Verdict::Deny {
                return Err(Reason::WillForbidden);
            }
        }
        let takes_over = usize::from(self.clients.contains_key(&principal.client_id));
        let held = self.clients.len() - takes_over + self.wills_owed.len();
        // Sessions that are still being closed hold memory too; a client that reconnects in a loop must not add to it.
        let closing_max = self.limits.connections_max + self.limits.handshakes_max;
        if held >= self.limits.connections_max || self.sessions.len() >= closing_max {
            return Err(Reason::ConnectionLimit);
        }
        Ok(())
    }
}
