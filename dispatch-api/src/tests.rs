//! The routes on a real bridge, with its store in memory and a device at the other end of its link.

mod audit;
mod bodies;
mod broadcasts;
mod conversation;
mod devices;
mod events;
mod expiry;
mod groups;
mod idempotency;
mod mqtt_socket;
mod overtaking;
mod owntracks;
mod pages;
mod people;
mod refusals;
mod roles;
mod sign_in;
mod space;
mod templates;
mod tls;

use crate::secret::sha256;
use crate::{ApiState, ApiStateBuilder, hash_password, router};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use prost::Message;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;
use waypost_bridge::device::DeviceId;
use waypost_bridge::key::NewKey;
use waypost_bridge::link::{BrokerLink, LinkEvent, Retain, Subscriptions};
use waypost_bridge::person::{NewPerson, Person, Role, SignIn};
use waypost_bridge::store::MemoryStore;
use waypost_bridge::{Bridge, BridgeOptions};
use waypost_proto::{Fix, Motion, SessionTag, Stamp, TrackKind, track_to_wire, wire};

const PASSWORD: &str = "correct horse battery";
const SERVER_TOKEN: &str = "the-server's-own-token";

/// Hashing is slow by intent, and everybody here may have the same password.
static PASSWORD_HASH: LazyLock<String> = LazyLock::new(|| hash_password(PASSWORD).unwrap());

/// A bridge and what is served from it.
struct World {
    bridge: Bridge,
    router: Router,
    devices: mpsc::UnboundedSender<LinkEvent>,
    stop: watch::Sender<bool>,
    people: u32,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
}

impl World {
    fn new() -> Self {
        Self::with(|state| state)
    }

    fn with(set: impl FnOnce(ApiStateBuilder) -> ApiStateBuilder) -> Self {
        Self::on(Arc::new(MemoryStore::new()), BridgeOptions::default(), set)
    }

    /// On a store that holds something already, or a disk that is the test's.
    fn on(
        store: Arc<MemoryStore>,
        options: BridgeOptions,
        set: impl FnOnce(ApiStateBuilder) -> ApiStateBuilder,
    ) -> Self {
        let (devices, inbox) = mpsc::unbounded_channel();
        let (bridge, _running) = Bridge::start(store, Link(inbox), options).unwrap();
        let (stop, stopping) = watch::channel(false);
        let state = ApiState::builder(bridge.clone(), "waypost.test")
            .mqtt(["mqtt://waypost.test:1883"])
            .server_token_hash(sha256(SERVER_TOKEN.as_bytes()))
            .shutdown(stopping);
        let router = router(set(state).build().unwrap());
        Self {
            bridge,
            router,
            devices,
            stop,
            people: 0,
        }
    }

    /// Somebody of this role, and the token of a sign-in.
    async fn person(&mut self, role: Role) -> (Person, String) {
        self.people += 1;
        let new = NewPerson {
            email: format!("person{}@waypost.test", self.people),
            name: format!("Person {}", self.people),
            role,
            password_hash: PASSWORD_HASH.clone(),
        };
        let person = self.bridge.add_person(new, None).await.unwrap();
        let token = format!("token-{}", person.id);
        self.sign_in(&person, &token, now_ms() + 3_600_000).await;
        (person, token)
    }

    async fn sign_in(&self, person: &Person, token: &str, expires_ms: i64) {
        let sign_in = SignIn {
            token_hash: sha256(token.as_bytes()),
            person: person.id,
            expires_ms,
        };
        self.bridge.sign_in(person, sign_in, None).await.unwrap();
    }

    async fn token(&mut self, role: Role) -> String {
        self.person(role).await.1
    }

