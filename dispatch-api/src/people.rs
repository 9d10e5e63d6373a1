//! `/people` and `/people/{id}`: who of the office may sign in, and as what.

use crate::access::{ActingBridge, PersonRoleJson, RoleJson, role_name};
use crate::idempotency::IdempotencyKey;
use crate::json::{JsonBody, present};
use crate::openapi::Document;
use crate::page::PageJson;
use crate::problem::{Problem, ProblemType};
use crate::query::{Id, LIMIT_DEFAULT, NoQuery, Query};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waypost_bridge::person::{NewPerson, Person, PersonId, PersonPatch};

/// A person; the password never leaves the server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PersonJson {
    id: String,
    email: String,
    name: String,
    #[schema(value_type = PersonRoleJson)]
    role: &'static str,
}

impl From<Person> for PersonJson {
    fn from(person: Person) -> Self {
        Self {
            id: person.id.to_string(),
            role: role_name(person.role),
            email: person.email,
            name: person.name,
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPersonJson {
    email: String,
    name: String,
    #[schema(value_type = PersonRoleJson)]
    role: RoleJson,
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PersonPatchJson {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    email: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<PersonRoleJson>, nullable = false)]
    role: Option<RoleJson>,
    /// A new one ends the person's sign-ins.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    password: Option<String>,
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    document
        .get("/api/v1/people", "List the people who may sign in")
        .takes_page()
        .answers_page::<PersonJson>("People, by id.");
    document
        .post("/api/v1/people", "Add a person")
        .takes::<NewPersonJson>()
        .answers::<PersonJson>(201, "The person.");
    document
        .get("/api/v1/people/{id}", "Show a person")
        .answers::<PersonJson>(200, "The person.");
    document
        .patch("/api/v1/people/{id}", "Change a person")
        .describes("A new password ends the person's sign-ins. The last administrator stays one.")
        .takes::<PersonPatchJson>()
        .answers::<PersonJson>(200, "The person as it is now.")
        .problems(&[409]);
    document
        .delete("/api/v1/people/{id}", "Remove a person")
        .describes(
            "Access ends at once; the name stays with what the person wrote. The last administrator stays.",
        )
        .answers_nothing("The person cannot sign in any more.")
        .problems(&[409]);
}

/// `GET /people`
pub(crate) async fn list(
    State(state): State<ApiState>,
    mut query: Query,
) -> Result<impl IntoResponse, Problem> {
    let limit = query.limit().unwrap_or(LIMIT_DEFAULT);
    let after: Option<PersonId> = query.parse("cursor");
    query.finish()?;
    let people = state.bridge().people(after, limit + 1).await?;
    let page = PageJson::cut(people, limit, |person| person.id.to_string());
    Ok(Json(page.map(PersonJson::from)))
}

/// `POST /people`
pub(crate) async fn create(
    State(state): State<ApiState>,
    ActingBridge(bridge): ActingBridge,
    _: NoQuery,
    key: IdempotencyKey,
    body: JsonBody<NewPersonJson>,
) -> Result<impl IntoResponse, Problem> {
    let NewPersonJson {
        email,
        name,
        role: RoleJson(role),
        password,
    } = body.value;
    let passwords = &state.shared.passwords;
    let fields = [&email, &name, role_name(role)];
    let once = key.once_with_password(&fields, &password, passwords).await?;
    let new = NewPerson {
        password_hash: passwords.hash(password).await?,
        email,
        name,
        role,
    };
    let person = PersonJson::from(bridge.add_person(new, once).await?);
    let location = format!("/api/v1/people/{}", person.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(person)))
}

/// `GET /people/{id}`
pub(crate) async fn show(
    State(state): State<ApiState>,
    Id(id): Id<PersonId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    match state.bridge().person(id).await? {
        Some(person) => Ok(Json(PersonJson::from(person))),
        None => Err(Problem::new(
            ProblemType::NotFound,
            "There is no such person, or not any more.",
        )),
    }
}

/// `PATCH /people/{id}`
pub(crate) async fn update(
    State(state): State<ApiState>,
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<PersonId>,
    _: NoQuery,
    body: JsonBody<PersonPatchJson>,
) -> Result<impl IntoResponse, Problem> {
    let PersonPatchJson {
        email,
        name,
        role,
        password,
    } = body.value;
    let password_hash = match password {
        Some(password) => Some(state.shared.passwords.hash(password).await?),
        None => None,
    };
    let patch = PersonPatch {
        email,
        name,
        role: role.map(|RoleJson(role)| role),
        password_hash,
    };
    let person = bridge.update_person(id, patch).await?;
    Ok(Json(PersonJson::from(person)))
}

/// `DELETE /people/{id}`: access ends at once, the name stays with what the person wrote.
pub(crate) async fn remove(
    ActingBridge(bridge): ActingBridge,
    Id(id): Id<PersonId>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    bridge.remove_person(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
