//! `/api/openapi.json`: the interface as an OpenAPI 3.1 document, and `/api/docs`, which is the same for people.
//!
//! The file of each resource describes its routes (`describe`), beside the handlers and from their JSON twins. What
//! follows from the table of routes and from what every handler does is added here: who may call, how to sign in,
//! parameters of the path, and the problems that can come. A test compares the document with the table both ways.

mod reference;

use crate::access::{Access, SESSION_COOKIE, role_name};
use crate::json::BODY_BYTES_MAX;
use crate::problem::{ProblemJson, ProblemType};
use crate::query::{LIMIT_MAX, NoQuery};
use crate::routes::{EVERY_ROLE, access_of};
use axum::Json;
use axum::http::Method;
use axum::response::{Html, IntoResponse};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use utoipa::openapi::{RefOr, schema::Schema};
use utoipa::{PartialSchema, ToSchema};

/// What people call it, what it is, and what describes its routes.
type Resource = (&'static str, &'static str, fn(&mut Document));

/// The resources, in the order in which people read about them.
const RESOURCES: &[Resource] = &[
    ("Session", "Signing in and out.", crate::session::describe),
    ("Devices", "The drivers' units.", crate::devices::describe),
    ("Groups", "Devices that share a channel.", crate::groups::describe),
    ("Tracks", "Where a device has been.", crate::track::describe),
    ("Positions", "Where everybody is.", crate::positions::describe),
    (
        "Streams",
        "Conversations, and who takes part.",
        crate::streams::describe,
    ),
    (
        "Entries",
        "What people and devices say, and how far it has come.",
        crate::entries::describe,
    ),
    (
        "Templates",
        "Quick replies, in every language that the fleet speaks.",
        crate::templates::describe,
    ),
    (
        "Broadcasts",
        "One message to many, and who has not answered.",
        crate::broadcasts::describe,
    ),
    (
        "Events",
        "What happens, for systems and pages.",
        crate::events::describe,
    ),
    (
        "People",
        "Who of the office may sign in.",
        crate::people::describe,
    ),
    (
        "Keys",
        "What other systems and bots come in with.",
        crate::keys::describe,
    ),
    ("Audit", "Who did what, when, from where.", crate::audit::describe),
    (
        "Backup",
        "Everything there is, to be put away.",
        crate::backup::describe,
    ),
    (
        "MQTT",
        "The way in for devices that reach HTTP alone.",
        crate::mqtt_socket::describe,
    ),
    (
        "Authority",
        "What a device installs to trust this server.",
        crate::authority::describe,
    ),
    ("Interface", "This document.", describe),
    (
        "Health",
        "For what looks after the server.",
        crate::health::describe,
    ),
];

/// Made once: it is the same for everybody.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| Document::new().finish());
static REFERENCE: LazyLock<String> = LazyLock::new(|| reference::page(&DOCUMENT));

/// `GET /api/openapi.json`
pub(crate) async fn document(_: NoQuery) -> impl IntoResponse {
    Json(&*DOCUMENT)
}

/// `GET /api/docs`
pub(crate) async fn docs(_: NoQuery) -> impl IntoResponse {
    Html(REFERENCE.as_str())
}

fn describe(document: &mut Document) {
    document
        .get("/api/openapi.json", "The interface as an OpenAPI 3.1 document")
        .answers_with(
            200,
            "The document.",
            "application/json",
            json!({ "type": "object" }),
        );
    document
        .get("/api/docs", "The interface for people to read")
        .answers_with(
            200,
            "A page that loads nothing from elsewhere.",
            "text/html",
            json!({ "type": "string" }),
        );
}

/// The document under construction.
pub(crate) struct Document {
    operations: Vec<Operation>,
    tag: &'static str,
}