    /// A key of this role, by its token.
    async fn key(&self, role: Role) -> String {
        let token = format!("key-{role:?}");
        let new = NewKey {
            name: format!("Key {role:?}"),
            role,
            token_hash: sha256(token.as_bytes()),
        };
        self.bridge.add_key(new, None).await.unwrap();
        token
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes,
        }
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(request("GET", path, token, None)).await
    }

    /// The same for a reader of this language.
    async fn get_in(&self, language: &str, token: &str, path: &str) -> Answer {
        let mut request = request("GET", path, token, None);
        request
            .headers_mut()
            .insert(header::ACCEPT_LANGUAGE, language.parse().unwrap());
        self.send(request).await
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.send(request(method, path, token, Some(body))).await
    }

    /// The same under an `Idempotency-Key`.
    async fn call_once(&self, token: &str, path: &str, key: &str, body: Option<Value>) -> Answer {
        let mut request = request("POST", path, token, body);
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().unwrap());
        self.send(request).await
    }

    /// Adds a device as an administrator does; its id and that of its stream.
    async fn add_device(&self, name: &str) -> (DeviceId, String) {
        let answer = self
            .call(SERVER_TOKEN, "POST", "/api/v1/devices", json!({ "name": name }))
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let device = &answer.json()["device"];
        (
            device["id"].as_str().unwrap().parse().unwrap(),
            device["stream"].as_str().unwrap().to_owned(),
        )
    }

    /// Makes a group as an administrator does; its id and that of its stream.
    async fn add_group(&self, name: &str, devices: &[DeviceId]) -> (String, String) {
        let devices: Vec<String> = devices.iter().map(DeviceId::to_string).collect();
        let body = json!({ "name": name, "devices": devices });
        let answer = self.call(SERVER_TOKEN, "POST", "/api/v1/groups", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        (text("id"), text("stream"))
    }

    /// Offers the quick reply `late`, in English and German; the version of the catalogue.
    async fn offer_late(&self) -> u32 {
        let body = json!({
            "text": { "en": "Running late {minutes} min", "de": "{minutes} min Verspätung" },
            "slots": [{ "name": "minutes", "kind": "number" }],
        });
        let answer = self
            .call(SERVER_TOKEN, "PUT", "/api/v1/templates/late", body)
            .await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()["version"].as_u64().unwrap().try_into().unwrap()
    }

    /// Each body is refused for the field at its pointer, and for no other.
    async fn expect_wrong_fields(&self, token: &str, cases: Vec<(&str, &str, Value, &str)>) {
        for (method, path, body, pointer) in cases {
            let answer = self.call(token, method, path, body.clone()).await;
            let problem = answer.expect_problem(422, "invalid-fields");
            let errors = problem["errors"].as_array().unwrap();
            assert_eq!(
                (errors.len(), &errors[0]["pointer"]),
                (1, &pointer.into()),
                "{method} {path} {body}: {problem}"
            );
            assert!(!errors[0]["detail"].as_str().unwrap().is_empty(), "{problem}");
        }
    }

    /// A frame of a device. There is no answer on the link; what it did shows in the routes.
    fn frame(&self, device: DeviceId, frame: &wire::UpFrame) {
        let message = LinkEvent::Message {
            topic: format!("u/{device}"),
            payload: frame.encode_to_vec().into(),
            retained: false,
        };
        self.devices.send(message).unwrap();
    }

    /// What a device says first; its operations count from 1.
    fn hello(&self, device: DeviceId, mut frame: wire::UpFrame) {
        frame.stamp = Stamp::of(SessionTag::FIRST).to_wire();
        frame.hello = Some(wire::Hello {
            epoch: 7,
            device_ms: u64::try_from(now_ms()).unwrap(),
            locale: "de".to_owned(),
            app: "tester 1.0".to_owned(),
            ..Default::default()
        });
        self.frame(device, &frame);
    }

    /// Asks until the answer is as wanted: what a device says takes its time.
    async fn until(&self, token: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let answer = self.get(token, path).await.json();
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!(
            "{path} never was as wanted: {}",
            self.get(token, path).await.json()
        );
    }
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// A problem document of this type.
    #[track_caller]
    fn expect_problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert!(
            problem["title"].as_str().is_some_and(|title| !title.is_empty()),
            "{problem}"
        );
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{problem}"
        );
        problem
    }
}

fn request(method: &str, path: &str, token: &str, body: Option<Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    match body {
        Some(body) => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into())
            .unwrap(),
        None => request.body(Body::empty()).unwrap(),
    }
}

fn text_operation(stream: &str, text: &str) -> wire::Operation {
    wire::Operation {
        stream: stream.parse().unwrap(),
        body: Some(wire::operation::Body::Text(text.to_owned())),
        ..Default::default()
    }
}

fn track_operation(fixes: &[Fix]) -> wire::Operation {
    wire::Operation {
        body: Some(wire::operation::Body::Track(track_to_wire(
            fixes,
            TrackKind::Travelled,
        ))),
        ..Default::default()
    }
}

fn fix(at_ms: i64, lat_e7: i32, lon_e7: i32) -> Fix {
    let motion = Motion {
        speed_cmps: Some(1_350),
        course_ddeg: Some(905),
    };
    Fix {
        at_ms,
        lat_e7,
        lon_e7,
        motion,
        accuracy_m: Some(5),
        battery_pct: Some(80),
    }
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A link whose devices are in the test's hand.
struct Link(mpsc::UnboundedReceiver<LinkEvent>);

impl BrokerLink for Link {
    fn publish(&mut self, _: String, _: Bytes, _: Retain) {}

    fn subscriptions(&self) -> Subscriptions {
        Subscriptions::CanBeEnded
    }

    fn end_subscription(&mut self, _: DeviceId, _: &str) {}

    fn disconnect(&mut self, _: DeviceId) {}

    async fn next(&mut self) -> LinkEvent {
        match self.0.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}
