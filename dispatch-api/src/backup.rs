//! `/backup`: everything in the store as it is at one moment, for `waypost backup`.

use crate::access::ActingBridge;
use crate::openapi::Document;
use crate::problem::Problem;
use crate::query::NoQuery;
use axum::body::Body;
use axum::http::header;
use axum::response::IntoResponse;
use futures_util::stream;
use serde_json::json;
use std::convert::Infallible;

pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/backup", "Everything in the store, as it is at one moment")
        .describes(
            "What `waypost backup` reads; `waypost restore` puts it back. It holds all words, positions and hashes of secrets. \
             Bytes that end before the end that they announce are a part of it and good for nothing.",
        )
        .answers_with(
            200,
            "Keys and values in their order, each behind its length, and at the end their count and SHA-256.",
            "application/octet-stream",
            json!({ "type": "string", "format": "binary" }),
        )
        .problems(&[409]);
}

/// `GET /backup`
pub(crate) async fn show(
    ActingBridge(bridge): ActingBridge,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let export = bridge.export().await?;
    let pieces = stream::unfold(export, |mut export| async move {
        let piece = export.recv().await?;
        Some((Ok::<_, Infallible>(piece), export))
    });
    let body = Body::from_stream(pieces);
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body))
}
