//! Who asks, and whether they may.
//!
//! A caller shows a token: in `Authorization: Bearer`, or, browsers, in a cookie that scripts cannot read. It is the
//! token of a sign-in, that of an API key, or the server's own (`admin.token`), which may do what an administrator may
//! but is nobody: it has no name to write under and no cursor to move.
//!
//! A device shows its id and its secret instead, for the few routes that are for devices.
//!
//! A cookie goes along with whatever a page of any site makes a browser send. So a change that came with a cookie
//! must also come from a page of this server.

use crate::origin;
use crate::problem::{Problem, ProblemType};
use crate::secret::sha256;
use crate::state::ApiState;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use waypost_bridge::Bridge;
use waypost_bridge::audit::{Acting, Actor, Refusal};
use waypost_bridge::device::DeviceId;
use waypost_bridge::key::ApiKey;
use waypost_bridge::person::{Identity, Person, PersonId, Role, SignIn};

/// The cookie that holds the token of a browser's sign-in.
pub(crate) const SESSION_COOKIE: &str = "waypost_session";

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody, without a token.
    Anybody,
    /// People and keys of these roles, and the server's own token where administrators may.
    Roles(&'static [Role]),
    /// People and keys of these roles and nobody else: what is done carries the caller's name.
    Named(&'static [Role]),
    /// A device, by its id and its secret (Basic authentication, RFC 7617), for what it may say of itself.
    Device,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Somebody who has signed in.
    Person(SignedIn),
    /// Another system, or a bot.
    Key(ApiKey),
    /// Whoever holds the server's own token.
    Server,
}

/// A person and the sign-in whose token was shown.
#[derive(Debug, Clone)]
pub(crate) struct SignedIn {
    pub(crate) person: Person,
    pub(crate) sign_in: SignIn,
}

impl Caller {
    /// Under which number the caller writes and has cursors, if under any.
    pub(crate) fn person_id(&self) -> Option<PersonId> {
        match self {
            Self::Person(signed_in) => Some(signed_in.person.id),
            Self::Key(key) => Some(key.id),
            Self::Server => None,
        }
    }

    /// What the caller is called in the audit record.
    fn actor(&self) -> Actor {
        match self {
            Self::Person(signed_in) => Actor::Person(signed_in.person.id),
            Self::Key(key) => Actor::Key(key.id),
            Self::Server => Actor::Server,
        }
    }

    /// Whether the token still opens anything.
    pub(crate) async fn is_let_in(&self, bridge: &Bridge) -> bool {
        let token_hash = match self {
            Self::Person(signed_in) => signed_in.sign_in.token_hash,
            Self::Key(key) => key.token_hash,
            Self::Server => return true,
        };
        // A bridge that does not answer has stopped.
        bridge
            .identify(token_hash)
            .await
            .is_ok_and(|found| found.is_some())
    }
}

/// The device that asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallingDevice(pub(crate) DeviceId);

/// Who was let through.
enum Admitted {
    Anybody,
    Caller(Caller),
    Device(CallingDevice),
}

impl From<&Caller> for waypost_bridge::once::Caller {
    fn from(caller: &Caller) -> Self {
        caller.person_id().map_or(Self::Server, Self::Named)
    }
}

/// What stands before the handler of one route.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) state: ApiState,
    pub(crate) access: Access,
    /// What the audit record calls it, such as `POST /api/v1/devices`.
    pub(crate) action: Arc<str>,
}

