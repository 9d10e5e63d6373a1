//! Problem documents: how everything that is refused is explained (RFC 9457).
//!
//! `type` is stable: programs compare it. `detail` is for a person, in words that say what to do. Where single values
//! are wrong, `errors` names each: `pointer` is a JSON pointer into the body (`/body/text`), or `?name` for a
//! parameter of the query.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;
use waypost_bridge::BridgeError;
use waypost_bridge::once::Made;

/// Every `type` that a problem document of this server can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemType {
    /// `/problems/malformed` (400): the request cannot be read: no JSON, a header that makes no sense.
    Malformed,
    /// `/problems/invalid-parameters` (400): parameters of the query are unknown or wrong; `errors` names them.
    InvalidParameters,
    /// `/problems/not-signed-in` (401): no token, or one that is not valid (any more).
    NotSignedIn,
    /// `/problems/wrong-sign-in` (401): address and password do not belong together.
    WrongSignIn,
    /// `/problems/wrong-device` (401): the route is for devices, and id and secret are not those of one that may connect.
    WrongDevice,
    /// `/problems/not-allowed` (403): the caller's role does not include this.
    NotAllowed,
    /// `/problems/person-required` (403): the server's own token cannot do what only a person can.
    PersonRequired,
    /// `/problems/cross-origin` (403): a change that came with a cookie, and from a page of another site.
    CrossOrigin,
    /// `/problems/not-found` (404): nothing is at this path.
    NotFound,
    /// `/problems/method-not-allowed` (405): the path has other methods; `Allow` names them.
    MethodNotAllowed,
    /// `/problems/too-slow` (408): the body did not arrive in time.
    TooSlow,
    /// `/problems/conflict` (409): something of that name exists already.
    Conflict,
    /// `/problems/made-before` (409): a request with this `Idempotency-Key` took effect before, and its answer held a
    /// secret, which is not kept; `made` names what it made.
    MadeBefore,
    /// `/problems/cursor-lost` (410): the cursor is beyond the end of the event log, which happens after a backup was
    /// restored, or before its beginning, as old events are kept no longer; `resume_after` says where to go on.
    CursorLost,
    /// `/problems/too-large` (413): the body is larger than 64 kB, or 128 kB where it may name many devices.
    TooLarge,
    /// `/problems/unsupported-media-type` (415): the body is not declared as JSON.
    UnsupportedMediaType,
    /// `/problems/invalid-fields` (422): fields of the body are missing, unknown or wrong; `errors` names them.
    InvalidFields,
    /// `/problems/key-reused` (422): the `Idempotency-Key` was used for another request.
    KeyReused,
    /// `/problems/upgrade-required` (426): the path is for WebSockets; `Upgrade` names the protocol.
    UpgradeRequired,
    /// `/problems/too-many-attempts` (429): too many failed sign-ins from this address or for this account;
    /// `Retry-After` says when to come back.
    TooManyAttempts,
    /// `/problems/internal` (500): the server failed; its log says why.
    Internal,
    /// `/problems/no-space` (507): the server's disk is nearly full; `Retry-After` says when to try again.
    NoSpace,
    /// `/problems/busy` (503): too much at once, or the server is shutting down; `Retry-After` says when to come back.
    Busy,
}