/// A method of a path, as its resource describes it.
pub(crate) struct Operation {
    method: Method,
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: Option<&'static str>,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    problems: BTreeSet<u16>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    fn new() -> Self {
        let mut document = Self {
            operations: Vec::new(),
            tag: "",
        };
        for &(tag, _, describe) in RESOURCES {
            document.tag = tag;
            describe(&mut document);
        }
        document
    }

    pub(crate) fn get(&mut self, path: &'static str, summary: &'static str) -> &mut Operation {
        self.operation(Method::GET, path, summary)
    }

    /// A POST, which takes an `Idempotency-Key`.
    pub(crate) fn post(&mut self, path: &'static str, summary: &'static str) -> &mut Operation {
        let operation = self.operation(Method::POST, path, summary);
        operation.parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "The same request under the same key takes effect once, however often it is sent in 30 days.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
        operation.problems(&[400, 409, 422])
    }

    /// A POST that changes nothing when it is repeated, and takes no key for it.
    pub(crate) fn report(&mut self, path: &'static str, summary: &'static str) -> &mut Operation {
        self.operation(Method::POST, path, summary)
    }

    pub(crate) fn put(&mut self, path: &'static str, summary: &'static str) -> &mut Operation {
        self.operation(Method::PUT, path, summary)
    }

    pub(crate) fn patch(&mut self, path: &'static str, summary: &'static str) -> &mut Operation {
        self.operation(Method::PATCH, path, summary)
    }

    pub(crate) fn delete(&mut self, path: &'static str, summary: &'static str) -> &mut Operation {
        self.operation(Method::DELETE, path, summary)
    }

    fn operation(&mut self, method: Method, path: &'static str, summary: &'static str) -> &mut Operation {
        let operation = Operation {
            method,
            path,
            tag: self.tag,
            summary,
            description: None,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            // Every query is read, and an unknown parameter refused; everything can fail or be too busy.
            problems: BTreeSet::from([400, 500, 503]),
            schemas: Vec::new(),
        };
        self.operations.push(operation);
        self.operations.last_mut().expect("one was just pushed")
    }

    fn finish(self) -> Value {
        let mut schemas = Map::new();
        let mut problem_schemas = Vec::new();
        let problem = reference_to::<ProblemJson<'static>>(&mut problem_schemas);
        add_schemas(&mut schemas, problem_schemas);
        let mut paths: Map<String, Value> = Map::new();
        for operation in self.operations {
            let (path, method) = (operation.path, operation.method.as_str().to_lowercase());
            let path = paths.entry(path).or_insert_with(|| json!({}));
            path[method] = operation.finish(&mut schemas);
        }
        let tags: Vec<Value> = RESOURCES
            .iter()
            .map(|(name, description, _)| json!({ "name": name, "description": description }))
            .collect();
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Waypost",
                "version": env!("CARGO_PKG_VERSION"),
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
                "description": "Messages, positions and events of a fleet. Everything that changes something answers \
                    after it is on disk. What is refused is answered with a problem document (RFC 9457), whose `type` \
                    programs may compare. Times are RFC 3339 in UTC with milliseconds; ids are strings.",
            },
            "servers": [{ "url": "/" }],
            "tags": tags,
            "paths": paths,
            "components": {
                "schemas": schemas,
                "responses": problem_responses(&problem),
                "securitySchemes": {
                    "bearer": {
                        "type": "http", "scheme": "bearer",
                        "description": "The token of a sign-in (POST /api/v1/session), of a key (POST /api/v1/keys), \
                            or the server's own, which stands in `admin.token` in its data folder.",
                    },
                    "cookie": {
                        "type": "apiKey", "in": "cookie", "name": SESSION_COOKIE,
                        "description": "Set by a sign-in, for browsers. A change must then come from a page of this \
                            server.",
                    },
                    "device": {
                        "type": "http", "scheme": "basic",
                        "description": "A device's id and secret, as they stand in its credentials file.",
                    },
                },
            },
        });
        shorten_names(&mut document);
        document
    }
}

impl Operation {
    /// More than a summary says.
    pub(crate) fn describes(&mut self, description: &'static str) -> &mut Self {
        self.description = Some(description);
        self
    }

