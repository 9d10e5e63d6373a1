//! Clients without credentials, where `mqtt.dangerous_allow_anonymous` lets them in.
//!
//! The rule: nothing that a device or the bridge rests on can be read or forged by one of them. They have topics of their
//! own, which are all but ours; their principals have names that no device has; and a client id that a device may use is
//! the device's alone.

use std::sync::Arc;
use waypost_bridge::DeviceAccess;
use waypost_broker::{ConnectAttempt, Principal, Refusal, Verdict, filter};
use waypost_proto::{DeviceId, TopicPrefix};

/// What the name of every such principal begins with. The colon is in no id of a device.
const NAME_PREFIX: &str = "anonymous:";
/// What is ours below the prefix, with all that may ever be below it.
const OURS: [&str; 6] = ["u/#", "p/#", "d/#", "g/#", "t/#", "owntracks/#"];

/// What they may not touch.
#[derive(Debug, Clone)]
pub(crate) struct Anonymous {
    denied: Arc<[String]>,
}

impl Anonymous {
    /// `deny` is what they may not publish or read besides what is ours: filters, checked with the settings.
    pub(crate) fn new(prefix: &TopicPrefix, deny: &[String]) -> Self {
        let ours = OURS.iter().map(|filter| prefix.prepend(filter));
        Self {
            denied: ours.chain(deny.iter().cloned()).collect(),
        }
    }

    /// Lets a client in that does not claim to be a device.
    ///
    /// # Errors
    /// [`Refusal::ClientIdNotAllowed`] for the client id of a device, with or without a suffix.
    pub(crate) fn admit(access: &DeviceAccess, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal> {
        let device = attempt.client_id.split('-').next().unwrap_or_default();
        if device.parse().is_ok_and(|device: DeviceId| access.knows(device)) {
            return Err(Refusal::ClientIdNotAllowed);
        }
        // A name for each: what bounds the sessions of one principal bounds those of one client.
        let name = format!("{NAME_PREFIX}{}", attempt.client_id);
        Ok(Principal::new(name, attempt.client_id))
    }

    /// Whether a client publishes, or is sent, what is on this topic.
    pub(crate) fn may_use(&self, topic: &str) -> Verdict {
        allow_unless(self.denied.iter().any(|denied| filter::matches(denied, topic)))
    }

    /// Whether a client may subscribe: yes, where there can be a topic that it is sent.
    pub(crate) fn may_subscribe(&self, requested: &str) -> Verdict {
        allow_unless(
            self.denied
                .iter()
                .any(|denied| filter::contains(denied, requested)),
        )
    }
}

/// One who has not said who he is could not be told what he lacks.
fn allow_unless(denied: bool) -> Verdict {
    if denied {
        Verdict::DenyUnexplained
    } else {
        Verdict::Allow
    }
}

/// Whether this is one of them.
pub(crate) fn is_anonymous(who: &Principal) -> bool {
    who.name.starts_with(NAME_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anonymous(prefix: &str) -> Anonymous {
        Anonymous::new(
            &TopicPrefix::new(prefix).unwrap(),
            &["test/nosubscribe".to_owned(), "private/#".to_owned()],
        )
    }

    #[test]
    fn what_is_ours_or_denied_is_neither_published_nor_read() {
        let ours = [
            "u/7c",
            "u/7C",
            "p/7c",
            "d/7c",
            "g/4",
            "t/en",
            "owntracks/7c/phone",
            "owntracks/7c/phone/cmd",
        ];
        for prefix in ["", "acme", "acme/waypost"] {
            let anonymous = anonymous(prefix);
            for topic in ours {
                let behind = TopicPrefix::new(prefix).unwrap().prepend(topic);
                assert_eq!(anonymous.may_use(&behind), Verdict::DenyUnexplained, "{behind}");
            }
            for topic in ["test/nosubscribe", "private", "private/a/b"] {
                assert_eq!(anonymous.may_use(topic), Verdict::DenyUnexplained, "{topic}");
            }
            for topic in [
                "TopicA",
                "TopicA/B",
                "/TopicA",
                "/u/7c",
                "up/7c",
                "$TopicA/B",
                "fromb/qos 0",
            ] {
                assert_eq!(anonymous.may_use(topic), Verdict::Allow, "{topic}");
            }
        }
    }

    #[test]
    fn a_filter_is_granted_where_it_reaches_something_that_is_theirs() {
        for (filter, granted) in [
            ("TopicA", true),
            ("TopicA/+", true),
            ("+/C", true),
            ("+/+", true),
            ("#", true),
            ("/#", true),
            ("$SYS/#", true),
            ("test/#", true),
            ("test/nosubscribe", false),
            ("private/+", false),
            ("u/7c", false),
            ("u/+", false),
            ("u/#", false),
            ("d/7c/#", false),
            ("t/en", false),
            ("owntracks/#", false),
        ] {
            assert_eq!(
                anonymous("").may_subscribe(filter),
                allow_unless(!granted),
                "{filter}"
            );
        }
    }

    #[test]
    fn nobody_without_credentials_has_the_name_of_a_device() {
        let attempt = ConnectAttempt {
            client_id: "7c",
            client_id_assigned: false,
            username: None,
            password: None,
            certificate: None,
            peer: "127.0.0.1:1".parse().unwrap(),
        };
        let who = Anonymous::admit(&DeviceAccess::default(), &attempt).unwrap();
        assert!(is_anonymous(&who));
        assert!(who.name.parse::<DeviceId>().is_err());
        assert!(!is_anonymous(&Principal::new("7c", "7c")));
    }
}
