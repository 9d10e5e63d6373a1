//! People, sign-ins and keys, with changes that overtake each other.

use super::*;
use crate::entry::Author;
use crate::key::{KeyPatch, NewKey};
use crate::person::{Identity, PersonPatch, SignIn};

impl World {
    fn administrator(&mut self, email: &str) -> PersonId {
        let new = NewPerson {
            email: email.into(),
            name: email.into(),
            role: Role::Admin,
            password_hash: "first".into(),
        };
        let Made::Person(id) = self.make(|core, _| core.add_person(new)).unwrap() else {
            panic!("a person was made")
        };
        self.settle();
        id
    }

    fn add_key(&mut self, token_hash: [u8; 32]) -> PersonId {
        let new = NewKey {
            name: "ERP".into(),
            role: Role::Bot,
            token_hash,
        };
        let Made::Key(id) = self.make(|core, now| core.add_key(new, now)).unwrap() else {
            panic!("a key was made")
        };
        self.settle();
        id
    }

    fn sign_in(&mut self, verified: &crate::person::Person, token: u8) -> Result<Made, BridgeError> {
        let sign_in = SignIn {
            token_hash: [token; 32],
            person: verified.id,
            expires_ms: START_MS + 1_000_000,
        };
        self.make(|core, now| core.sign_in(verified, sign_in, now))
    }

    fn is_let_in(&mut self, token: u8) -> bool {
        let is_somebody = self.core.identify([token; 32], self.now).is_some();
        self.settle();
        is_somebody
    }
}

fn demoted() -> PersonPatch {
    PersonPatch {
        role: Some(Role::Viewer),
        ..PersonPatch::default()
    }
}

#[test]
fn the_last_administrator_can_neither_be_demoted_nor_removed() {
    let mut world = World::new();
    let (anna, bert) = (world.administrator("anna@x"), world.administrator("bert@x"));
    // Neither is on disk when the other is asked for.
    world.core.update_person(anna, demoted()).unwrap();
    let second = world.core.update_person(bert, demoted());
    assert!(matches!(second, Err(BridgeError::Conflict(_))), "{second:?}");
    assert!(matches!(
        world.core.remove_person(bert),
        Err(BridgeError::Conflict(_))
    ));
    world.settle();
    world.core.remove_person(anna).unwrap();
    world.settle();
    assert!(matches!(
        world.core.remove_person(bert),
        Err(BridgeError::Conflict(_))
    ));
    world.restart();
    assert!(matches!(
        world.core.update_person(bert, demoted()),
        Err(BridgeError::Conflict(_))
    ));
    let renamed = PersonPatch {
        name: Some("Bert".into()),
        ..PersonPatch::default()
    };
    world.core.update_person(bert, renamed).unwrap();
}

#[test]
fn a_new_password_ends_every_sign_in_of_the_old_one() {
    let mut world = World::new();
    let anna = world.administrator("anna@x");
    let before = world.core.person(anna).unwrap();
    world.sign_in(&before, 1).unwrap();
    world.settle();
    assert!(world.is_let_in(1));
    // One that is still being written, and one that comes after.
    world.sign_in(&before, 2).unwrap();
    let patch = PersonPatch {
        password_hash: Some("second".into()),
        ..PersonPatch::default()
    };
    world.core.update_person(anna, patch).unwrap();
    let late = world.sign_in(&before, 3);
    assert!(matches!(late, Err(BridgeError::Conflict(_))), "{late:?}");
    world.settle();
    let after = world.core.person(anna).unwrap();
    world.sign_in(&after, 4).unwrap();
    world.settle();
    let let_in = [1, 2, 3, 4].map(|token| world.is_let_in(token));
    assert_eq!(let_in, [false, false, false, true]);
    world.restart();
    let let_in = [1, 2, 3, 4].map(|token| world.is_let_in(token));
    assert_eq!(let_in, [false, false, false, true]);
}

#[test]
fn a_removed_person_is_a_name_and_nothing_else() {
    let mut world = World::new();
    world.administrator("bert@x");
    let anna = world.administrator("anna@x");
    let person = world.core.person(anna).unwrap();
    world.sign_in(&person, 1).unwrap();
    world.settle();
    world.core.remove_person(anna).unwrap();
    // While it is being written the address is free, and nothing brings the person back.
    assert!(matches!(
        world.core.update_person(anna, demoted()),
        Err(BridgeError::NotFound(_))
    ));
    let again = world.administrator("anna@x");
    assert_ne!(again, anna);
    for _ in 0..2 {
        assert!(!world.is_let_in(1));
        assert_eq!(world.core.person(anna), None);
        assert_eq!(world.core.people(None).count(), 2);
        assert_eq!(world.core.person_by_email("anna@x").unwrap().id, again);
        assert_eq!(
            world.core.author_name(Author::Person(anna)).as_deref(),
            Some("anna@x")
        );
        world.restart();
    }
}

