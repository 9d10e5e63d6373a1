//! Who may connect to the broker, and what they may publish and subscribe there.
//!
//! The rule: a device reads and writes what is its own and nothing else, however it phrases a filter. The broker asks
//! about the filter behind `$share/group/`, and about the topic of a will as about any other.

use super::anonymous::{Anonymous, is_anonymous};
use super::client_certificate;
use std::sync::{Arc, OnceLock};
use time::OffsetDateTime;
use waypost_bridge::DeviceAccess;
use waypost_broker::{Authenticate, Authorise, ConnectAttempt, Principal, Refusal, Retain, Verdict, filter};
use waypost_proto::{DeviceId, Topic, TopicPrefix};

/// Lets devices in by their secrets, or by their certificates.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    /// Empty until the bridge has read its devices.
    access: Arc<OnceLock<DeviceAccess>>,
    /// `None` where a client has to be a device.
    anonymous: Option<Anonymous>,
}

impl Admission {
    /// Lets clients in that are no devices, too, where there is something that they may do.
    pub(crate) fn new(anonymous: Option<Anonymous>) -> Self {
        Self {
            anonymous,
            ..Self::default()
        }
    }

    /// From now on devices may connect. The first call counts.
    pub(crate) fn open(&self, access: DeviceAccess) {
        self.access.get_or_init(|| access);
    }
}

impl Authenticate for Admission {
    fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal> {
        let access = self.access.get().ok_or(Refusal::ServerUnavailable)?;
        let claimed: Option<DeviceId> = attempt.username.and_then(|name| name.parse().ok());
        if let Some(certificate) = attempt.certificate {
            let device = client_certificate::device(certificate, OffsetDateTime::now_utc());
            return admit_by_certificate(access, device, attempt);
        }
        if self.anonymous.is_some() && !claimed.is_some_and(|device| access.knows(device)) {
            return Anonymous::admit(access, attempt);
        }
        let device = claimed.ok_or(Refusal::BadCredentials)?;
        if !access.verify(device, attempt.password.unwrap_or_default()) {
            return Err(Refusal::BadCredentials);
        }
        principal(device, attempt.client_id)
    }
}

/// Lets in the device of a certificate. What else the client says of itself must be of the same device; a password is not
/// needed, and one that is wrong counts as one.
fn admit_by_certificate(
    access: &DeviceAccess,
    device: Option<DeviceId>,
    attempt: &ConnectAttempt<'_>,
) -> Result<Principal, Refusal> {
    let device = device
        .filter(|device| access.may_connect(*device))
        .ok_or(Refusal::BadCredentials)?;
    let is_named = |name: &str| name.parse() == Ok(device);
    let is_secret = |password| access.verify(device, password);
    if attempt.username.is_some_and(|name| !is_named(name))
        || attempt.password.is_some_and(|password| !is_secret(password))
    {
        return Err(Refusal::BadCredentials);
    }
    principal(device, attempt.client_id)
}

/// A device, under a client id that it may have.
fn principal(device: DeviceId, client_id: &str) -> Result<Principal, Refusal> {
    let name = device.to_string();
    if !is_client_id_of(client_id, &name) {
        return Err(Refusal::ClientIdNotAllowed);
    }
    Ok(Principal::new(name, client_id))
}

/// `<device>`, or `<device>-<suffix>`.
fn is_client_id_of(client_id: &str, device: &str) -> bool {
    client_id.strip_prefix(device).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|suffix| !suffix.is_empty())
    })
}

/// What a device may publish and subscribe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Permissions {
    prefix: TopicPrefix,
    admission: Admission,
}

impl Permissions {
    /// `admission` knows who is a member of which group.
    pub(crate) fn new(prefix: TopicPrefix, admission: Admission) -> Self {
        Self { prefix, admission }
    }

    /// What one who is no device may do; `None` for a device.
    fn anonymous(&self, who: &Principal) -> Option<&Anonymous> {
        self.admission.anonymous.as_ref().filter(|_| is_anonymous(who))
    }