impl ProblemType {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::InvalidParameters,
        Self::NotSignedIn,
        Self::WrongSignIn,
        Self::WrongDevice,
        Self::NotAllowed,
        Self::PersonRequired,
        Self::CrossOrigin,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooSlow,
        Self::Conflict,
        Self::MadeBefore,
        Self::CursorLost,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidFields,
        Self::KeyReused,
        Self::UpgradeRequired,
        Self::TooManyAttempts,
        Self::Internal,
        Self::NoSpace,
        Self::Busy,
    ];

    /// The value of `type`: a reference relative to the server's own address.
    pub fn uri(self) -> &'static str {
        self.row().0
    }

    /// What it is called in the audit record, such as `not-allowed`.
    pub(crate) fn reason(self) -> &'static str {
        let uri = self.uri();
        uri.strip_prefix("/problems/").unwrap_or(uri)
    }

    /// The HTTP status that it comes with.
    pub fn status(self) -> u16 {
        self.row().1.as_u16()
    }

    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Malformed => (
                "/problems/malformed",
                StatusCode::BAD_REQUEST,
                "The request cannot be read",
            ),
            Self::InvalidParameters => (
                "/problems/invalid-parameters",
                StatusCode::BAD_REQUEST,
                "Parameters of the query are wrong",
            ),
            Self::NotSignedIn => (
                "/problems/not-signed-in",
                StatusCode::UNAUTHORIZED,
                "Not signed in",
            ),
            Self::WrongSignIn => (
                "/problems/wrong-sign-in",
                StatusCode::UNAUTHORIZED,
                "Wrong e-mail address or password",
            ),
            Self::WrongDevice => ("/problems/wrong-device", StatusCode::UNAUTHORIZED, "Not a device"),
            Self::NotAllowed => ("/problems/not-allowed", StatusCode::FORBIDDEN, "Not allowed"),
            Self::PersonRequired => (
                "/problems/person-required",
                StatusCode::FORBIDDEN,
                "Only a person can do this",
            ),
            Self::CrossOrigin => (
                "/problems/cross-origin",
                StatusCode::FORBIDDEN,
                "The request came from another site",
            ),
            Self::NotFound => ("/problems/not-found", StatusCode::NOT_FOUND, "Nothing is here"),
            Self::MethodNotAllowed => (
                "/problems/method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "Not with this method",
            ),
            Self::TooSlow => (
                "/problems/too-slow",
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long to arrive",
            ),
            Self::Conflict => ("/problems/conflict", StatusCode::CONFLICT, "It exists already"),
            Self::MadeBefore => (
                "/problems/made-before",
                StatusCode::CONFLICT,
                "The request took effect before",
            ),
            Self::CursorLost => (
                "/problems/cursor-lost",
                StatusCode::GONE,
                "The event log has no such place",
            ),
            Self::TooLarge => (
                "/problems/too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request is too large",
            ),
            Self::UnsupportedMediaType => (
                "/problems/unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be JSON",
            ),
            Self::InvalidFields => (
                "/problems/invalid-fields",
                StatusCode::UNPROCESSABLE_ENTITY,
                "Fields of the body are wrong",
            ),
            Self::KeyReused => (
                "/problems/key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key belongs to another request",
            ),
            Self::UpgradeRequired => (
                "/problems/upgrade-required",
                StatusCode::UPGRADE_REQUIRED,
                "This path is for WebSockets",
            ),
            Self::TooManyAttempts => (
                "/problems/too-many-attempts",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many failed sign-ins",
            ),
            Self::Internal => (
                "/problems/internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The server failed",
            ),
            Self::NoSpace => (
                "/problems/no-space",
                StatusCode::INSUFFICIENT_STORAGE,
                "The disk is nearly full",
            ),
            Self::Busy => (
                "/problems/busy",
                StatusCode::SERVICE_UNAVAILABLE,
                "The server is busy",
            ),
        }
    }
}

/// A refusal, on its way to becoming a document.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: ProblemType,
    detail: String,
    errors: Vec<FieldProblem>,
    /// For [`ProblemType::Busy`], [`ProblemType::NoSpace`] and [`ProblemType::TooManyAttempts`].
    retry_after_s: Option<u32>,
    /// For [`ProblemType::CursorLost`].
    resume_after: Option<u64>,
    /// For [`ProblemType::MadeBefore`].
    made: Option<MadeJson>,
}

/// What a request made that is not answered again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MadeJson {
    kind: &'static str,
    id: String,
}

/// One value that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldProblem {
    /// A JSON pointer into the body, or `?name` for a parameter of the query.
    pub(crate) pointer: String,
    /// What would be right.
    pub(crate) detail: String,
}

/// The document, as RFC 9457 §3 describes it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProblemJson<'a> {
    #[serde(rename = "type")]
    uri: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
    #[serde(skip_serializing_if = "Option::is_none")]
    resume_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<MadeJson>,
}

impl Problem {
    pub(crate) fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            resume_after: None,
            made: None,
        }
    }

    /// Fields of the body are wrong.
    pub(crate) fn fields(errors: Vec<FieldProblem>) -> Self {
        Self::of_values(ProblemType::InvalidFields, errors)
    }

    /// Parameters of the query are wrong.
    pub(crate) fn parameters(errors: Vec<FieldProblem>) -> Self {
        Self::of_values(ProblemType::InvalidParameters, errors)
    }

    fn of_values(kind: ProblemType, errors: Vec<FieldProblem>) -> Self {
        let named = |error: &FieldProblem| match error.pointer.as_str() {
            "" => "the body as a whole".to_owned(),
            pointer => pointer.to_owned(),
        };
        let wrong: Vec<_> = errors.iter().map(named).collect();
        let detail = format!("Nothing was done. To be corrected: {}.", wrong.join(", "));
        Self {
            errors,
            ..Self::new(kind, detail)
        }
    }

    /// Come back in `retry_after_s` seconds.
    pub(crate) fn busy(detail: impl Into<String>, retry_after_s: u32) -> Self {
        Self {
            retry_after_s: Some(retry_after_s),
            ..Self::new(ProblemType::Busy, detail)
        }
    }

    /// Too many sign-ins have failed; come back when `wait` is over.
    pub(crate) fn too_many_attempts(wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let detail = format!(
            "Too many sign-ins have failed from this address or for this account. Try again in {seconds} seconds."
        );
        Self {
            retry_after_s: Some(seconds),
            ..Self::new(ProblemType::TooManyAttempts, detail)
        }
    }

    /// The event log ends at `last`, before the cursor that was given.
    pub(crate) fn cursor_lost(last: u64) -> Self {
        let detail = format!(
            "This cursor is of no event in the log; a backup may have been restored. Read again what you show, then \
             go on after {last}."
        );
        Self {
            resume_after: Some(last),
            ..Self::new(ProblemType::CursorLost, detail)
        }
    }

    /// The event log begins after `before_first`, which is after the cursor that was given.
    fn cursor_trimmed(before_first: u64) -> Self {
        let detail = format!(
            "Events after this cursor are kept no longer. Read again what you show, then go on after {before_first}; an \
             empty `after` begins with the first event that is kept."
        );
        Self {
            resume_after: Some(before_first),
            ..Self::new(ProblemType::CursorLost, detail)
        }
    }
}

