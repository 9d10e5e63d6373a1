//! Bodies of requests, whatever they hold, to every route that takes one: for the fuzz target and its short twin in the
//! tests.
//!
//! What must hold: no answer is a 5xx; what is refused is a problem document, and one about fields names each of them.

use crate::access::Access;
use crate::problem::ProblemType;
use crate::routes::routes;
use crate::secret::sha256;
use crate::{ApiState, router};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use serde_json::Value;
use std::cell::RefCell;
use std::sync::Arc;
use tower::ServiceExt;
use waypost_bridge::device::{DeviceId, NewDevice};
use waypost_bridge::group::{History, NewGroup};
use waypost_bridge::key::NewKey;
use waypost_bridge::link::{BrokerLink, LinkEvent, Retain, Subscriptions};
use waypost_bridge::person::{NewPerson, Role};
use waypost_bridge::store::MemoryStore;
use waypost_bridge::template::{NewTemplate, Slot, SlotKind};
use waypost_bridge::{Bridge, BridgeOptions};

const SERVER_TOKEN: &str = "the server's";
const KEY_TOKEN: &str = "a key's";
const DEVICE_SECRET: &str = "a device's";
const TEMPLATE: &str = "late";
/// How much may be made before everything begins anew, so that memory has a bound.
const MADE_MAX: u32 = 1_000;

thread_local! {
    static BODIES: RefCell<Option<Bodies>> = const { RefCell::new(None) };
}

/// The first byte chooses a route, the rest is the body.
///
/// # Panics
/// Where something does not hold.
pub fn fuzz_bodies(input: &[u8]) {
    let Some((route, body)) = input.split_first() else {
        return;
    };
    BODIES.with_borrow_mut(|bodies| {
        bodies
            .get_or_insert_with(Bodies::new)
            .send(usize::from(*route), body);
        if bodies.as_ref().is_some_and(|bodies| bodies.made > MADE_MAX) {
            *bodies = None;
        }
    });
}

/// A server with something of each kind.
struct Bodies {
    runtime: tokio::runtime::Runtime,
    router: Router,
    targets: Vec<(Method, String, String)>,
    made: u32,
}

impl Bodies {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        let router = runtime.block_on(world());
        let takes_body = |method: &Method| [Method::POST, Method::PUT, Method::PATCH].contains(method);
        let targets = routes()
            .into_iter()
            .filter(|route| takes_body(&route.method))
            .map(|route| {
                // The first number that is given is the key's.
                let id = if route.path.starts_with("/api/v1/people") {
                    "2"
                } else {
                    "1"
                };
                let authorization = match route.access {
                    Access::Named(_) => format!("Bearer {KEY_TOKEN}"),
                    Access::Anybody | Access::Roles(_) => format!("Bearer {SERVER_TOKEN}"),
                    Access::Device => {
                        format!("Basic {}", BASE64_STANDARD.encode(format!("1:{DEVICE_SECRET}")))
                    }
                };
                let path = route.path.replace("{id}", id).replace("{key}", TEMPLATE);
                (route.method, path, authorization)
            })
            .collect();
        Self {
            runtime,
            router,
            targets,
            made: 0,
        }
    }

    /// Sends a body and looks at the answer.
    fn send(&mut self, route: usize, body: &[u8]) {
        let (method, path, authorization) = &self.targets[route % self.targets.len()];
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(Bytes::copy_from_slice(body)))
            .expect("a request");
        let (status, bytes) = self.runtime.block_on(answer(self.router.clone(), request));
        let said = String::from_utf8_lossy(&bytes);
        let sent = String::from_utf8_lossy(body);
        if status.is_success() {
            self.made += 1;
            return;
        }
        assert!(
            status.is_client_error(),
            "{method} {path} {sent:?}: {status} {said}"
        );
        let problem: Value = serde_json::from_slice(&bytes).expect("what is refused is a problem document");
        assert_eq!(
            problem["status"],
            status.as_u16(),
            "{method} {path} {sent:?}: {said}"
        );
        if problem["type"] == ProblemType::InvalidFields.uri() {
            let errors = problem["errors"].as_array();
            assert!(
                errors.is_some_and(|errors| !errors.is_empty()),
                "{method} {path} {sent:?} names no field: {said}"
            );
        }
    }
}

async fn answer(router: Router, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let response = router.oneshot(request).await.expect("a router does not fail");
    let status = response.status();
    let mut pieces = response.into_body().into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.expect("an answer comes whole"));
    }
    (status, bytes)
}

async fn world() -> Router {
    let store = Arc::new(MemoryStore::new());
    let (bridge, _) = Bridge::start(store, Silence, BridgeOptions::default()).expect("a bridge starts");
    let key = NewKey {
        name: "key".to_owned(),
        role: Role::Bot,
        token_hash: sha256(KEY_TOKEN.as_bytes()),
    };
    bridge.add_key(key, None).await.expect("a key");
    let person = NewPerson {
        email: "anna@waypost.test".to_owned(),
        name: "Anna".to_owned(),
        role: Role::Dispatcher,
        password_hash: String::new(),
    };
    bridge.add_person(person, None).await.expect("a person");
    let device = NewDevice {
        name: "truck-17".to_owned(),
        driver: None,
        labels: Vec::new(),
        secret_hash: sha256(DEVICE_SECRET.as_bytes()),
        groups: vec![],
    };
    let device = bridge.add_device(device, None).await.expect("a device").device;
    let group = NewGroup {
        name: "North".to_owned(),
        devices: vec![device.id],
        history: History::SinceJoining,
    };
    bridge.add_group(group, None).await.expect("a group");
    let template = NewTemplate {
        key: TEMPLATE.to_owned(),
        text: [("en".to_owned(), "Running late {minutes} min".to_owned())].into(),
        slots: vec![Slot {
            name: "minutes".to_owned(),
            kind: SlotKind::Number,
        }],
    };
    bridge.put_template(template).await.expect("a template");
    let state = ApiState::builder(bridge, "waypost.test").server_token_hash(sha256(SERVER_TOKEN.as_bytes()));
    router(state.build().expect("a state"))
}

/// A link on which nothing happens.
struct Silence;

impl BrokerLink for Silence {
    fn publish(&mut self, _: String, _: Bytes, _: Retain) {}

    fn subscriptions(&self) -> Subscriptions {
        Subscriptions::CanBeEnded
    }

    fn end_subscription(&mut self, _: DeviceId, _: &str) {}

    fn disconnect(&mut self, _: DeviceId) {}

    async fn next(&mut self) -> LinkEvent {
        std::future::pending().await
    }
}
