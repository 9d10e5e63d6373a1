//! The short twin of the fuzz target `http_bodies`.

use crate::fuzz_bodies;
use crate::routes::routes;
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Names that are known somewhere, so that a body gets past the first of them.
const NAMES: [&str; 23] = [
    "body",
    "devices",
    "driver",
    "email",
    "expires_at",
    "groups",
    "history",
    "kind",
    "labels",
    "locale",
    "minutes",
    "name",
    "password",
    "read",
    "reply_to",
    "role",
    "text",
    "urgent",
    "slots",
    "template",
    "members",
    "to",
    "",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(
            &[
                "text",
                "reply",
                "late",
                "all",
                "1",
                "admin",
                "bot",
                "en",
                "a@b",
                "2026-11-24T13:45:12Z"
            ][..]
        )
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let name = prop_oneof![
            prop::sample::select(&NAMES[..]).prop_map(ToOwned::to_owned),
            any::<String>()
        ];
        let members = prop::collection::vec((name, inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Value::from),
            members.prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that is right but for one value.
fn nearly_right() -> impl Strategy<Value = Value> {
    let right = [
        r#"{"name":"a","driver":{"name":"b","locale":"de"},"labels":["c"]}"#,
        r#"{"body":{"kind":"text","text":"a"},"urgent":true,"expires_at":"2026-11-24T13:45:12Z","reply_to":1}"#,
        r#"{"email":"a@b","name":"a","role":"viewer","password":"0123456789"}"#,
        r#"{"name":"a","role":"bot"}"#,
        r#"{"read":1}"#,
        r#"{"body":{"kind":"reply","template":"late","slots":{"minutes":20}}}"#,
        r#"{"name":"a","devices":["1"],"history":"all"}"#,
        r#"{"text":{"en":"At {place}","de":"Bei {place}"},"slots":[{"name":"place","kind":"text"}]}"#,
        r#"{"to":{"devices":["1"],"groups":["1"]},"body":{"kind":"text","text":"a"},"urgent":true}"#,
    ];
    let right = right.map(|text| serde_json::from_str::<Map<String, Value>>(text).unwrap());
    (
        prop::sample::select(right.to_vec()),
        any::<prop::sample::Index>(),
        any_json(),
    )
        .prop_map(|(mut body, which, wrong)| {
            let which = which.index(body.len());
            if let Some(value) = body.values_mut().nth(which) {
                *value = wrong;
            }
            body.into()
        })
}

#[test]
fn what_the_fuzz_target_has_kept_is_answered() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/http_bodies");
    let mut kept = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        fuzz_bodies(&std::fs::read(file.unwrap().path()).unwrap());
        kept += 1;
    }
    assert!(kept > 0);
}

fn to_every_route(body: &[u8]) {
    // More than take a body; the rest are the first ones again.
    for route in 0..u8::try_from(routes().len() / 2).unwrap() {
        fuzz_bodies(&[&[route], body].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn arbitrary_bytes_are_refused_with_a_problem(body in prop::collection::vec(any::<u8>(), 0..200)) {
        to_every_route(&body);
    }

    #[test]
    fn arbitrary_json_is_refused_with_a_problem_that_names_the_field(body in any_json()) {
        to_every_route(body.to_string().as_bytes());
    }

    #[test]
    fn a_body_that_is_nearly_right_is_taken_or_refused_by_its_field(body in nearly_right()) {
        to_every_route(body.to_string().as_bytes());
    }
}
