//! What must hold for any bytes that arrive as a frame: nothing panics, numbers ascend, and what was understood can be said
//! again with the same meaning.

use crate::template::{QuickReply, Template};
use crate::{
    Cumulative, EntryBody, Fix, Operation, ReceivedEntry, groups_digest, number_operations, positions_digest,
    wire,
};
use prost::Message;

/// Reads the bytes after the first as a frame of the kind that the first one chooses.
///
/// # Panics
/// Where something does not hold.
#[cfg_attr(
    not(feature = "fuzzing"),
    expect(unreachable_pub, reason = "the fuzzer is outside; the tests are inside")
)]
pub fn fuzz_frame(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            if let Ok(frame) = wire::UpFrame::parse(bytes) {
                check_up(&frame);
            }
        }
        1 => {
            if let Ok(frame) = wire::DownFrame::decode(bytes) {
                check_down(&frame);
            }
        }
        2 => {
            if let Ok(frame) = wire::GroupFrame::decode(bytes) {
                check_entries(&frame.entries, frame.server_ms.cast_signed());
            }
        }
        _ => {
            if let Ok(catalogue) = wire::Catalogue::decode(bytes) {
                check_catalogue(&catalogue);
            }
        }
    }
}

fn check_up(frame: &wire::UpFrame) {
    let mut last = 0;
    for numbered in number_operations(frame).unwrap_or_default() {
        assert!(numbered.op.number() > last, "operations ascend");
        last = numbered.op.number();
        if let Ok(operation) = numbered.content {
            let again = Operation::from_wire(&operation.to_wire());
            assert_eq!(
                again,
                Ok(operation),
                "what was understood means the same when it is said again"
            );
        }
    }
    check_cursors(&frame.cursors);
    if let Some(positions) = &frame.positions {
        check_cursors(&positions.cursors);
    }
    if let Some(live) = &frame.live
        && let Ok(fix) = Fix::from_live(live, i64::from(frame.stamp))
    {
        assert!((-900_000_000..=900_000_000).contains(&fix.lat_e7), "on the globe");
    }
}

fn check_cursors(cursors: &[wire::Cursor]) {
    for cursor in cursors {
        if let Ok(held) = Cumulative::from_wire(cursor.delivered, &cursor.ranges) {
            let again = Cumulative::from_wire(held.through(), &held.to_wire());
            assert_eq!(again.as_ref(), Ok(&held));
            if let Some(stream) = crate::StreamId::new(cursor.stream) {
                positions_digest([(stream, &held)]);
            }
        }
    }
}

fn check_down(frame: &wire::DownFrame) {
    check_cursors(&frame.cursors);
    // Whatever the words are is accepted or refused as ranges, never half.
    if let Ok(accepted) = Cumulative::from_wire(frame.accepted_through, &frame.accepted_ranges) {
        assert!(accepted.highest() >= accepted.through());
    }
    check_entries(&frame.entries, i64::from(frame.stamp));
    if let Some(groups) = &frame.groups {
        groups_digest(&groups.groups);
    }
    if let Some(catalogue) = &frame.catalogue {
        check_catalogue(catalogue);
    }
}

fn check_entries(runs: &[wire::EntryRun], base_ms: i64) {
    for run in runs {
        let mut last = 0;
        for (stream, seq, entry) in ReceivedEntry::of_run(run, base_ms) {
            assert!(
                seq.number() > last && stream.number() == run.stream,
                "entries ascend"
            );
            last = seq.number();
            if let ReceivedEntry::Full {
                body: EntryBody::Reply { reply, .. },
                ..
            } = entry
            {
                let wire = reply.to_wire();
                let again =
                    QuickReply::from_parts(wire.template, wire.version, &wire.slot_numbers, &wire.slot_texts);
                assert_eq!(again, Some(reply));
            }
        }
    }
}

fn check_catalogue(catalogue: &wire::Catalogue) {
    for template in catalogue.templates.iter().filter_map(Template::from_wire) {
        assert_eq!(Template::from_wire(&template.to_wire()).as_ref(), Some(&template));
        // Filled in wrongly or not at all it still says something, and says it without a panic.
        let reply = QuickReply {
            template: template.number,
            version: 1,
            numbers: vec![i64::MIN, i64::MAX],
            texts: vec!["{é}".to_owned()],
        };
        let fits = template.check(&reply).is_ok();
        let values: Vec<(String, String)> = template
            .values(&reply)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        template.render(&reply);
        assert!(!fits || values.len() == template.slots.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every golden vector, as the fuzzer begins with it.
    fn vectors() -> Vec<Vec<u8>> {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../vectors/frames.json")).unwrap();
        let unhex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let frames = golden["frames"].as_array().unwrap();
        let kind = |direction: &str| match direction {
            "up" => 0,
            "down" => 1,
            "group" => 2,
            _ => 3,
        };
        frames
            .iter()
            .map(|frame| {
                let kind = kind(frame["direction"].as_str().unwrap());
                [vec![kind], unhex(frame["hex"].as_str().unwrap())].concat()
            })
            .collect()
    }

    #[test]
    fn the_golden_vectors_hold() {
        let vectors = vectors();
        assert!(vectors.len() > 20);
        for vector in vectors {
            fuzz_frame(&vector);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_hold(kind in 0u8..4, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz_frame(&[vec![kind], bytes].concat());
        }

        #[test]
        fn vectors_with_bytes_changed_hold(
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let vectors = vectors();
            let mut bytes = which.get(&vectors).clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            fuzz_frame(&bytes);
        }
    }
}