/// Finds out who asks and whether they may, and records those who may not.
pub(crate) async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let Guard {
        state,
        access,
        action,
    } = guard;
    let address = origin::address(state.transport, request.extensions(), request.headers());
    let shows_token = !matches!(shown_token(request.headers()), Ok(ShownToken::None));
    let mut acting = Acting {
        actor: Actor::Nobody,
        address,
    };
    let admitted = admit(&state, access, request.method(), request.headers(), &mut acting).await;
    let response = match admitted {
        Ok(admitted) => {
            request.extensions_mut().insert(acting);
            match admitted {
                Admitted::Anybody => {}
                Admitted::Caller(caller) => drop(request.extensions_mut().insert(caller)),
                Admitted::Device(device) => drop(request.extensions_mut().insert(device)),
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    if let Some(reason) = refusal(&response, shows_token) {
        let refusal = Refusal {
            action: action.to_string(),
            reason: reason.reason().to_owned(),
            subject: None,
        };
        // A bridge that has stopped records nothing, and does nothing either.
        let _ = state.bridge().by(acting).refused(refusal).await;
    }
    response
}

async fn admit(
    state: &ApiState,
    access: Access,
    method: &Method,
    headers: &HeaderMap,
    acting: &mut Acting,
) -> Result<Admitted, Problem> {
    if access == Access::Anybody {
        return Ok(Admitted::Anybody);
    }
    if access == Access::Device {
        let device = identify_device(state, headers)?;
        acting.actor = Actor::Device(device.0);
        return Ok(Admitted::Device(device));
    }
    let caller = identify(state, method, headers).await?;
    acting.actor = caller.actor();
    permit(access, &caller)?;
    Ok(Admitted::Caller(caller))
}

/// Whether an answer is a refusal that an administrator wants to know of. That nobody has signed in yet is none; a
/// failed sign-in is recorded where the account is known.
fn refusal(response: &Response, shows_token: bool) -> Option<ProblemType> {
    let kind = *response.extensions().get::<ProblemType>()?;
    match kind {
        ProblemType::NotAllowed
        | ProblemType::PersonRequired
        | ProblemType::CrossOrigin
        | ProblemType::TooManyAttempts => Some(kind),
        ProblemType::NotSignedIn | ProblemType::WrongDevice if shows_token => Some(kind),
        _ => None,
    }
}

/// The bridge, for changes: they stand in the audit record under the name of whoever asks.
pub(crate) struct ActingBridge(pub(crate) Bridge);

impl FromRequestParts<ApiState> for ActingBridge {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        match parts.extensions.get::<Acting>() {
            Some(acting) => Ok(Self(state.bridge().by(*acting))),
            None => Err(unguarded(parts)),
        }
    }
}

fn permit(access: Access, caller: &Caller) -> Result<(), Problem> {
    match (access, caller) {
        // Those are told apart before anybody is looked for.
        (Access::Anybody | Access::Device, _) => Ok(()),
        (Access::Roles(roles), Caller::Server) if roles.contains(&Role::Admin) => Ok(()),
        (Access::Roles(_) | Access::Named(_), Caller::Server) => Err(Problem::new(
            ProblemType::PersonRequired,
            "The server's own token is nobody: it has no name to write under, no cursor and no session. Sign in as a \
             person with POST /api/v1/session and use that token.",
        )),
        (Access::Roles(roles) | Access::Named(roles), Caller::Person(SignedIn { person, .. })) => {
            permit_role(roles, person.role, "You are signed in as")
        }
        (Access::Roles(roles) | Access::Named(roles), Caller::Key(key)) => {
            permit_role(roles, key.role, "This key has the role")
        }
    }
}

fn permit_role(allowed: &[Role], role: Role, you_are: &str) -> Result<(), Problem> {
    if allowed.contains(&role) {
        return Ok(());
    }
    let allowed: Vec<_> = allowed.iter().map(|role| role_name(*role)).collect();
    let detail = format!(
        "{you_are} {}; this takes {}. Ask an administrator.",
        role_name(role),
        allowed.join(" or ")
    );
    Err(Problem::new(ProblemType::NotAllowed, detail))
}

async fn identify(state: &ApiState, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    let token_hash = match shown_token(headers)? {
        ShownToken::Bearer(token) => sha256(token.as_bytes()),
        ShownToken::Cookie(token) => {
            if !method.is_safe() && !is_same_origin(headers) {
                return Err(Problem::new(
                    ProblemType::CrossOrigin,
                    "A change that comes with a cookie must come from a page of this server. Programs send the token \
                     as Authorization: Bearer instead.",
                ));
            }
            sha256(token.as_bytes())
        }
        ShownToken::None => {
            return Err(Problem::new(
                ProblemType::NotSignedIn,
                "Sign in with POST /api/v1/session and send the token as Authorization: Bearer.",
            ));
        }
    };
    if let Some(servers) = state.shared.server_token_hash
        && bool::from(servers.ct_eq(&token_hash))
    {
        return Ok(Caller::Server);
    }
    match state.bridge().identify(token_hash).await? {
        Some(Identity::Person(person, sign_in)) => Ok(Caller::Person(SignedIn { person, sign_in })),
        Some(Identity::Key(key)) => Ok(Caller::Key(key)),
        None => Err(Problem::new(
            ProblemType::NotSignedIn,
            "This token is not valid, or no longer. Sign in again with POST /api/v1/session.",
        )),
    }
}

fn identify_device(state: &ApiState, headers: &HeaderMap) -> Result<CallingDevice, Problem> {
    let refused = |detail| Problem::new(ProblemType::WrongDevice, detail);
    let Some((user, secret)) = shown_device(headers) else {
        return Err(refused(
            "Send the id of the device and its secret, as they stand in its credentials file, with Basic authentication.",
        ));
    };
    user.parse()
        .ok()
        .filter(|device| state.bridge().access().verify(*device, secret.as_bytes()))
        .map(CallingDevice)
        .ok_or_else(|| {
            refused(
                "This is not the secret of a device that may connect. Check both in its credentials file.",
            )
        })
}

/// User and password of `Authorization: Basic`.
fn shown_device(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    // [RFC 9110 §11.1] the scheme's case does not matter.
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    // [RFC 7617 §2] the first colon ends the user.
    let (user, secret) = text.split_once(':')?;
    Some((user.to_owned(), secret.to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
enum ShownToken<'a> {
    Bearer(&'a str),
    Cookie(&'a str),
    None,
}

/// The header wins over the cookie: whoever sets it means it.
fn shown_token(headers: &HeaderMap) -> Result<ShownToken<'_>, Problem> {
    if let Some(authorization) = headers.get(header::AUTHORIZATION) {
        // [RFC 9110 §11.1] the scheme's case does not matter.
        let bearer = authorization
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '));
        return match bearer {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(ShownToken::Bearer(token.trim()))
            }
            _ => Err(Problem::new(
                ProblemType::NotSignedIn,
                "The Authorization header must read: Bearer, a space, and the token.",
            )),
        };
    }
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let token = cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == SESSION_COOKIE).then_some(value));
    Ok(token.map_or(ShownToken::None, ShownToken::Cookie))
}

/// Browsers say where a request comes from: in `Sec-Fetch-Site` where the address is a secure one, in `Origin` with
/// each change anywhere.
fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return false;
    };
    let authority = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// A role as it stands in JSON.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Dispatcher => "dispatcher",
        Role::Viewer => "viewer",
        Role::Integration => "integration",
        Role::Bot => "bot",
    }
}

