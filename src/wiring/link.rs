//! The bridge's link to the embedded broker: the broker's in-process link, as the bridge wants one.

use bytes::Bytes;
use waypost_bridge::link::{BrokerLink, LinkEvent, Retain, Subscriptions};
use waypost_broker::{Broker, LinkError, LinkLimits, LinkReceiver, LinkSender, QoS, Reason, filter};
use waypost_proto::{DeviceId, TopicPrefix};

/// What the link is called where the broker says who published.
const NAME: &str = "bridge";

/// The in-process link of a broker.
pub(crate) struct InProcessLink {
    broker: Broker,
    to_devices: LinkSender,
    from_devices: LinkReceiver,
    opened: bool,
}

impl InProcessLink {
    /// Opens the link and subscribes to what devices publish.
    ///
    /// # Errors
    /// [`LinkError`] where the prefix makes filters that cannot be subscribed.
    pub(crate) fn open(broker: &Broker, prefix: &TopicPrefix, limits: LinkLimits) -> Result<Self, LinkError> {
        let (to_devices, from_devices) = broker.link(NAME, limits);
        for filter in [prefix.every('u'), prefix.every('p'), prefix.every_owntracks()] {
            to_devices.subscribe(&filter, QoS::AtLeastOnce)?;
        }
        Ok(Self {
            broker: broker.clone(),
            to_devices,
            from_devices,
            opened: false,
        })
    }
}

impl BrokerLink for InProcessLink {
    fn publish(&mut self, topic: String, payload: Bytes, retain: Retain) {
        let retain = match retain {
            Retain::No => waypost_broker::Retain::No,
            Retain::Yes => waypost_broker::Retain::Yes,
        };
        if let Err(error) = self.to_devices.publish(&topic, payload, QoS::AtLeastOnce, retain) {
            // The bridge's timers repeat it; that the broker refuses a frame at all is a contradiction of bounds.
            tracing::warn!(%error, "the broker did not take a frame of the bridge: {error}");
        }
    }

    fn subscriptions(&self) -> Subscriptions {
        Subscriptions::CanBeEnded
    }

    fn end_subscription(&mut self, device: DeviceId, topic: &str) {
        let name = device.to_string();
        self.broker.revoke_subscriptions(
            |who| *who.name == *name,
            |subscribed| filter::matches(subscribed, topic),
        );
    }

    fn disconnect(&mut self, device: DeviceId) {
        let name = device.to_string();
        let ended = self
            .broker
            .disconnect(|who| *who.name == *name, Reason::Administrative);
        tracing::info!(device.id = %device, sessions = ended, "ended {ended} sessions of device {device}: its credentials do not hold any more");
    }

    async fn next(&mut self) -> LinkEvent {
        if !std::mem::replace(&mut self.opened, true) {
            return LinkEvent::Opened;
        }
        loop {
            match self.from_devices.recv().await {
                Some(waypost_broker::LinkEvent::Message {
                    topic,
                    payload,
                    retain,
                    ..
                }) => {
                    return LinkEvent::Message {
                        topic: topic.as_ref().to_owned(),
                        payload,
                        retained: retain,
                    };
                }
                // Of a device's clients the one that bears its name alone speaks for it.
                Some(waypost_broker::LinkEvent::Disconnected {
                    client_id, principal, ..
                }) if client_id == principal => {
                    return LinkEvent::Disconnected {
                        client_id: client_id.as_ref().to_owned(),
                    };
                }
                Some(_) => {}
                None => return LinkEvent::Closed,
            }
        }
    }
}