#[test]
fn an_address_belongs_to_one_person() {
    let mut world = World::new();
    let (anna, bert) = (world.administrator("anna@x"), world.administrator("bert@x"));
    let moved = |email: &str| PersonPatch {
        email: Some(email.into()),
        ..PersonPatch::default()
    };
    assert!(matches!(
        world.core.update_person(bert, moved("Anna@X")),
        Err(BridgeError::Conflict(_))
    ));
    world.core.update_person(anna, moved("anna@x")).unwrap();
    world.core.update_person(anna, moved("new@x")).unwrap();
    world.core.update_person(bert, moved("anna@x")).unwrap();
    world.settle();
    assert_eq!(world.core.person_by_email("anna@x").unwrap().id, bert);
}

#[test]
fn a_key_writes_under_its_name_and_opens_nothing_once_revoked() {
    let (mut world, device) = World::in_session();
    let person = world.add_person();
    let key = world.add_key([7; 32]);
    assert_ne!(key, person, "they share their numbers");
    world.post(key, device.stream, "from a bot");
    for _ in 0..2 {
        assert!(world.is_let_in(7));
        assert_eq!(
            world.core.author_name(Author::Person(key)).as_deref(),
            Some("ERP")
        );
        world.restart();
    }
    assert_ne!(world.add_person(), key, "a restart counts keys as well");
    world.core.revoke_key(key).unwrap();
    let patch = KeyPatch {
        name: Some("back".into()),
        ..KeyPatch::default()
    };
    assert!(matches!(
        world.core.update_key(key, patch),
        Err(BridgeError::NotFound(_))
    ));
    assert!(!world.is_let_in(7), "nor is its use written over its end");
    world.settle();
    let told = world.live.iter().any(|e| matches!(e, LiveEvent::AccessEnded));
    assert!(told, "whoever serves it looks again");
    for _ in 0..2 {
        assert!(!world.is_let_in(7));
        assert!(world.core.key(key).unwrap().revoked);
        assert!(world.core.author_name(Author::Person(key)).is_some());
        world.restart();
    }
}

#[test]
fn the_last_use_of_a_key_is_kept_to_the_minute() {
    let mut world = World::new();
    let key = world.add_key([7; 32]);
    let last_used = |world: &World| world.core.key(key).unwrap().last_used_ms;
    assert_eq!(last_used(&world), None);
    for (second, used) in [(0, 0), (59, 0), (60, 60), (61, 60)] {
        world.now.wall_ms = START_MS + second * 1_000;
        assert!(matches!(
            world.core.identify([7; 32], world.now),
            Some(Identity::Key(_))
        ));
        world.settle();
        assert_eq!(last_used(&world), Some(START_MS + used * 1_000), "{second}");
    }
}

#[test]
fn what_a_program_has_read_no_person_of_the_office_has() {
    let (mut world, device) = World::in_session();
    let (person, key) = (world.add_person(), world.add_key([7; 32]));
    world.up(&device, &ops(1, 1, device.stream, &["from the road"]));
    let read = |world: &World| {
        let stream = world.core.stream(None, device.stream).unwrap().stream;
        let rows = world.store.receipts(&stream, Seq::new(1).unwrap()).unwrap();
        rows.unwrap()[0].read.is_some()
    };
    let now = world.now;
    world.core.mark_read(key, device.stream, 1, now).unwrap();
    world.settle();
    assert!(!read(&world));
    assert_eq!(world.core.stream(Some(key), device.stream).unwrap().unread, 0);
    world.core.mark_read(person, device.stream, 1, now).unwrap();
    world.settle();
    assert!(read(&world));
}

#[test]
fn a_change_that_overtakes_a_revocation_does_not_undo_it() {
    let (mut world, device) = World::in_session();
    world.core.revoke_device(device.id, world.now).unwrap();
    let renamed = crate::device::DevicePatch {
        name: Some("back".into()),
        ..Default::default()
    };
    let refused = world.core.update_device(device.id, renamed, world.now);
    assert!(matches!(refused, Err(BridgeError::NotFound(_))), "{refused:?}");
    let refused = world.make(|core, _| core.rotate_secret(device.id, [9; 32]));
    assert!(matches!(refused, Err(BridgeError::Conflict(_))), "{refused:?}");
    world.settle();
    assert!(world.core.device(device.id).unwrap().device.revoked);
}
