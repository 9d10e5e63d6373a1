//! The two decisions that belong to the embedder: who is this, and what may they do.
//!
//! Both are plain synchronous calls. [`Authenticate`] runs on the connection's own task, without any lock of the
//! broker; [`Authorise`] runs inside the broker's lock, for each PUBLISH and each filter. Neither may wait, and
//! neither may call the broker back. What they answer is never cached, so a change of mind holds from the next packet;
//! what is already connected or subscribed is ended with [`crate::Broker::disconnect`] and
//! [`crate::Broker::revoke_subscriptions`].

use std::net::SocketAddr;
use std::sync::Arc;

use crate::filter;
use crate::reason::Reason;

/// Who a connection speaks for, as the embedder named them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    /// The name that authorisation, revocation and logs go by; several sessions may share it.
    pub name: Arc<str>,
    /// The client identifier of this session, unique among live sessions.
    pub client_id: Arc<str>,
}

impl Principal {
    /// A principal for one session.
    pub fn new(name: impl Into<Arc<str>>, client_id: impl Into<Arc<str>>) -> Principal {
        Principal {
            name: name.into(),
            client_id: client_id.into(),
        }
    }
}

/// What a CONNECT says about who sends it. Never log the password.
#[derive(Clone, Copy)]
pub struct ConnectAttempt<'a> {
    /// The client identifier; where the client left it to the server, the one that the server would assign.
    pub client_id: &'a str,
    /// True when `client_id` was drawn by the server because the client sent an empty one.
    pub client_id_assigned: bool,
    /// The user name, where there is one that is not empty.
    pub username: Option<&'a str>,
    /// The password, where there is one that is not empty.
    pub password: Option<&'a [u8]>,
    /// The certificate that the client showed in the TLS handshake, in DER: the listener's configuration has verified it, and
    /// that the client has its key, now or when a session that is resumed began. `None` without one.
    pub certificate: Option<&'a [u8]>,
    /// The address of the other end of the byte stream.
    pub peer: SocketAddr,
}

/// Why an [`Authenticate`] turned a CONNECT down; each variant has its own CONNACK code in both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Unknown user name or wrong password: 0x86 in MQTT 5, 5 in 3.1.1.
    #[error("bad user name or password")]
    BadCredentials,
    /// The client identifier is not one that these credentials may use: 0x85 in MQTT 5, 2 in 3.1.1.
    #[error("this client identifier may not be used with these credentials")]
    ClientIdNotAllowed,
    /// Known, but not allowed to connect: 0x87 in MQTT 5, 5 in 3.1.1.
    #[error("not authorised to connect")]
    NotAuthorised,
    /// Try again later: 0x89 in MQTT 5, 3 in 3.1.1.
    #[error("the server is busy")]
    Busy,
    /// The decision cannot be made at the moment: 0x88 in MQTT 5, 3 in 3.1.1.
    #[error("the server is unavailable")]
    ServerUnavailable,
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Reason {
        match refusal {
            Refusal::BadCredentials => Reason::BadCredentials,
            Refusal::ClientIdNotAllowed => Reason::ClientIdNotAllowed,
            Refusal::NotAuthorised => Reason::ConnectForbidden,
            Refusal::Busy => Reason::ServerBusy,
            Refusal::ServerUnavailable => Reason::ServerUnavailable,
        }
    }
}

/// Decides who a CONNECT comes from.
///
/// Called on the connection's task: a look-up in memory or one cheap hash is fine, a request over the network is not.
pub trait Authenticate: Send + Sync + 'static {
    /// The principal that the connection speaks for.
    ///
    /// # Errors
    /// The refusal that goes into the CONNACK; it is counted by its reason.
    fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal>;
}

/// Whether a message asks to be kept for those who subscribe later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retain {
    /// Only for those subscribed now.
    No,
    /// Replaces the retained message of the topic; an empty payload removes it.
    Yes,
}

/// The answer of an [`Authorise`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Allow,
    /// Refuse it with "not authorised": 0x87 in MQTT 5.
    Deny,
    /// Refuse it without saying why: 0x80 in MQTT 5. For those to whom a reason would tell what there is.
    DenyUnexplained,
}

impl Verdict {
    /// `Allow` where the condition holds.
    pub fn allow_if(condition: bool) -> Verdict {
        if condition { Verdict::Allow } else { Verdict::Deny }
    }
}

impl Verdict {
    /// # Errors
    /// What was denied, by this reason or by none.
    pub(crate) fn or(self, reason: Reason) -> Result<(), Reason> {
        match self {
            Verdict::Allow => Ok(()),
            Verdict::Deny => Err(reason),
            Verdict::DenyUnexplained => Err(Reason::Unexplained),
        }
    }
}

/// Decides what a principal may publish and subscribe.
///
/// Called inside the broker's lock: it must answer from memory, and must not call the broker.
pub trait Authorise: Send + Sync + 'static {
    /// May `principal` publish on `topic`? Also asked about the topic of a will, when the client connects. Not asked about
    /// topics below `$SYS`, which are the broker's own.
    fn may_publish(&self, principal: &Principal, topic: &str, retain: Retain) -> Verdict;

    /// May `principal` read every topic that `filter` matches? For `$share/group/F` it is asked about `F`. An embedder that
    /// lets a filter through which reaches further than its principal may read answers [`Authorise::may_read`], too.
    ///
    /// [`filter::contains`] answers that for a filter that is allowed; comparing strings does not, since `d/+` covers `d/7`.
    fn may_subscribe(&self, principal: &Principal, filter: &str) -> Verdict;

    /// May `principal` be sent what is on `topic`, which a filter that it was granted matches? Asked for each receiver of each
    /// message, so it should cost next to nothing; what is denied is not for that receiver, and counted nowhere. By default
    /// [`Authorise::may_subscribe`] has said all there is to say.
    fn may_read(&self, principal: &Principal, topic: &str) -> Verdict {
        let (_, _) = (principal, topic);
        Verdict::Allow
    }
}

/// The simplest [`Authorise`]: the same two lists of filters for everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    /// A topic may be published when one of these filters matches it.
    pub publish: Vec<String>,
    /// A filter may be subscribed when one of these contains it.
    pub subscribe: Vec<String>,
}

impl Authorise for AllowList {
    fn may_publish(&self, _principal: &Principal, topic: &str, _retain: Retain) -> Verdict {
        Verdict::allow_if(self.publish.iter().any(|allowed| filter::matches(allowed, topic)))
    }

    fn may_subscribe(&self, _principal: &Principal, requested: &str) -> Verdict {
        Verdict::allow_if(
            self.subscribe
                .iter()
                .any(|allowed| filter::contains(allowed, requested)),
        )
    }
}
