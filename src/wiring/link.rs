//! The bridge's link to the embedded broker: the broker's in-process link, as the bridge wants one.

use bytes::Bytes;
use tokio::sync::watch;
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
    /// How often it was asked whether all is handled, and the last of those to which the answer was yes.
    asked: watch::Receiver<u64>,
    answered: watch::Sender<u64>,
}

/// Asks the link whether the bridge has handled all that the broker had for it.
pub(crate) struct Drain {
    asked: watch::Sender<u64>,
    answered: watch::Receiver<u64>,
}

impl Drain {
    /// Returns once nothing is left of what the broker had taken for the bridge, or the link is gone. Ends where nothing more
    /// comes: see [`Broker::quiesce`].
    pub(crate) async fn drained(&self) {
        let mut answered = self.answered.clone();
        self.asked.send_modify(|times| *times += 1);
        let asked = *self.asked.borrow();
        // An error says that the bridge is gone, and handles nothing any more.
        let _ = answered.wait_for(|answered| *answered >= asked).await;
    }
}

impl InProcessLink {
    /// Opens the link and subscribes to what devices publish.
    ///
    /// # Errors
    /// [`LinkError`] where the prefix makes filters that cannot be subscribed.
    pub(crate) fn open(
        broker: &Broker,
        prefix: &TopicPrefix,
        limits: LinkLimits,
    ) -> Result<(Self, Drain), LinkError> {
        let (to_devices, from_devices) = broker.link(NAME, limits);
        for filter in [prefix.every('u'), prefix.every('p'), prefix.every_owntracks()] {
            to_devices.subscribe(&filter, QoS::AtLeastOnce)?;
        }
        let (ask, asked) = watch::channel(0);
        let (answered, answer) = watch::channel(0);
        let link = Self {
            broker: broker.clone(),
            to_devices,
            from_devices,
            opened: false,
            asked,
            answered,
        };
        let drain = Drain {
            asked: ask,
            answered: answer,
        };
        Ok((link, drain))
    }

    /// The next event of the broker. Whoever asks for one has handled those before it.
    async fn receive(&mut self) -> Option<waypost_broker::LinkEvent> {
        loop {
            if let Some(event) = self.from_devices.try_recv() {
                return Some(event);
            }
            self.answered.send_replace(*self.asked.borrow_and_update());
            tokio::select! {
                event = self.from_devices.recv() => return event,
                // An error says that nobody will ask any more.
                Ok(()) = self.asked.changed() => {}
            }
        }
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
            match self.receive().await {
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
