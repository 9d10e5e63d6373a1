//! Which devices a broker elsewhere last told to be online, and which of them it does not tell any more.
//!
//! A broker that has lost its memory has lost the wills of its clients: nobody says that a device is gone which does not
//! come back. So after each connection those are called that were online in an earlier one.

use prost::Message;
use std::collections::BTreeMap;
use waypost_proto::{DeviceId, Topic, wire};

/// The devices that are online, by the connection in which each was heard last; as many as there are devices.
#[derive(Debug, Default)]
pub(super) struct RollCall {
    connection: u64,
    online: BTreeMap<DeviceId, u64>,
}

impl RollCall {
    /// Another connection begins.
    pub(super) fn begin(&mut self) {
        self.connection += 1;
    }

    /// Takes note of a message, whether or not the broker kept it.
    pub(super) fn hear(&mut self, topic: &Topic, payload: &[u8]) {
        match topic {
            Topic::Presence(device) => match wire::Presence::decode(payload) {
                Ok(presence) if presence.online => drop(self.online.insert(*device, self.connection)),
                Ok(_) => drop(self.online.remove(device)),
                // The bridge counts it.
                Err(_) => {}
            },
            Topic::Up(device) => {
                if let Some(heard) = self.online.get_mut(device) {
                    *heard = self.connection;
                }
            }
            _ => {}
        }
    }

    /// One that was online in an earlier connection and has not been heard in this one; it is not online any more.
    pub(super) fn take_missing(&mut self) -> Option<DeviceId> {
        let connection = self.connection;
        let (&device, _) = self.online.iter().find(|(_, heard)| **heard < connection)?;
        self.online.remove(&device);
        Some(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> DeviceId {
        text.parse().unwrap()
    }

    fn presence(roll: &mut RollCall, name: &str, online: bool) {
        let payload = wire::Presence { tag: 1, online }.encode_to_vec();
        roll.hear(&Topic::Presence(device(name)), &payload);
    }

    #[test]
    fn those_are_missing_who_were_online_before_and_are_not_heard_again() {
        let mut roll = RollCall::default();
        roll.begin();
        for name in ["1", "2", "3", "4"] {
            presence(&mut roll, name, true);
        }
        presence(&mut roll, "2", false);
        // One that never said that it is there is not missed.
        roll.hear(&Topic::Up(device("5")), b"");
        assert_eq!(roll.take_missing(), None);
        roll.begin();
        presence(&mut roll, "1", true);
        roll.hear(&Topic::Up(device("3")), b"");
        roll.hear(&Topic::Presence(device("4")), b"\xff");
        assert_eq!(roll.take_missing(), Some(device("4")));
        assert_eq!(roll.take_missing(), None);
    }
}
