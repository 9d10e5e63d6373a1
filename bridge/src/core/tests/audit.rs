//! The audit record: what is done, and what is refused.

use super::*;
use crate::audit::{Acting, Actor, AuditEntry, Outcome, Refusal};

fn refusal(action: &str) -> Refusal {
    Refusal {
        action: action.into(),
        reason: "not-allowed".into(),
        subject: None,
    }
}

fn from(address: &str) -> Acting {
    Acting {
        actor: Actor::Nobody,
        address: Some(address.parse().unwrap()),
    }
}

impl World {
    fn refuse(&mut self, acting: Acting, action: &str) {
        self.core.act(acting, self.now);
        self.core.count_refusal(refusal(action), self.now);
        self.settle();
    }

    /// The record, oldest first, as it stands on disk.
    fn audit(&self) -> Vec<AuditEntry> {
        let mut entries = self.store.audit(None, 10_000).unwrap();
        entries.reverse();
        entries
    }

    fn counts(&self) -> Vec<(String, u32)> {
        let entries = self.audit().into_iter();
        entries.map(|entry| (entry.action, entry.count)).collect()
    }
}

#[test]
fn what_is_done_is_in_the_record_with_its_effect_or_not_at_all() {
    let mut world = World::new();
    let acting = from("192.0.2.7");
    world.core.act(acting, world.now);
    let new = NewDevice {
        name: "truck-17".into(),
        driver: None,
        labels: vec![],
        secret_hash: [1; 32],
        groups: vec![],
    };
    world.make(|core, now| core.add_device(new.clone(), now)).unwrap();
    world.drain();
    let [(_, changes)] = world.unsynced.make_contiguous() else {
        panic!("one write")
    };
    assert!(
        changes
            .iter()
            .any(|change| matches!(change, Change::PutDevice(_)))
    );
    assert!(changes.iter().any(|change| matches!(change, Change::PutAudit(_))));
    world.settle();
    let refused = NewDevice {
        name: String::new(),
        ..new
    };
    world.make(|core, now| core.add_device(refused, now)).unwrap_err();
    world.settle();
    let expected = AuditEntry {
        number: 1,
        at_ms: START_MS,
        last_ms: START_MS,
        actor: Actor::Nobody,
        address: acting.address,
        action: "device.added".into(),
        subject: Some("device/1".into()),
        outcome: Outcome::Done,
        count: 1,
    };
    assert_eq!(world.audit(), [expected]);
}

#[test]
fn refusals_of_a_minute_are_counted_together() {
    let mut world = World::new();
    for _ in 0..5 {
        world.refuse(from("192.0.2.7"), "a");
    }
    world.refuse(from("192.0.2.7"), "b");
    world.refuse(from("2001:db8::1"), "a");
    world.refuse(from("2001:db8::2"), "a");
    let exact = [("a".into(), 5), ("b".into(), 1), ("a".into(), 2)];
    let rough = [("a".into(), 4), ("b".into(), 1), ("a".into(), 2)];
    assert_eq!(world.counts(), rough, "few writes, however many refusals");
    world.core.settle_refusals().unwrap();
    world.settle();
    assert_eq!(world.counts(), exact, "whoever reads reads all");

    world.refuse(from("192.0.2.7"), "a");
    world.now.wall_ms += 60_000;
    world.refuse(from("192.0.2.7"), "a");
    let counts = world.counts();
    assert_eq!(counts[0], ("a".into(), 6), "a minute that is over is exact");
    assert_eq!(counts[3..], [("a".into(), 1)], "and another one begins");
    world.refuse(from("192.0.2.7"), "a");
    world.refuse(from("192.0.2.7"), "a");
    world.core.stop();
    world.settle();
    assert_eq!(world.counts()[3..], [("a".into(), 3)], "as at the end");
}

#[test]
fn a_flood_of_refusals_from_everywhere_is_bounded() {
    let mut world = World::new();
    for number in 0..1_000u32 {
        let address = format!("10.0.{}.{}", number / 256, number % 256);
        world.core.act(from(&address), world.now);
        world.core.count_refusal(refusal("a"), world.now);
    }
    world.core.settle_refusals().unwrap();
    world.settle();
    let counts = world.counts();
    assert_eq!(counts.len(), 257);
    assert_eq!(counts[256], ("various".into(), 744), "none is lost");
    world.restart();
    world.refuse(from("192.0.2.7"), "b");
    assert_eq!(
        world.counts()[257..],
        [("b".into(), 1)],
        "a restart goes on behind the last"
    );
}