    /// The topics of the groups that a device is a member of at this moment.
    fn groups(&self, device: &str) -> Vec<String> {
        let groups = self.admission.access.get().zip(device.parse().ok());
        groups
            .map(|(access, device)| access.groups(device))
            .unwrap_or_default()
            .into_iter()
            .map(|group| Topic::Group(group).to_string())
            .collect()
    }
}

impl Authorise for Permissions {
    fn may_publish(&self, who: &Principal, topic: &str, retain: Retain) -> Verdict {
        if let Some(anonymous) = self.anonymous(who) {
            return anonymous.may_use(topic);
        }
        // A client with a suffix listens, or speaks OwnTracks.
        let is_device_itself = who.client_id == who.name;
        Verdict::allow_if(match self.prefix.parse(topic) {
            Ok(Topic::Up(device)) => {
                is_device_itself && *who.name == *device.to_string() && retain == Retain::No
            }
            Ok(Topic::Presence(device)) => is_device_itself && *who.name == *device.to_string(),
            Ok(Topic::OwnTracks(device, _)) => *who.name == *device.to_string(),
            Ok(Topic::Down(_) | Topic::Group(_) | Topic::Templates(_)) | Err(_) => false,
        })
    }

    fn may_subscribe(&self, who: &Principal, requested: &str) -> Verdict {
        if let Some(anonymous) = self.anonymous(who) {
            return anonymous.may_subscribe(requested);
        }
        let own = [
            format!("d/{}", who.name),
            "t/+".to_owned(),
            format!("owntracks/{}/+/cmd", who.name),
        ];
        Verdict::allow_if(
            own.into_iter()
                .chain(self.groups(&who.name))
                .any(|allowed| filter::contains(&self.prefix.prepend(&allowed), requested)),
        )
    }