    /// A parameter of the query that may be left out.
    pub(crate) fn takes_parameter(
        &mut self,
        name: &'static str,
        schema: Value,
        description: &'static str,
    ) -> &mut Self {
        self.parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": description, "schema": schema,
        }));
        self
    }

    /// The same for one that has to be there.
    pub(crate) fn needs_parameter(
        &mut self,
        name: &'static str,
        schema: Value,
        description: &'static str,
    ) -> &mut Self {
        self.takes_parameter(name, schema, description);
        if let Some(parameter) = self.parameters.last_mut() {
            parameter["required"] = true.into();
        }
        self
    }

    /// `limit` and `cursor`.
    pub(crate) fn takes_page(&mut self) -> &mut Self {
        self.takes_limit().takes_parameter(
            "cursor",
            json!({ "type": "string" }),
            "The `next` of the part before.",
        )
    }

    pub(crate) fn takes_limit(&mut self) -> &mut Self {
        let schema = json!({ "type": "integer", "minimum": 1, "maximum": LIMIT_MAX });
        self.takes_parameter("limit", schema, "How many items at most.")
    }

    /// `Accept-Language`, where what quick replies say is answered.
    pub(crate) fn takes_language(&mut self) -> &mut Self {
        self.parameters.push(json!({
            "name": "Accept-Language", "in": "header", "required": false,
            "description": "The language of what quick replies say; English where it is left out, or a template does not \
                have that one.",
            "schema": { "type": "string" },
        }));
        self
    }

    /// A body in JSON.
    pub(crate) fn takes<T: ToSchema>(&mut self) -> &mut Self {
        self.takes_up_to::<T>(BODY_BYTES_MAX)
    }

    /// The same with a bound of its own, in bytes.
    pub(crate) fn takes_up_to<T: ToSchema>(&mut self, bytes_max: usize) -> &mut Self {
        let schema = reference_to::<T>(&mut self.schemas);
        self.takes_body(schema, bytes_max)
    }

    /// A body in JSON that no twin stands for.
    pub(crate) fn takes_schema(&mut self, schema: Value) -> &mut Self {
        self.takes_body(schema, BODY_BYTES_MAX)
    }

    fn takes_body(&mut self, schema: Value, bytes_max: usize) -> &mut Self {
        self.body = Some(json!({
            "required": true,
            "description": format!("At most {bytes_max} bytes."),
            "content": { "application/json": { "schema": schema } },
        }));
        self.problems(&[408, 413, 415, 422])
    }

    /// An answer in JSON.
    pub(crate) fn answers<T: ToSchema>(&mut self, status: u16, description: &'static str) -> &mut Self {
        let schema = reference_to::<T>(&mut self.schemas);
        self.answers_with(status, description, "application/json", schema)
    }

    /// An answer that is a part of a list, `{items, next}`.
    pub(crate) fn answers_page<T: ToSchema>(&mut self, description: &'static str) -> &mut Self {
        let item = reference_to::<T>(&mut self.schemas);
        let schema = json!({
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": { "type": "array", "items": item },
                "next": { "type": ["string", "null"], "description": "The `cursor` of the next part; null at the end." },
            },
        });
        self.answers_with(200, description, "application/json", schema)
    }

    /// An answer of some other kind. Several kinds under one status are told apart by `Content-Type`.
    pub(crate) fn answers_with(
        &mut self,
        status: u16,
        description: &'static str,
        content_type: &'static str,
        schema: Value,
    ) -> &mut Self {
        let answer = self
            .answers
            .entry(status)
            .or_insert_with(|| json!({ "description": description, "content": {} }));
        answer["content"][content_type] = json!({ "schema": schema });
        self
    }

    /// An answer without a body.
    pub(crate) fn answers_nothing(&mut self, description: &'static str) -> &mut Self {
        self.answers.insert(204, json!({ "description": description }));
        self
    }

    /// Statuses of problems that do not follow from the method, the path, the body and who may call.
    pub(crate) fn problems(&mut self, statuses: &[u16]) -> &mut Self {
        self.problems.extend(statuses);
        self
    }

    /// What a schema refers to.
    pub(crate) fn schema_of<T: ToSchema>(&mut self) -> Value {
        reference_to::<T>(&mut self.schemas)
    }

    fn finish(mut self, schemas: &mut Map<String, Value>) -> Value {
        add_schemas(schemas, std::mem::take(&mut self.schemas));
        let access = access_of(&self.method, self.path);
        let roles = match access {
            Some(Access::Roles(roles) | Access::Named(roles)) => roles,
            Some(Access::Anybody | Access::Device) | None => &[],
        };
        if access == Some(Access::Device) {
            self.problems(&[401]);
        }
        if !roles.is_empty() {
            self.problems(&[401]);
            let is_change = !self.method.is_safe();
            // Somebody is left out, or a change may come from elsewhere.
            if is_change || roles.len() < EVERY_ROLE.len() || matches!(access, Some(Access::Named(_))) {
                self.problems(&[403]);
            }
        }
        for name in self.path.split(['{', '}']).skip(1).step_by(2) {
            self.problems(&[404]);
            self.parameters.push(json!({
                "name": name, "in": "path", "required": true, "schema": { "type": "string" },
            }));
        }
        let mut responses: Map<String, Value> = Map::new();
        for status in &self.problems {
            let reference = format!("#/components/responses/{}", response_name(*status));
            responses.insert(status.to_string(), json!({ "$ref": reference }));
        }
        for (status, answer) in self.answers {
            responses.insert(status.to_string(), answer);
        }
        let security = match access {
            Some(Access::Anybody) | None => json!([]),
            Some(Access::Device) => json!([{ "device": [] }]),
            Some(Access::Roles(_) | Access::Named(_)) => json!([{ "bearer": [] }, { "cookie": [] }]),
        };
        let roles: Vec<&str> = roles.iter().map(|role| role_name(*role)).collect();
        let mut operation = json!({
            "tags": [self.tag],
            "summary": self.summary,
            "operationId": operation_id(&self.method, self.path),
            "parameters": self.parameters,
            "responses": responses,
            "security": security,
            "x-waypost-roles": roles,
        });
        if let Some(description) = self.description {
            operation["description"] = description.into();
        }
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        operation
    }
}