/// A role in a body.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct RoleJson(pub(crate) Role);

/// What a person may do.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the document names them")]
pub(crate) enum PersonRoleJson {
    Admin,
    Dispatcher,
    Viewer,
}

/// What a key may do.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the document names them")]
pub(crate) enum KeyRoleJson {
    Integration,
    Bot,
}

impl TryFrom<String> for RoleJson {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        [
            Role::Admin,
            Role::Dispatcher,
            Role::Viewer,
            Role::Integration,
            Role::Bot,
        ]
        .into_iter()
        .find(|role| role_name(*role) == name)
        .map(Self)
        .ok_or("people are admin, dispatcher or viewer, keys integration or bot")
    }
}

/// The number under which the caller writes, on routes for those who have one.
pub(crate) struct Named(pub(crate) PersonId);

impl<S: Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.person_id().map(Self).ok_or_else(|| unguarded(parts))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Every route has a row in the table, and with it a guard.
        parts.extensions.get().cloned().ok_or_else(|| unguarded(parts))
    }
}

impl<S: Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Caller::from_request_parts(parts, state).await? {
            Caller::Person(signed_in) => Ok(signed_in),
            Caller::Key(_) | Caller::Server => Err(unguarded(parts)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for CallingDevice {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().copied().ok_or_else(|| unguarded(parts))
    }
}

fn unguarded(parts: &Parts) -> Problem {
    tracing::error!(
        http.path = parts.uri.path(),
        "the table of routes lets callers through to {} {} whom its handler does not know",
        parts.method,
        parts.uri.path()
    );
    Problem::new(
        ProblemType::Internal,
        "The server's table of routes is wrong; please report this.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn the_token_is_found_in_the_header_or_in_the_cookie() {
        for (lines, token) in [
            (&[][..], ShownToken::None),
            (&[("authorization", "Bearer abc")], ShownToken::Bearer("abc")),
            (&[("authorization", "bearer  abc")], ShownToken::Bearer("abc")),
            (&[("cookie", "waypost_session=abc")], ShownToken::Cookie("abc")),
            (
                &[("cookie", "a=b; waypost_session=abc;c=d")],
                ShownToken::Cookie("abc"),
            ),
            (
                &[("cookie", "a=b"), ("cookie", "waypost_session=abc")],
                ShownToken::Cookie("abc"),
            ),
            (&[("cookie", "xwaypost_session=abc")], ShownToken::None),
            (
                &[("cookie", "waypost_session=abc"), ("authorization", "Bearer def")],
                ShownToken::Bearer("def"),
            ),
        ] {
            assert_eq!(shown_token(&headers(lines)).unwrap(), token, "{lines:?}");
        }
        for wrong in ["Bearer", "Basic YTpi", "abc"] {
            assert!(
                shown_token(&headers(&[("authorization", wrong)])).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_device_is_found_in_basic_authentication() {
        let shown = |value: &str| shown_device(&headers(&[("authorization", value)]));
        let found = Some(("7c".to_owned(), "a:b".to_owned()));
        assert_eq!(shown("Basic N2M6YTpi"), found);
        assert_eq!(shown("basic  N2M6YTpi"), found);
        for wrong in [
            "Basic",
            "Basic ",
            "Basic N2M",
            "Basic !",
            "Basic N2M=",
            "Basic /////w==",
            "Bearer N2M6YTpi",
        ] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
        assert_eq!(shown_device(&HeaderMap::new()), None);
    }

    #[test]
    fn a_page_of_another_origin_is_told_by_what_the_browser_says() {
        for (lines, same) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://a:1"),
                    ("host", "a:1"),
                ],
                false,
            ),
            (&[("origin", "http://a:1"), ("host", "a:1")], true),
            (
                &[("origin", "https://Office.example"), ("host", "office.example")],
                true,
            ),
            (&[("origin", "http://a:2"), ("host", "a:1")], false),
            (&[("origin", "http://a:1.evil"), ("host", "a:1")], false),
            (&[("origin", "null"), ("host", "a:1")], false),
            (&[("host", "a:1")], false),
            (&[], false),
        ] {
            assert_eq!(is_same_origin(&headers(lines)), same, "{lines:?}");
        }
    }
}
