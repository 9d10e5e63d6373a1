//! The template catalogue: versions, what is retained, what a device is told, and what a late reply says.

use super::*;
use crate::template::{NewTemplate, QuickReply, Slot, SlotKind};

pub(super) fn late(text: &[(&str, &str)]) -> NewTemplate {
    NewTemplate {
        key: "late".to_owned(),
        text: text
            .iter()
            .map(|(tag, text)| ((*tag).to_owned(), (*text).to_owned()))
            .collect(),
        slots: vec![Slot {
            name: "minutes".to_owned(),
            kind: SlotKind::Number,
        }],
    }
}

fn plain(key: &str, text: &str) -> NewTemplate {
    NewTemplate {
        key: key.to_owned(),
        text: [("en".to_owned(), text.to_owned())].into(),
        slots: vec![],
    }
}

impl World {
    pub(super) fn put_template(&mut self, new: NewTemplate) {
        self.core.put_template(new).unwrap();
        self.settle();
    }

    fn hello_with(
        &mut self,
        device: &Device,
        tag: u32,
        catalogue: u32,
        locale: &str,
    ) -> Vec<wire::DownFrame> {
        let hello = wire::Hello {
            epoch: 5,
            device_ms: self.now.wall_ms.cast_unsigned(),
            catalogue,
            locale: locale.to_owned(),
            ..Default::default()
        };
        self.up(
            device,
            &wire::UpFrame {
                stamp: stamp(tag, 0),
                hello: Some(hello),
                ..Default::default()
            },
        )
    }

    fn know(&mut self, device: &Device, tag: u32, catalogue: u32) {
        let known = wire::Known {
            groups_digest: 0,
            catalogue,
        };
        self.up(
            device,
            &wire::UpFrame {
                stamp: stamp(tag, 1),
                known: Some(known),
                ..Default::default()
            },
        );
    }
}

fn news(frames: &[wire::DownFrame]) -> Vec<wire::Catalogue> {
    frames
        .iter()
        .filter_map(|frame| frame.catalogue.clone())
        .collect()
}

fn reply(version: u32, minutes: i64) -> QuickReply {
    QuickReply {
        template: 1,
        version,
        numbers: vec![minutes],
        texts: vec![],
    }
}

fn reply_op(device: &Device, op: u64, reply: QuickReply) -> wire::UpFrame {
    wire::UpFrame {
        stamp: stamp(1, 10),
        first_op: op,
        ops: vec![Operation::reply(device.stream, reply).to_wire()],
        ..Default::default()
    }
}

#[test]
fn each_change_is_retained_in_every_language_and_again_for_an_empty_broker() {
    let mut world = World::new();
    world.put_template(late(&[
        ("en", "Late {minutes} min"),
        ("de", "{minutes} Min. später"),
    ]));
    world.put_template(plain("ok", "OK"));
    let texts = |world: &World, locale: &str| -> Vec<String> {
        let catalogue = &world.retained[locale];
        assert_eq!((catalogue.version, catalogue.from_version), (2, 0));
        catalogue
            .templates
            .iter()
            .map(|template| template.text.clone())
            .collect()
    };
    assert_eq!(texts(&world, "en"), ["Late {minutes} min", "OK"]);
    assert_eq!(
        texts(&world, "de"),
        ["{minutes} Min. später", "OK"],
        "English where there is no German"
    );
    world.restart();
    world.retained.clear();
    world.core.handle_opened();
    world.drain();
    assert_eq!(texts(&world, "de").len(), 2, "before anything else happens");
    world.put_template(late(&[("en", "Late {minutes} min")]));
    assert_eq!(
        world.retained.keys().collect::<Vec<_>>(),
        ["en"],
        "nobody's language any more"
    );
}

