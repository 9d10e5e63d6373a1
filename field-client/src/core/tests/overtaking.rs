//! An urgent operation that leaves before ordinary ones says so.

use super::super::harness::{Device, Link, stream, text, urgent};
use super::{SECOND, accepted};
use waypost_proto::{number_operations, wire};

/// (number, what it has overtaken) of the urgent operations, in the order of the frames.
fn overtaken(frames: &[wire::UpFrame]) -> Vec<(u64, Option<u64>)> {
    let numbered = frames.iter().flat_map(|frame| {
        let urgent = frame.ops.iter().map(|operation| operation.urgent);
        number_operations(frame).unwrap().into_iter().zip(urgent)
    });
    numbered
        .filter(|(_, urgent)| *urgent)
        .map(|(numbered, _)| (numbered.op.number(), numbered.earlier.map(|op| op.number())))
        .collect()
}

#[test]
fn an_urgent_operation_names_the_newest_ordinary_one_before_it_that_is_not_accepted() {
    let mut device = Device::new();
    device.post(text(stream(4), "one"));
    device.post(text(stream(4), "two"));
    device.post(text(stream(5), "elsewhere"));
    device.post(urgent(stream(4), "brakes failing"));
    device.post(text(stream(4), "after it"));
    device.in_step();
    assert_eq!(overtaken(&device.take_frames())[0], (4, Some(2)));

    // It is told as it stands when the frame is put together, also in a repetition.
    device.receive(&accepted(&device, 2));
    device.pass(100 * SECOND);
    let repeated = overtaken(&device.take_frames());
    assert_eq!(repeated.last(), Some(&(4, None)));
    device.receive(&accepted(&device, 5));
    device.post(urgent(stream(4), "brakes failed"));
    assert_eq!(overtaken(&device.take_frames()), [(6, None)]);
    assert_eq!(device.core.waiting_ops(), 1);
}

#[test]
fn an_urgent_operation_names_what_waits_after_a_restart() {
    let mut device = Device::new();
    for number in 0..40 {
        device.post(text(stream(4), &format!("{number} {}", "x".repeat(100))));
    }
    let mut device = device.restart();
    assert_eq!(device.link, Link::Down);
    device.post(urgent(stream(4), "brakes failing"));
    device.in_step();
    let frames = device.take_frames();
    assert_eq!(overtaken(&frames), [(41, Some(40))]);
    assert!(frames.iter().all(|frame| frame.ops.len() < 40), "most still wait");
}

#[test]
fn only_urgent_operations_overtake() {
    let mut device = Device::new();
    device.post(text(stream(4), "one"));
    device.post(text(stream(4), "two"));
    device.in_step();
    let frames = device.take_frames();
    assert!(
        frames
            .iter()
            .flat_map(|frame| &frame.ops)
            .all(|op| op.earlier == 0)
    );
}