impl From<Made> for Problem {
    fn from(made: Made) -> Self {
        let (kind, id) = match made {
            Made::Entry { stream, seq } => ("entry", format!("{stream}/{seq}")),
            Made::Device(device) => ("device", device.to_string()),
            Made::Credentials(device) => ("credentials", device.to_string()),
            Made::Person(person) => ("person", person.to_string()),
            Made::Key(key) => ("key", key.to_string()),
            Made::Session(person) => ("session", person.to_string()),
            Made::Group(group) => ("group", group.to_string()),
            Made::Broadcast(stream) => ("broadcast", stream.to_string()),
        };
        let what = match made {
            Made::Credentials(_) => format!("gave the device {id} new credentials"),
            Made::Session(_) => format!("signed in the person {id}"),
            _ => format!("made the {kind} {id}"),
        };
        let detail = format!(
            "A request with this Idempotency-Key {what}. The secret in its answer was shown that once; ask for a new \
             one under a new key."
        );
        Self {
            made: Some(MadeJson { kind, id }),
            ..Self::new(ProblemType::MadeBefore, detail)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (uri, status, title) = self.kind.row();
        let document = ProblemJson {
            uri,
            title,
            status: status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
            resume_after: self.resume_after.map(|cursor| cursor.to_string()),
            made: self.made,
        };
        let mut response = (status, axum::Json(document)).into_response();
        // For the audit record.
        response.extensions_mut().insert(self.kind);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2: a 401 names a scheme.
            let scheme = match self.kind {
                ProblemType::WrongDevice => "Basic realm=\"waypost\", charset=\"UTF-8\"",
                _ => "Bearer",
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        response
    }
}

impl From<BridgeError> for Problem {
    fn from(error: BridgeError) -> Self {
        match error {
            BridgeError::NotFound(what) => {
                Self::new(ProblemType::NotFound, format!("There is no such {what}."))
            }
            BridgeError::Invalid { field, reason } => Self::fields(vec![FieldProblem {
                pointer: field.into_owned(),
                detail: reason,
            }]),
            BridgeError::Conflict(reason) => Self::new(ProblemType::Conflict, sentence(reason)),
            superseded @ BridgeError::Superseded { .. } => {
                Self::new(ProblemType::Conflict, sentence(&superseded.to_string()))
            }
            BridgeError::Forbidden(reason) => Self::new(ProblemType::NotAllowed, sentence(reason)),
            BridgeError::KeyReused => Self::new(
                ProblemType::KeyReused,
                "This Idempotency-Key was used for another request. Send this one under a new key.",
            ),
            BridgeError::MadeBefore(made) => made.into(),
            BridgeError::EventsTrimmed { resume_after } => Self::cursor_trimmed(resume_after),
            BridgeError::EventsLost { resume_after } => Self::cursor_lost(resume_after),
            BridgeError::NoSpace => Self {
                retry_after_s: Some(60),
                ..Self::new(ProblemType::NoSpace, sentence(&error.to_string()))
            },
            BridgeError::Stopped => Self::busy("The server is shutting down. Try again in a few seconds.", 5),
            BridgeError::Store(error) => {
                tracing::error!(%error, "a request failed because the store did: {error}");
                Self::new(
                    ProblemType::Internal,
                    "The server could not read or write what it keeps. Its log says why; nothing was acknowledged.",
                )
            }
        }
    }
}

fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    format!("{}{}.", first.collect::<String>(), characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_type_has_an_address_of_its_own() {
        let addresses: BTreeSet<_> = ProblemType::ALL.iter().map(|kind| kind.uri()).collect();
        assert_eq!(addresses.len(), ProblemType::ALL.len());
        for kind in ProblemType::ALL {
            assert!(kind.uri().starts_with("/problems/"), "{kind:?}");
            assert!((400..600).contains(&kind.status()), "{kind:?}");
        }
    }
}
