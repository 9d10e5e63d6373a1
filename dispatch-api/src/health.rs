//! `/healthz`, `/readyz` and `/metrics`: for what looks after the server.
//!
//! They ask for no token, so that a supervisor or Prometheus needs none: nothing in them is about a person, a device
//! or a message. Whoever must not read them is kept out by the address on which the server listens, or by a proxy.

use crate::openapi::Document;
use crate::problem::{Problem, ProblemType};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;
use waypost_bridge::core::Space;

/// How long the bridge may take to answer and still be called ready.
const BRIDGE_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Something that must be well for the server to be ready.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

#[derive(Serialize, ToSchema)]
struct HealthJson {
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
struct ReadinessJson {
    status: &'static str,
    /// By name: `ok`, or why not. A warning is of something that is meant to be so.
    #[schema(value_type = BTreeMap<String, String>)]
    checks: BTreeMap<&'static str, String>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/healthz", "Whether the process answers")
        .answers::<HealthJson>(200, "It does.");
    document
        .get("/readyz", "Whether everything that it needs does")
        .answers::<ReadinessJson>(200, "Everything is well.")
        .answers::<ReadinessJson>(503, "Something is not; it says what.");
    document
        .get("/metrics", "All metrics, for Prometheus")
        .answers_with(200, "Prometheus text.", "text/plain", json!({ "type": "string" }))
        .problems(&[404]);
}

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> impl IntoResponse {
    Json(HealthJson { status: "ok" })
}

/// `GET /readyz`: everything that it needs does, too.
pub(crate) async fn ready(State(state): State<ApiState>) -> impl IntoResponse {
    let bridge = match tokio::time::timeout(BRIDGE_ANSWER_MAX, state.bridge().last_event()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("does not answer".to_owned()),
    };
    let others = state
        .shared
        .checks
        .iter()
        .map(|check| (check.name, (check.check)()));
    let results: BTreeMap<_, _> = others.chain([("bridge", bridge)]).collect();
    let (space, has_room) = space(state.bridge().space());
    let (code, status) = if results.values().all(Result::is_ok) && has_room {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let checks = results
        .into_iter()
        .map(|(name, result)| (name, result.err().unwrap_or_else(|| "ok".to_owned())))
        .chain([("space", space.to_owned())])
        .chain((state.shared.warnings.iter()).map(|(name, warning)| (*name, format!("warning: {warning}"))))
        .collect();
    (code, Json(ReadinessJson { status, checks }))
}

/// What is said of the disk, and whether the server can do its work. While messages get through it can.
fn space(space: Space) -> (&'static str, bool) {
    match space {
        Space::Ample => ("ok", true),
        Space::NoFiles => ("the disk is nearly full: files are refused", true),
        Space::NoHistory => (
            "the disk is nearly full: files and the history of positions are refused",
            true,
        ),
        Space::NoEntries => ("the disk is full: everything new is refused", false),
    }
}

/// `GET /metrics`: Prometheus text.
pub(crate) async fn metrics(State(state): State<ApiState>) -> Result<Response, Problem> {
    let Some(render) = &state.shared.metrics else {
        return Err(Problem::new(
            ProblemType::NotFound,
            "This server was started without metrics.",
        ));
    };
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], render()).into_response())
}