/// `post-devices-id-credentials`
fn operation_id(method: &Method, path: &str) -> String {
    let path = path.trim_start_matches("/api/v1").trim_start_matches('/');
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    format!("{}-{}", method.as_str().to_lowercase(), words.join("-"))
}

/// The problems of each status, as the answers that operations refer to.
fn problem_responses(problem: &Value) -> Map<String, Value> {
    let mut kinds: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for kind in ProblemType::ALL {
        kinds.entry(kind.status()).or_default().push(kind.uri());
    }
    let response = |(status, types): (u16, Vec<&str>)| {
        let description = format!("Refused; `type` is {}.", types.join(" or "));
        let mut response = json!({
            "description": description,
            "content": { "application/problem+json": { "schema": problem } },
        });
        if [429, 503, 507].contains(&status) {
            response["headers"] = json!({
                "Retry-After": { "description": "Seconds.", "schema": { "type": "integer" } },
            });
        }
        (response_name(status), response)
    };
    kinds.into_iter().map(response).collect()
}

fn response_name(status: u16) -> String {
    format!("Problem{status}")
}

/// A reference to the schema of a type, which is kept with all that it refers to.
fn reference_to<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) -> Value {
    let name = T::name();
    schemas.push((name.to_string(), <T as PartialSchema>::schema()));
    T::schemas(schemas);
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn add_schemas(all: &mut Map<String, Value>, schemas: Vec<(String, RefOr<Schema>)>) {
    for (name, schema) in schemas {
        let schema = serde_json::to_value(schema).expect("a schema is JSON");
        all.insert(name, schema);
    }
}

/// The twins are called `…Json` in the code; whoever reads the document knows that it is JSON.
fn shorten_names(document: &mut Value) {
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        let named = std::mem::take(schemas).into_iter();
        schemas.extend(named.map(|(name, schema)| (short(&name).to_owned(), schema)));
    }
    shorten_references(document);
}

fn short(name: &str) -> &str {
    name.strip_suffix("Json").unwrap_or(name)
}

fn shorten_references(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(reference) if name == "$ref" => *reference = short(reference).to_owned(),
                    member => shorten_references(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::routes;

    /// Every method of every path of the document.
    fn described() -> BTreeSet<(String, String)> {
        let paths = DOCUMENT["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let served: BTreeSet<(String, String)> = routes()
            .iter()
            .map(|route| (route.method.to_string(), route.path.to_owned()))
            .collect();
        let described = described();
        if let Some((method, path)) = served.difference(&described).next() {
            panic!(
                "{method} {path} is served and not described. Say what it takes and answers in `describe` of the file \
                 with its handler, and put that function into `RESOURCES` in openapi.rs if it is new there."
            );
        }
        if let Some((method, path)) = described.difference(&served).next() {
            panic!(
                "{method} {path} is described and not served. Put a row into the table of routes.rs, or take the \
                 description out."
            );
        }
    }

    #[test]
    fn each_operation_says_who_may_call_it_as_the_table_does() {
        for route in routes() {
            let method = route.method.as_str().to_lowercase();
            let operation = &DOCUMENT["paths"][route.path][method];
            let said: Vec<&str> = operation["x-waypost-roles"]
                .as_array()
                .unwrap()
                .iter()
                .map(|role| role.as_str().unwrap())
                .collect();
            let roles = match route.access {
                Access::Anybody | Access::Device => &[][..],
                Access::Roles(roles) | Access::Named(roles) => roles,
            };
            let roles: Vec<&str> = roles.iter().map(|role| role_name(*role)).collect();
            assert_eq!(said, roles, "{} {}", route.method, route.path);
            let is_open = operation["security"] == json!([]);
            let should_be_open = route.access == Access::Anybody;
            assert_eq!(is_open, should_be_open, "{} {}", route.method, route.path);
            let answers = operation["responses"].as_object().unwrap();
            assert!(
                answers
                    .keys()
                    .any(|status| status.starts_with('2') || status == "101"),
                "{} {} says nothing of what it answers",
                route.method,
                route.path
            );
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(members) => {
                    for (name, member) in members {
                        match member {
                            Value::String(reference) if name == "$ref" => {
                                found.insert(reference.clone());
                            }
                            member => walk(member, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
                _ => {}
            }
        }
        let mut found = BTreeSet::new();
        walk(&DOCUMENT, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(DOCUMENT.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let names: BTreeSet<String> = routes()
            .iter()
            .map(|route| operation_id(&route.method, route.path))
            .collect();
        assert_eq!(names.len(), routes().len(), "{names:?}");
    }
}
