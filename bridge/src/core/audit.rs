//! Writes the audit record: what is done in the batch of its effect, refusals by the minute.

use super::{Core, Now, Ticket};
use crate::audit::{Acting, Actor, AuditEntry, Outcome, Refusal};
use crate::once::Made;
use crate::service::BridgeError;
use crate::store::Change;
use std::collections::BTreeMap;

/// How many different refusals of one minute are told apart; all others of that minute are one line. With 100 bytes a
/// line, a flood from everywhere writes at most 40 MB a day.
const REFUSALS_APART_MAX: usize = 256;
const MINUTE_MS: i64 = 60_000;

impl Core {
    /// Says who does what is staged next, and when.
    pub(crate) fn act(&mut self, acting: Acting, now: Now) {
        self.acting = (acting, now.wall_ms);
    }

    /// Stages a line of the record beside the change that it tells of.
    pub(crate) fn audit(&mut self, action: &str, subject: String) {
        let (Acting { actor, address }, at_ms) = self.acting;
        let number = self.next_audit();
        self.changes.push(Change::PutAudit(AuditEntry {
            number,
            at_ms,
            last_ms: at_ms,
            actor,
            address,
            action: action.to_owned(),
            subject: Some(subject),
            outcome: Outcome::Done,
            count: 1,
        }));
    }

    /// Somebody takes everything there is.
    pub(crate) fn note_export(&mut self) -> Result<((), Option<Ticket>), BridgeError> {
        self.audit("backup.taken", "store".to_owned());
        Ok(((), self.commit()))
    }

    /// The line of something that was made.
    pub(super) fn audit_made(&mut self, made: Made) {
        let (action, subject) = match made {
            Made::Entry { stream, seq } => ("entry.written", format!("stream/{stream}/{seq}")),
            Made::Device(device) => ("device.added", format!("device/{device}")),
            Made::Credentials(device) => ("credentials.rotated", format!("device/{device}")),
            Made::Person(person) => ("person.added", format!("person/{person}")),
            Made::Key(key) => ("key.added", format!("key/{key}")),
            Made::Group(group) => ("group.added", format!("group/{group}")),
            Made::Broadcast(stream) => ("broadcast.sent", format!("broadcast/{stream}")),
            Made::Session(person) => ("session.created", format!("person/{person}")),
        };
        self.audit(action, subject);
    }

    /// Counts a refusal. It is written when it is the first of its kind in this minute, the second, the fourth and so
    /// on, and exactly when its minute is over, or somebody reads.
    pub(crate) fn count_refusal(&mut self, refusal: Refusal, now: Now) -> Option<Ticket> {
        let minute = now.wall_ms.div_euclid(MINUTE_MS);
        if self.refusals.minute != minute {
            self.stage_refusals();
            self.refusals.minute = minute;
            self.refusals.open.clear();
        }
        let mut kind = (self.acting.0.of_network(), refusal);
        if !self.refusals.open.contains_key(&kind) && self.refusals.open.len() >= REFUSALS_APART_MAX {
            let refusal = Refusal {
                action: "various".to_owned(),
                reason: "more than are told apart".to_owned(),
                subject: None,
            };
            let anybody = Acting {
                actor: Actor::Nobody,
                address: None,
            };
            kind = (anybody, refusal);
        }
        let number = self.staged_audit + 1;
        let open = self
            .refusals
            .open
            .entry(kind)
            .or_insert_with_key(|(acting, refusal)| Open {
                entry: AuditEntry {
                    number,
                    at_ms: now.wall_ms,
                    last_ms: now.wall_ms,
                    actor: acting.actor,
                    address: acting.address,
                    action: refusal.action.clone(),
                    subject: refusal.subject.clone(),
                    outcome: Outcome::Refused(refusal.reason.clone()),
                    count: 0,
                },
                written: 0,
            });
        open.entry.count = open.entry.count.saturating_add(1);
        open.entry.last_ms = now.wall_ms;
        self.staged_audit = self.staged_audit.max(open.entry.number);
        if open.entry.count.is_power_of_two() {
            open.written = open.entry.count;
            self.changes.push(Change::PutAudit(open.entry.clone()));
        }
        self.commit()
    }

    /// Writes the exact counts.
    pub(crate) fn settle_refusals(&mut self) -> Result<((), Option<Ticket>), BridgeError> {
        self.stage_refusals();
        // Where there is nothing to write there may be a write under way.
        let ticket = self.commit();
        Ok(((), ticket.or(self.last_open())))
    }

    pub(super) fn stage_refusals(&mut self) {
        for open in self.refusals.open.values_mut() {
            if open.written != open.entry.count {
                open.written = open.entry.count;
                self.changes.push(Change::PutAudit(open.entry.clone()));
            }
        }
    }

    fn next_audit(&mut self) -> u64 {
        self.staged_audit += 1;
        self.staged_audit
    }
}

/// The refusals of the present minute.
///
/// Memory: 300 bytes for each kind, of which there are at most [`REFUSALS_APART_MAX`] and one.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    minute: i64,
    open: BTreeMap<(Acting, Refusal), Open>,
}

#[derive(Debug)]
struct Open {
    entry: AuditEntry,
    /// The count that is staged or on disk.
    written: u32,
}
