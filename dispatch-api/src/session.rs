//! `/session`: signing in and out.
//!
//! A wrong password and an address that nobody has get the same answer after the same work.

use crate::access::{ActingBridge, SESSION_COOKIE, SignedIn};
use crate::idempotency::IdempotencyKey;
use crate::json::JsonBody;
use crate::openapi::Document;
use crate::password::Busy;
use crate::people::PersonJson;
use crate::problem::{Problem, ProblemType};
use crate::query::NoQuery;
use crate::secret::Secret;
use crate::state::{ApiState, Transport};
use crate::timestamp::Timestamp;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;
use waypost_bridge::audit::{Acting, Actor, Refusal};
use waypost_bridge::once::Caller;
use waypost_bridge::person::SignIn;

/// How long a sign-in is valid.
const SIGN_IN_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialsJson {
    email: String,
    password: String,
}

/// The answer to a sign-in: the only time that the token is shown.
#[derive(Serialize, ToSchema)]
struct NewSessionJson<'a> {
    token: &'a str,
    #[serde(flatten)]
    session: SessionJson,
}

#[derive(Serialize, ToSchema)]
struct SessionJson {
    expires_at: Timestamp,
    person: PersonJson,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .post("/api/v1/session", "Sign in")
        .describes("Failed attempts are bounded by address and by account.")
        .takes::<CredentialsJson>()
        .answers::<NewSessionJson<'static>>(
            200,
            "The token, which is shown this once, and a cookie for browsers.",
        )
        .problems(&[401, 429]);
    document
        .get("/api/v1/session", "Who is signed in")
        .answers::<SessionJson>(200, "The person of this token.");
    document
        .delete("/api/v1/session", "Sign out")
        .answers_nothing("The token opens nothing any more.");
}

/// `POST /session`
pub(crate) async fn create(
    State(state): State<ApiState>,
    Extension(acting): Extension<Acting>,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<CredentialsJson>,
) -> Result<impl IntoResponse, Problem> {
    let CredentialsJson { email, password } = body.value;
    let limit = &state.shared.sign_in_limit;
    let attempt = limit
        .attempt(&email, acting.address, Instant::now())
        .map_err(|wait| {
            count("limited");
            Problem::too_many_attempts(wait)
        })?;
    let person = state.bridge().person_by_email(email.trim()).await?;
    let hash = person.as_ref().map(|person| person.password_hash.clone());
    let right = state
        .shared
        .passwords
        .verify(password, hash)
        .await
        .map_err(|Busy| {
            count("busy");
            Problem::from(Busy)
        })?;
    let Some(person) = person.clone().filter(|_| right) else {
        count("refused");
        tracing::info!("a sign-in was refused: address and password do not belong together");
        let refusal = Refusal {
            action: "session.created".to_owned(),
            reason: ProblemType::WrongSignIn.reason().to_owned(),
            // Never what was typed: it may be a password in the wrong field.
            subject: person.map(|person| format!("person/{}", person.id)),
        };
        state.bridge().by(acting).refused(refusal).await?;
        return Err(Problem::new(
            ProblemType::WrongSignIn,
            "This e-mail address and this password do not belong together. Check both.",
        ));
    };

    limit.succeeded(&attempt, Instant::now());
    let acting = Acting {
        actor: Actor::Person(person.id),
        ..acting
    };
    let token = Secret::draw();
    let expires_ms = now_ms() + i64::try_from(SIGN_IN_LIFETIME.as_millis()).unwrap_or(i64::MAX);
    let sign_in = SignIn {
        token_hash: token.sha256(),
        person: person.id,
        expires_ms,
    };
    // The password was right, so it tells nothing apart; and it must not be on disk, however hashed.
    let once = key.of(Caller::Named(person.id), &[person.email.as_bytes()]);
    state.bridge().by(acting).sign_in(&person, sign_in, once).await?;
    count("accepted");
    let session = SessionJson {
        expires_at: Timestamp(expires_ms),
        person: person.into(),
    };
    let cookie = cookie(state.transport, token.text(), SIGN_IN_LIFETIME);
    // Serialised here: the body borrows the token.
    let answer = Json(NewSessionJson {
        token: token.text(),
        session,
    })
    .into_response();
    Ok(([(header::SET_COOKIE, cookie)], answer))
}

/// `GET /session`
pub(crate) async fn show(_: NoQuery, SignedIn { person, sign_in }: SignedIn) -> impl IntoResponse {
    Json(SessionJson {
        expires_at: Timestamp(sign_in.expires_ms),
        person: person.into(),
    })
}

/// `DELETE /session`
pub(crate) async fn delete(
    State(state): State<ApiState>,
    ActingBridge(bridge): ActingBridge,
    _: NoQuery,
    SignedIn { sign_in, .. }: SignedIn,
) -> Result<impl IntoResponse, Problem> {
    bridge.sign_out(sign_in.token_hash).await?;
    let cookie = cookie(state.transport, "", Duration::ZERO);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]))
}

/// Scripts cannot read it, other sites cannot make a browser send it with a change.
fn cookie(transport: Transport, token: &str, lifetime: Duration) -> String {
    let secure = match transport {
        Transport::Plain => "",
        Transport::Tls | Transport::TlsOfProxy => "; Secure",
    };
    let seconds = lifetime.as_secs();
    format!("{SESSION_COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}")
}

fn count(outcome: &'static str) {
    metrics::counter!("waypost_http_sign_ins_total", "outcome" => outcome).increment(1);
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_secure_where_the_connection_is() {
        assert_eq!(
            cookie(Transport::Plain, "abc", SIGN_IN_LIFETIME),
            "waypost_session=abc; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"
        );
        for transport in [Transport::Tls, Transport::TlsOfProxy] {
            assert_eq!(
                cookie(transport, "", Duration::ZERO),
                "waypost_session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0; Secure"
            );
        }
    }
}
