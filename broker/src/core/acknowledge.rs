//! PUBACK, PUBREC, PUBREL and PUBCOMP: how far a message of QoS 1 or 2 has come, in either direction.
//!
//! A message from a client is routed when its PUBLISH comes, and only its identifier is kept until the PUBREL (method A of
//! MQTT 5, 4.3.3). Towards a client the message is kept until its PUBREC, the identifier until its PUBCOMP.

use super::packet::{Output, Received};
use super::{Core, Place};

impl Core {
    pub(super) fn handle_puback(&mut self, at: Place, packet_id: u16) {
        self.sessions
            .change(at.session, |session| session.acknowledge(packet_id));
    }

    pub(super) fn handle_pubrec(&mut self, at: Place, packet_id: u16, verdict: Received) {
        let answer = self
            .sessions
            .change(at.session, |session| session.take_receipt(packet_id, verdict));
        if let Some(answer) = answer {
            self.connections[at.connection].say(answer);
        }
    }

    pub(super) fn handle_pubrel(&mut self, at: Place, packet_id: u16) {
        let identifier = self
            .sessions
            .change(at.session, |session| session.release(packet_id));
        self.connections[at.connection].say(Output::PubComp {
            packet_id,
            identifier,
        });
    }

    pub(super) fn handle_pubcomp(&mut self, at: Place, packet_id: u16) {
        self.sessions
            .change(at.session, |session| session.finish(packet_id));
    }
}