#[test]
fn a_change_reaches_a_device_that_is_connected_and_one_that_was_away() {
    let mut world = World::new();
    let (near, away) = (world.add_device(), world.add_device());
    world.put_template(late(&[
        ("en", "Late {minutes} min"),
        ("de", "{minutes} Min. später"),
    ]));
    let first = news(&world.hello_with(&near, 1, 0, "de-AT"));
    assert!(
        first[0].fetch && first[0].version == 1,
        "it has nothing, and fetches: {first:?}"
    );
    assert_eq!(first[0].locale, "de", "the nearest language");
    world.know(&near, 1, 1);
    world.sent.clear();
    world.put_template(late(&[
        ("en", "Delayed {minutes} min"),
        ("de", "Noch {minutes} Min."),
    ]));
    let told = news(&world.frames());
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].from_version, told[0].version, told[0].fetch),
        (1, 2, false)
    );
    assert_eq!(
        told[0].templates[0].text, "Noch {minutes} Min.",
        "only what changed, in its language"
    );
    world.advance(11);
    assert_eq!(
        news(&world.frames()).len(),
        1,
        "again, until it says that it has it"
    );
    world.know(&near, 1, 2);
    world.sent.clear();
    world.advance(600);
    assert_eq!(news(&world.frames()), []);

    world.core.delete_template("late").unwrap();
    world.settle();
    let told = news(&world.hello_with(&away, 1, 1, "en"));
    assert_eq!((told[0].from_version, told[0].version), (1, 3));
    assert_eq!(told[0].removed, [1]);
    let told = news(&world.hello_with(&away, 2, 9, "en"));
    assert!(
        told[0].fetch,
        "a version from a future that was lost is no version to go on from"
    );
    assert_eq!(
        news(&world.hello_with(&away, 3, 3, "en")),
        [],
        "it has what there is"
    );
}

#[test]
fn a_difference_that_is_too_large_for_a_frame_is_fetched() {
    let mut world = World::new();
    let device = world.add_device();
    world.put_template(plain("first", "First"));
    world.hello_with(&device, 1, 1, "en");
    for number in 0..20 {
        world.put_template(plain(&format!("t{number}"), &"x".repeat(100)));
    }
    let told = news(&world.hello_with(&device, 2, 1, "en"));
    assert!(told[0].fetch && told[0].templates.is_empty(), "{told:?}");
}

#[test]
fn a_quick_reply_says_what_its_template_said_then() {
    let (mut world, device) = World::in_session();
    world.put_template(late(&[
        ("en", "Late {minutes} min"),
        ("de", "{minutes} Min. später"),
    ]));
    world.put_template(late(&[("en", "Delayed: {minutes}")]));
    world.core.delete_template("late").unwrap();
    world.settle();
    let frames = world.up(&device, &reply_op(&device, 1, reply(1, 15)));
    assert_eq!(refusals_of(&frames), [], "written before it was taken away");
    let stored = world
        .store
        .entry(device.stream, Seq::new(1).unwrap())
        .unwrap()
        .unwrap();
    let EntryBody::Reply(stored) = stored.body else {
        panic!("a reply: {stored:?}")
    };
    for (locale, text) in [
        ("de", "15 Min. später"),
        ("de-CH", "15 Min. später"),
        ("en", "Late 15 min"),
        ("fr", "Late 15 min"),
    ] {
        let rendered = world.core.render(&stored, locale).unwrap();
        assert_eq!(
            (rendered.text.as_str(), rendered.key.as_str()),
            (text, "late"),
            "{locale}"
        );
        assert_eq!(rendered.slots, [("minutes".to_owned(), "15".to_owned())]);
    }
}

#[test]
fn a_quick_reply_that_fits_no_template_is_refused() {
    let (mut world, device) = World::in_session();
    world.put_template(late(&[("en", "Late {minutes} min")]));
    world.core.delete_template("late").unwrap();
    world.settle();
    let wrong = |template, version, numbers: &[i64], texts: &[&str]| QuickReply {
        template,
        version,
        numbers: numbers.to_vec(),
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
    };
    for (op, wrong) in (1..).zip([
        wrong(2, 1, &[15], &[]),
        wrong(1, 2, &[15], &[]),
        wrong(1, 99, &[15], &[]),
        wrong(1, 1, &[], &[]),
        wrong(1, 1, &[15, 16], &[]),
        wrong(1, 1, &[15], &["x"]),
        wrong(1, 1, &[1_000_000_000], &[]),
    ]) {
        let frames = world.up(&device, &reply_op(&device, op, wrong.clone()));
        assert_eq!(
            refusals_of(&frames),
            [(op, RefusalReason::BadTemplate)],
            "{wrong:?}"
        );
    }
}

