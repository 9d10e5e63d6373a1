//! Everything that is served, and who may call it: the one table.

use crate::access::{Access, Guard, guard};
use crate::problem::{Problem, ProblemType};
use crate::state::ApiState;
use crate::{
    audit, authority, backup, broadcasts, credentials, cursor, devices, entries, events, groups, headers,
    health, keys, mqtt_socket, observe, openapi, owntracks, people, positions, receipts, session, streams,
    templates, track, web,
};
use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::{MethodFilter, MethodRouter, on};
use tower_http::compression::CompressionLayer;
use waypost_bridge::person::Role;

/// Who looks.
pub(crate) const EVERY_ROLE: &[Role] = &[
    Role::Admin,
    Role::Dispatcher,
    Role::Viewer,
    Role::Integration,
    Role::Bot,
];
/// Who signs in.
const PEOPLE: &[Role] = &[Role::Admin, Role::Dispatcher, Role::Viewer];
/// Who talks with drivers. Reading is part of it: that the office has read something is a promise to the driver, and
/// somebody who only looks on cannot make it.
const TALKING_ROLES: &[Role] = &[Role::Admin, Role::Dispatcher, Role::Integration, Role::Bot];
/// Who says which devices there are: an administrator, or the system that keeps the fleet.
const FLEET_ROLES: &[Role] = &[Role::Admin, Role::Integration];
/// Who lets others in, sees what they did, and says which words are on offer.
const ADMIN: &[Role] = &[Role::Admin];

/// One row: a method of a path, who may call it, and what answers.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    handler: MethodRouter<ApiState>,
}

impl Route {
    fn new<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        let filter = match method {
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::PATCH => MethodFilter::PATCH,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        Self {
            method,
            path,
            access,
            handler: on(filter, handler),
        }
    }
}

