//! Where the device is, from fixes to frames.

use super::super::harness::{Device, Disk};
use super::super::{Policy, Qos};
use std::time::Duration;
use waypost_proto::wire;
use waypost_proto::{Body, Cumulative, Fix, TrackBatch, number_operations};

/// Eastwards at 14 m/s.
fn drive(device: &mut Device, seconds: std::ops::Range<i64>) {
    for at_s in seconds {
        device.pass(Duration::from_secs(1));
        let lon = 9.0 + at_s as f64 * 0.000_19;
        let fix = Fix::from_degrees(1_700_000_000_000 + at_s * 1_000, 48.0, lon).unwrap();
        device.core.fix(fix, device.now).unwrap();
        device.settle();
    }
}

fn batches(frames: &[wire::UpFrame]) -> Vec<(u64, TrackBatch)> {
    let numbered = frames.iter().flat_map(|frame| number_operations(frame).unwrap());
    numbered
        .filter_map(|numbered| match numbered.content.unwrap().body {
            Body::Batch { batch, .. } => Some((numbered.op.number(), batch)),
            _ => None,
        })
        .collect()
}

fn answer(device: &mut Device, taken: &[u64]) {
    let mut accepted = Cumulative::default();
    for &op in taken {
        accepted.insert(op);
    }
    let frame = wire::DownFrame {
        accepted_through: accepted.through(),
        accepted_ranges: accepted.to_wire(),
        ..device.down()
    };
    device.receive(&frame);
}

#[test]
fn a_small_batch_leaves_at_most_once_and_is_not_repeated_before_the_server_may_answer() {
    let mut device = Device::new();
    device.in_step();
    device.frames.clear();
    drive(&mut device, 0..10);
    let qos: Vec<Qos> = device.frames.iter().map(|(_, qos)| *qos).collect();
    assert!(!qos.is_empty() && qos.iter().all(|qos| *qos == Qos::AtMostOnce));
    device.take_frames();
    device.pass(Duration::from_secs(15 * 60));
    assert_eq!(device.take_frames(), []);
    device.pass(Duration::from_secs(6 * 60));
    assert_eq!(device.take_frames().len(), 1, "nothing waits for luck");
}

#[test]
fn a_batch_that_was_lost_rides_with_the_next_one() {
    let mut device = Device::new();
    device.in_step();
    device.take_frames();
    drive(&mut device, 0..700);
    let sent: Vec<u64> = batches(&device.take_frames()).iter().map(|(op, _)| *op).collect();
    assert!(sent.len() >= 4, "{sent:?}");
    // The last is what shows that the second never came.
    let taken: Vec<u64> = sent.iter().copied().filter(|&op| op != sent[1]).collect();
    answer(&mut device, &taken);
    assert_eq!(device.take_frames(), [], "it has no frame of its own");
    drive(&mut device, 700..1_100);
    let frames = device.take_frames();
    let again: Vec<u64> = batches(&frames[..1]).iter().map(|(op, _)| *op).collect();
    assert_eq!(again[0], sent[1]);
    assert_eq!(again.len(), 2, "in one frame with the next");
}

#[test]
fn whoever_waits_for_all_to_be_accepted_has_what_is_under_way_repeated() {
    let mut device = Device::new();
    device.in_step();
    drive(&mut device, 0..10);
    device.take_frames();
    device.core.hurry();
    device.settle();
    assert!(!batches(&device.take_frames()).is_empty());
}

#[test]
fn a_power_cut_costs_thirty_seconds_and_says_nothing_twice() {
    let mut device = Device::new();
    drive(&mut device, 0..100);
    let mut device = device.restart();
    drive(&mut device, 200..202);
    device.in_step();
    drive(&mut device, 202..230);
    device.core.flush_fixes(device.now).unwrap();
    device.settle();
    let batches = batches(&device.take_frames());
    let times: Vec<i64> = (batches.iter())
        .flat_map(|(_, batch)| &batch.points)
        .map(|point| (point.at_ms - 1_700_000_000_000) / 1_000)
        .collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    let before = times.iter().filter(|&&at_s| at_s < 100).max().unwrap();
    assert!((70..100).contains(before), "{times:?}");
    assert!(!batches[1].1.leads_on, "nobody watched while the power was off");
}

#[test]
fn what_is_in_hand_is_in_an_operation_or_in_its_row_whenever_the_power_goes() {
    let mut device = Device::new();
    drive(&mut device, 0..40);
    device.disk = Disk::Stuck;
    device.core.flush_fixes(device.now).unwrap();
    device.settle();
    // The operation and the end of the row are one write, and it is lost.
    let mut device = device.restart();
    device.in_step();
    drive(&mut device, 50..52);
    assert!(!batches(&device.take_frames()).is_empty(), "the row is there");
}

#[test]
fn without_a_link_an_hour_is_a_few_packets() {
    let mut device = Device::new();
    drive(&mut device, 0..3_600);
    device.core.flush_fixes(device.now).unwrap();
    device.settle();
    assert!(device.core.waiting_ops() <= 2);
    device.in_step();
    assert!(device.core.set_policy(Policy::ECONOMY, device.now).is_ok());
    assert_eq!(batches(&device.take_frames()).len(), 1);
}