#[test]
fn a_reader_whose_catalogue_is_older_is_told_the_words() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    world.put_template(late(&[("en", "Late {minutes} min")]));
    let write = |world: &mut World, minutes: &str| {
        world.sent.clear();
        let body = NewBody::Reply {
            key: "late".to_owned(),
            slots: vec![("minutes".to_owned(), minutes.to_owned())],
        };
        let new = NewEntry {
            body,
            ..by_person(person, device.stream, "")
        };
        world.post_entry(new).unwrap();
        world.settle();
        let frames = world.frames();
        let entry = frames
            .iter()
            .flat_map(|frame| &frame.entries)
            .flat_map(|run| &run.entries)
            .next_back();
        match entry.unwrap().body.clone() {
            Some(wire::entry::Body::Reply(reply)) => reply.text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(write(&mut world, "5"), "Late 5 min");
    world.know(&device, 1, 1);
    assert_eq!(write(&mut world, "6"), "", "it puts the words together itself");
}

#[test]
fn what_is_wrong_with_a_template_or_a_reply_is_named() {
    let mut world = World::new();
    let field = |refused: Result<_, BridgeError>| match refused {
        Err(BridgeError::Invalid { field, .. }) => field.into_owned(),
        Err(other) => panic!("{other}"),
        Ok(_) => "ok".to_owned(),
    };
    let slot = |name: &str| Slot {
        name: name.to_owned(),
        kind: SlotKind::Text,
    };
    for (change, named) in [
        (
            NewTemplate {
                key: "Late".into(),
                ..plain("x", "y")
            },
            "/key",
        ),
        (
            NewTemplate {
                key: String::new(),
                ..plain("x", "y")
            },
            "/key",
        ),
        (
            NewTemplate {
                text: BTreeMap::new(),
                ..plain("x", "y")
            },
            "/text",
        ),
        (plain("x", ""), "/text/en"),
        (plain("x", "{minutes}"), "/text/en"),
        (plain("x", &"y".repeat(501)), "/text/en"),
        (
            NewTemplate {
                slots: vec![slot("a"), slot("a")],
                ..plain("x", "y")
            },
            "/slots",
        ),
        (
            NewTemplate {
                slots: vec![slot("A")],
                ..plain("x", "y")
            },
            "/slots",
        ),
        (
            NewTemplate {
                text: [("e n".into(), "y".into())].into(),
                ..plain("x", "y")
            },
            "/text",
        ),
    ] {
        assert_eq!(
            field(world.core.put_template(change.clone()).map(|_| ())),
            named,
            "{change:?}"
        );
    }
    world.put_template(late(&[("en", "Late {minutes} min")]));
    let body = |key: &str, slots: &[(&str, &str)]| NewBody::Reply {
        key: key.to_owned(),
        slots: slots
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
    };
    for (body, named) in [
        (body("lat", &[]), "/body/template"),
        (body("late", &[]), "/body/slots/minutes"),
        (body("late", &[("minutes", "x")]), "/body/slots/minutes"),
        (
            body("late", &[("minutes", "1"), ("hours", "2")]),
            "/body/slots/hours",
        ),
    ] {
        assert_eq!(
            field(world.core.checked_body(body.clone()).map(|_| ())),
            named,
            "{body:?}"
        );
    }
}

#[test]
fn putting_the_same_template_again_changes_nothing() {
    let mut world = World::new();
    world.put_template(plain("ok", "OK"));
    let ((_, existed), ticket) = world.core.put_template(plain("ok", "OK")).unwrap();
    assert!(existed && ticket.is_none());
    // Two changes at the same time have versions of their own.
    world.core.put_template(plain("ok", "Okay")).unwrap();
    world.core.put_template(plain("no", "No")).unwrap();
    world.settle();
    let (version, templates) = world.core.templates();
    assert_eq!(version, 3);
    let told: Vec<(u32, &str, u32)> = templates
        .iter()
        .map(|t| (t.number, t.key.as_str(), t.version))
        .collect();
    assert_eq!(told, [(2, "no", 3), (1, "ok", 2)]);
}
