//! JSON bodies: read with a bound on size and time; what is wrong with one is said field by field.

use crate::problem::{FieldProblem, Problem, ProblemType};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_path_to_error::Segment;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

/// The largest body of a request, in bytes; a larger one is answered 413.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// The same for a body that names devices: 10,000 of the longest ids fit.
pub(crate) const IDS_BYTES_MAX: usize = 128 * 1024;
/// How long a client may take to send a body; then it is answered 408.
const BODY_READ_MAX: Duration = Duration::from_secs(30);

/// A body that is JSON, of at most `BYTES_MAX` bytes, and says a `T`.
#[derive(Debug)]
pub(crate) struct JsonBody<T, const BYTES_MAX: usize = BODY_BYTES_MAX> {
    pub(crate) value: T,
    /// As it arrived.
    pub(crate) bytes: Bytes,
}

impl<T: DeserializeOwned, S: Sync, const BYTES_MAX: usize> FromRequest<S> for JsonBody<T, BYTES_MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = declared_as_json(request, BYTES_MAX).await?;
        let value = parse(&bytes)?;
        Ok(Self { value, bytes })
    }
}

/// A body that is declared as JSON, as it arrived.
#[derive(Debug)]
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        declared_as_json(request, BODY_BYTES_MAX).await.map(Self)
    }
}

async fn declared_as_json(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::new(
            ProblemType::UnsupportedMediaType,
            "Send the body as JSON, with Content-Type: application/json.",
        ));
    }
    let read = tokio::time::timeout(BODY_READ_MAX, read(request.into_body(), bytes_max)).await;
    read.map_err(|_| {
        Problem::new(
            ProblemType::TooSlow,
            "The body did not arrive within 30 seconds. Send it again.",
        )
    })?
}

/// An id in a body.
#[derive(Debug)]
pub(crate) struct IdJson<T>(pub(crate) T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for IdJson<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// The ids of a list.
pub(crate) fn ids<T>(list: Vec<IdJson<T>>) -> Vec<T> {
    list.into_iter().map(|IdJson(id)| id).collect()
}

/// A `T` written as an object: serde would also take an array of its fields in their order.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// `application/json`, with parameters or without, or a type built on it (`…+json`).
fn is_json(headers: &HeaderMap) -> bool {
    let declared = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| {
            Problem::new(
                ProblemType::Malformed,
                "The body broke off before its end. Send it again.",
            )
        })?;
        if bytes.len() + piece.len() > bytes_max {
            return Err(Problem::new(
                ProblemType::TooLarge,
                format!("A body has at most {bytes_max} bytes here."),
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Whether it is JSON at all is a question of its own: where a type is wrong the parser may call it syntax.
    serde_json::from_slice::<IgnoredAny>(bytes)
        .map_err(|error| Problem::new(ProblemType::Malformed, format!("The body is not JSON: {error}.")))?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let object = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let mut pointer = pointer(error.path());
        let text = error.into_inner().to_string();
        // The place in the text is in the pointer already, and better.
        let said = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(said, _)| said);
        let detail = match said.split('`').collect::<Vec<_>>()[..] {
            ["missing field ", name, ..] => {
                pointer = format!("{pointer}/{name}");
                "is missing".to_owned()
            }
            ["unknown field ", name, ..] => {
                if !pointer.ends_with(&format!("/{name}")) {
                    pointer = format!("{pointer}/{name}");
                }
                "is not known here; check its spelling".to_owned()
            }
            _ => said.to_owned(),
        };
        Problem::fields(vec![FieldProblem { pointer, detail }])
    });
    object.map(|Object(value)| value)
}

/// The path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => format!("/{}", escaped(key)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// A name as it stands in a JSON pointer.
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// For fields of a PATCH: what is there, even `null`, is `Some`; what is not there is `None` by `serde(default)`.
pub(crate) fn present<'de, T, D>(value: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Outer {
        list: Vec<Object<Inner>>,
        #[serde(default, deserialize_with = "present")]
        name: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Inner {
        number: u32,
    }

    async fn refusal(body: &str) -> serde_json::Value {
        use axum::response::IntoResponse;
        let response = parse::<Outer>(body.as_bytes()).unwrap_err().into_response();
        let bytes = read(response.into_body(), BODY_BYTES_MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_by_its_place() {
        for (body, place) in [
            (r#"{}"#, "/list"),
            (r#"{"list":3}"#, "/list"),
            (r#"{"list":[{"number":1},{"number":"x"}]}"#, "/list/1/number"),
            (r#"{"list":[{"number":-1}]}"#, "/list/0/number"),
            (r#"{"list":[{"number":1.5}]}"#, "/list/0/number"),
            (r#"{"list":[{}]}"#, "/list/0/number"),
            (r#"{"list":[{"number":1,"numbr":1}]}"#, "/list/0/numbr"),
            (r#"{"list":[],"lst":[]}"#, "/lst"),
            (r#"{"list":[],"name":null}"#, "/name"),
            (r#"{"list":[],"name":{}}"#, "/name"),
            (r#"{"list":[[1]]}"#, "/list/0"),
            (r#"[]"#, ""),
            (r#"[[]]"#, ""),
            (r#""x""#, ""),
        ] {
            let problem = refusal(body).await;
            assert_eq!(problem["status"], 422, "{body}");
            assert_eq!(problem["errors"][0]["pointer"], place, "{body}: {problem}");
            assert!(
                !problem["errors"][0]["detail"].as_str().unwrap().contains("line"),
                "{problem}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_json_is_malformed() {
        for body in ["", "{", r#"{"list":[]"#, r#"{"list":[]} x"#, "\u{1}", "{list:[]}"] {
            let problem = refusal(body).await;
            assert_eq!(
                (&problem["status"], &problem["type"]),
                (&400.into(), &"/problems/malformed".into()),
                "{body}"
            );
        }
        assert!(parse::<Outer>(b"{\"list\":[\xff]}").is_err());
        assert!(parse::<Outer>("[".repeat(10_000).as_bytes()).is_err());
    }
}
