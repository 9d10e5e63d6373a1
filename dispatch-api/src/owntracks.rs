//! `/positions/owntracks`: OwnTracks' HTTP mode. The app signs in as a device, and what it says is about that device,
//! whatever user or topic stands in the message.

use crate::access::CallingDevice;
use crate::json::JsonBytes;
use crate::openapi::Document;
use crate::problem::{FieldProblem, Problem, ProblemType};
use crate::query::Query;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use serde_json::json;
use waypost_bridge::owntracks::{BadReport, parse};

pub(crate) fn describe(document: &mut Document) {
    let object = json!({
        "type": "object",
        "required": ["_type"],
        "properties": { "_type": { "type": "string" } },
        "description": "As OwnTracks' booklet describes it under JSON. A `location` is taken, other types are not used.",
    });
    document
        .report("/api/v1/positions/owntracks", "What an OwnTracks app says of its device")
        .describes(
            "OwnTracks' HTTP mode, signed in as a device. Whatever user or topic stands in the message, it is about \
             that device. Saying it twice changes nothing.",
        )
        .takes_parameter("u", json!({ "type": "string" }), "OwnTracks' own recorder asks for it; not used.")
        .takes_parameter("d", json!({ "type": "string" }), "OwnTracks' own recorder asks for it; not used.")
        .takes_schema(json!({ "oneOf": [object, { "type": "array", "items": object }] }))
        .answers_with(
            200,
            "Nothing to tell the app.",
            "application/json",
            json!({ "type": "array", "maxItems": 0 }),
        )
        .problems(&[507]);
}

/// `POST /positions/owntracks`: one message or an array of them. Answers `[]`: there is nothing to tell the app.
pub(crate) async fn report(
    State(state): State<ApiState>,
    CallingDevice(device): CallingDevice,
    mut query: Query,
    JsonBytes(body): JsonBytes,
) -> Result<Json<[(); 0]>, Problem> {
    // OwnTracks' own recorder asks for these, so they stand in many an app's address.
    query.text("u");
    query.text("d");
    query.finish()?;
    let report = parse(&body).map_err(refusal)?;
    state.bridge().report_owntracks(device, report).await?;
    Ok(Json([]))
}

fn refusal(bad: BadReport) -> Problem {
    metrics::counter!("waypost_bridge_owntracks_refused_total", "reason" => bad.label()).increment(1);
    match bad {
        BadReport::TooLarge | BadReport::NotJson(_) => {
            Problem::new(ProblemType::Malformed, format!("The body {bad}."))
        }
        BadReport::Encrypted { ref pointer } => Problem::fields(vec![FieldProblem {
            pointer: pointer.clone(),
            detail: bad.to_string(),
        }]),
        BadReport::Field { pointer, expected } => Problem::fields(vec![FieldProblem {
            pointer,
            detail: expected.to_owned(),
        }]),
    }
}