    fn may_read(&self, who: &Principal, topic: &str) -> Verdict {
        match self.anonymous(who) {
            Some(anonymous) => anonymous.may_use(topic),
            // A device has no filter that reaches further than it may read.
            None => Verdict::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "7c";
    const SUFFIXED: &str = "7c-phone";

    fn principal(client_id: &str) -> Principal {
        Principal::new("7c", client_id)
    }

    fn permissions(prefix: &str) -> Permissions {
        Permissions::new(TopicPrefix::new(prefix).unwrap(), Admission::default())
    }

    #[test]
    fn a_device_publishes_what_is_its_own_and_nothing_else() {
        let table = [
            // Client id, topic, not retained, retained.
            (MAIN, "u/7c", true, false),
            (SUFFIXED, "u/7c", false, false),
            (MAIN, "u/7d", false, false),
            (MAIN, "u/7c/x", false, false),
            (MAIN, "u/7C", false, false),
            (MAIN, "u/07c", false, false),
            (MAIN, "u", false, false),
            (MAIN, "/u/7c", false, false),
            (MAIN, "p/7c", true, true),
            (SUFFIXED, "p/7c", false, false),
            (MAIN, "p/7d", false, false),
            (MAIN, "d/7c", false, false),
            (MAIN, "d/7d", false, false),
            (MAIN, "g/4", false, false),
            (MAIN, "t/en", false, false),
            (MAIN, "owntracks/7c/phone", true, true),
            (SUFFIXED, "owntracks/7c/phone", true, true),
            (SUFFIXED, "owntracks/7c/phone/event", true, true),
            (SUFFIXED, "owntracks/7c/phone/waypoint", true, true),
            (MAIN, "owntracks/7d/phone", false, false),
            (MAIN, "owntracks/7d/phone/event", false, false),
            (MAIN, "owntracks/7c/", false, false),
            (MAIN, "owntracks/7c", false, false),
            (MAIN, "owntracks/7c/phone/cmd", false, false),
            (MAIN, "owntracks/7cx/phone", false, false),
            (MAIN, "$SYS/x", false, false),
            (MAIN, "other", false, false),
        ];
        for prefix in ["", "acme", "acme/waypost"] {
            let permissions = permissions(prefix);
            for (client_id, topic, plain, retained) in table {
                let behind = if prefix.is_empty() {
                    topic.to_owned()
                } else {
                    format!("{prefix}/{topic}")
                };
                for (retain, allowed) in [(Retain::No, plain), (Retain::Yes, retained)] {
                    assert_eq!(
                        permissions.may_publish(&principal(client_id), &behind, retain),
                        Verdict::allow_if(allowed),
                        "{client_id} publishes {behind}, {retain:?}"
                    );
                    if !prefix.is_empty() {
                        let without = permissions.may_publish(&principal(client_id), topic, retain);
                        assert_eq!(
                            without,
                            Verdict::Deny,
                            "{client_id} publishes {topic} without the prefix"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_device_subscribes_what_is_its_own_however_it_phrases_it() {
        let table = [
            ("d/7c", true),
            ("d/7d", false),
            ("d/+", false),
            ("d/#", false),
            ("d/7c/#", false),
            ("d/7c/+", false),
            ("+/7c", false),
            ("+/+", false),
            ("+", false),
            ("#", false),
            ("/d/7c", false),
            ("u/7c", false),
            ("u/+", false),
            ("p/7c", false),
            ("p/+", false),
            ("g/4", false),
            ("g/+", false),
            ("t/en", true),
            ("t/+", true),
            ("t/#", false),
            ("owntracks/7c/phone/cmd", true),
            ("owntracks/7c/+/cmd", true),
            ("owntracks/7c/phone", false),
            ("owntracks/7c/#", false),
            ("owntracks/7c/+/+", false),
            ("owntracks/+/phone/cmd", false),
            ("owntracks/7d/phone/cmd", false),
            ("$SYS/#", false),
        ];
        for prefix in ["", "acme", "acme/waypost"] {
            let permissions = permissions(prefix);
            for (requested, allowed) in table {
                let behind = if prefix.is_empty() {
                    requested.to_owned()
                } else {
                    format!("{prefix}/{requested}")
                };
                for client_id in [MAIN, SUFFIXED] {
                    assert_eq!(
                        permissions.may_subscribe(&principal(client_id), &behind),
                        Verdict::allow_if(allowed),
                        "{client_id} subscribes {behind}"
                    );
                }
                if !prefix.is_empty() {
                    let without = permissions.may_subscribe(&principal(MAIN), requested);
                    assert_eq!(without, Verdict::Deny, "{requested} without the prefix");
                }
            }
        }
    }

    #[test]
    fn a_shared_filter_is_judged_as_what_it_shares() {
        let permissions = permissions("");
        for (requested, allowed) in [
            ("$share/x/d/7c", true),
            ("$share/x/d/+", false),
            ("$share/x/#", false),
        ] {
            // What the broker does with a shared filter before it asks.
            let (_, inner) = filter::shared(requested).unwrap().unwrap();
            assert_eq!(
                permissions.may_subscribe(&principal(MAIN), inner),
                Verdict::allow_if(allowed),
                "{requested}"
            );
        }
    }

    #[test]
    fn a_client_id_is_the_device_or_the_device_and_a_suffix() {
        for (client_id, allowed) in [
            ("7c", true),
            ("7c-phone", true),
            ("7c-a-b", true),
            ("7c-", false),
            ("7cphone", false),
            ("7d", false),
            ("7", false),
            ("7d-7c", false),
            ("auto-0-0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(is_client_id_of(client_id, "7c"), allowed, "{client_id:?}");
        }
    }

    #[test]
    fn nobody_connects_before_the_devices_are_known_and_nobody_unknown_after() {
        let admission = Admission::default();
        let attempt = |username, password| ConnectAttempt {
            client_id: "7c",
            client_id_assigned: false,
            username,
            password,
            certificate: None,
            peer: "127.0.0.1:1".parse().unwrap(),
        };
        let secret: Option<&[u8]> = Some(b"secret");
        assert_eq!(
            admission.authenticate(&attempt(Some("7c"), secret)),
            Err(Refusal::ServerUnavailable)
        );
        admission.open(DeviceAccess::default());
        for attempt in [
            attempt(Some("7c"), secret),
            attempt(Some("7c"), None),
            attempt(None, secret),
            attempt(Some("#"), secret),
        ] {
            assert_eq!(admission.authenticate(&attempt), Err(Refusal::BadCredentials));
        }
    }
}