/// The table.
#[rustfmt::skip]
pub(crate) fn routes() -> Vec<Route> {
    use Access::{Anybody, Device, Named, Roles};
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const PATCH: Method = Method::PATCH;
    const DELETE: Method = Method::DELETE;
    vec![
        Route::new(POST,   "/api/v1/session",                  Anybody,               session::create),
        Route::new(GET,    "/api/v1/session",                  Named(PEOPLE),         session::show),
        Route::new(DELETE, "/api/v1/session",                  Named(PEOPLE),         session::delete),
        Route::new(GET,    "/api/v1/devices",                  Roles(EVERY_ROLE),     devices::list),
        Route::new(POST,   "/api/v1/devices",                  Roles(FLEET_ROLES),    devices::create),
        Route::new(GET,    "/api/v1/devices/{id}",             Roles(EVERY_ROLE),     devices::show),
        Route::new(PATCH,  "/api/v1/devices/{id}",             Roles(FLEET_ROLES),    devices::update),
        Route::new(DELETE, "/api/v1/devices/{id}",             Roles(FLEET_ROLES),    devices::revoke),
        Route::new(POST,   "/api/v1/devices/{id}/credentials", Roles(FLEET_ROLES),    credentials::rotate),
        Route::new(GET,    "/api/v1/devices/{id}/track",       Roles(EVERY_ROLE),     track::show),
        Route::new(GET,    "/api/v1/groups",                   Roles(EVERY_ROLE),     groups::list),
        Route::new(POST,   "/api/v1/groups",                   Roles(FLEET_ROLES),    groups::create),
        Route::new(GET,    "/api/v1/groups/{id}",              Roles(EVERY_ROLE),     groups::show),
        Route::new(PATCH,  "/api/v1/groups/{id}",              Roles(FLEET_ROLES),    groups::update),
        Route::new(DELETE, "/api/v1/groups/{id}",              Roles(FLEET_ROLES),    groups::delete),
        Route::new(GET,    "/api/v1/streams",                  Roles(EVERY_ROLE),     streams::list),
        Route::new(GET,    "/api/v1/streams/{id}",             Roles(EVERY_ROLE),     streams::show),
        Route::new(GET,    "/api/v1/streams/{id}/entries",     Roles(EVERY_ROLE),     entries::list),
        Route::new(POST,   "/api/v1/streams/{id}/entries",     Named(TALKING_ROLES),  entries::create),
        Route::new(PUT,    "/api/v1/streams/{id}/cursor",      Named(TALKING_ROLES),  cursor::update),
        Route::new(GET,    "/api/v1/streams/{id}/receipts",    Roles(EVERY_ROLE),     receipts::list),
        Route::new(GET,    "/api/v1/templates",                Roles(EVERY_ROLE),     templates::list),
        Route::new(GET,    "/api/v1/templates/{key}",          Roles(EVERY_ROLE),     templates::show),
        Route::new(PUT,    "/api/v1/templates/{key}",          Roles(ADMIN),          templates::put),
        Route::new(DELETE, "/api/v1/templates/{key}",          Roles(ADMIN),          templates::delete),
        Route::new(GET,    "/api/v1/broadcasts",               Roles(EVERY_ROLE),     broadcasts::list),
        Route::new(POST,   "/api/v1/broadcasts",               Named(TALKING_ROLES),  broadcasts::create),
        Route::new(GET,    "/api/v1/broadcasts/{id}",          Roles(EVERY_ROLE),     broadcasts::show),
        Route::new(GET,    "/api/v1/positions",                Roles(EVERY_ROLE),     positions::list),
        Route::new(GET,    "/api/v1/events",                   Roles(EVERY_ROLE),     events::poll::list),
        Route::new(POST,   "/api/v1/positions/owntracks",      Device,                owntracks::report),
        Route::new(GET,    "/api/v1/events/stream",            Roles(EVERY_ROLE),     events::follow),
        Route::new(GET,    "/api/v1/audit",                    Roles(ADMIN),          audit::list),
        Route::new(GET,    "/api/v1/backup",                   Roles(ADMIN),          backup::show),
        Route::new(GET,    "/api/v1/people",                   Roles(ADMIN),          people::list),
        Route::new(POST,   "/api/v1/people",                   Roles(ADMIN),          people::create),
        Route::new(GET,    "/api/v1/people/{id}",              Roles(ADMIN),          people::show),
        Route::new(PATCH,  "/api/v1/people/{id}",              Roles(ADMIN),          people::update),
        Route::new(DELETE, "/api/v1/people/{id}",              Roles(ADMIN),          people::remove),
        Route::new(GET,    "/api/v1/keys",                     Roles(ADMIN),          keys::list),
        Route::new(POST,   "/api/v1/keys",                     Roles(ADMIN),          keys::create),
        Route::new(GET,    "/api/v1/keys/{id}",                Roles(ADMIN),          keys::show),
        Route::new(PATCH,  "/api/v1/keys/{id}",                Roles(ADMIN),          keys::update),
        Route::new(DELETE, "/api/v1/keys/{id}",                Roles(ADMIN),          keys::revoke),
        Route::new(GET,    "/api/openapi.json",                Anybody,               openapi::document),
        Route::new(GET,    "/api/docs",                        Anybody,               openapi::docs),
        Route::new(GET,    "/healthz",                         Anybody,               health::alive),
        Route::new(GET,    "/readyz",                          Anybody,               health::ready),
        Route::new(GET,    "/metrics",                         Anybody,               health::metrics),
        Route::new(GET,    "/ca",                              Anybody,               authority::page),
        Route::new(GET,    "/ca.pem",                          Anybody,               authority::pem),
        Route::new(GET,    "/ca.crt",                          Anybody,               authority::der),
        Route::new(GET,    "/ca.mobileconfig",                 Anybody,               authority::mobileconfig),
        Route::new(GET,    "/mqtt",                            Anybody,               mqtt_socket::upgrade),
    ]
}

/// Who may call a route; `None` where there is none.
pub(crate) fn access_of(method: &Method, path: &str) -> Option<Access> {
    let mut routes = routes().into_iter();
    let route = routes.find(|route| route.method == *method && route.path == path)?;
    Some(route.access)
}

/// Everything that is served: the table of routes, and the dashboard for what is not in it.
pub fn router(state: ApiState) -> Router {
    observe::describe();
    let mut router = Router::new();
    for Route {
        method,
        path,
        access,
        handler,
    } in routes()
    {
        tracing::debug!(http.method = %method, http.route = path, "{method} {path} is for {access:?}");
        let guarded = Guard {
            state: state.clone(),
            access,
            action: format!("{method} {path}").into(),
        };
        let guard = from_fn_with_state(guarded, guard);
        router = router.route(path, handler.route_layer(guard));
    }
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(web::serve)
        .layer(from_fn(observe::observe))
        .layer(map_response(headers::set))
        // Leaves images and events alone.
        .layer(CompressionLayer::new())
        .with_state(state)
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        ProblemType::MethodNotAllowed,
        "This path has other methods; the header Allow names them.",
    )
}
