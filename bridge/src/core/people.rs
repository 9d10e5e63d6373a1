//! People, their sign-ins, and API keys.
//!
//! A change starts from the newest version of a record, on disk or still on its way there: two changes at the same
//! time must not undo each other, nor each count on the other's administrator.

use super::directory::{check_name, invalid};
use super::{Core, Effect, Now, Ticket};
use crate::key::{ApiKey, KeyPatch, NewKey};
use crate::once::Made;
use crate::person::{Identity, NewPerson, Person, PersonPatch, Role, SignIn};
use crate::service::BridgeError;
use crate::store::Change;
use std::collections::BTreeSet;
use waypost_proto::PersonId;

type Making = Result<Made, BridgeError>;
type Staged<T> = Result<(T, Option<Ticket>), BridgeError>;

/// How many sign-ins are kept; at the bound the one that expires first is ended.
const SIGN_INS_MAX: usize = 10_000;
/// How exact the last use of a key is, so that using it is not a write each time.
const KEY_USE_MS: i64 = 60_000;

impl Core {
    pub(crate) fn add_person(&mut self, new: NewPerson) -> Making {
        check_name("/name", &new.name)?;
        check_person_role(new.role)?;
        let email = checked_email(&new.email)?;
        let id = self.next_person_id()?;
        self.claim_email(&email)?;
        self.next_person += 1;
        self.put_person(Person {
            id,
            email,
            name: new.name,
            role: new.role,
            password_hash: new.password_hash,
            removed: false,
        });
        Ok(Made::Person(id))
    }

    /// Stages changes of a person. A new password ends the person's sign-ins.
    pub(crate) fn update_person(&mut self, id: PersonId, patch: PersonPatch) -> Staged<()> {
        let before = self.newest_person(id)?.clone();
        let mut person = before.clone();
        if let Some(name) = patch.name {
            check_name("/name", &name)?;
            person.name = name;
        }
        if let Some(role) = patch.role {
            check_person_role(role)?;
            if role != Role::Admin {
                self.check_other_administrator(id)?;
            }
            person.role = role;
        }
        let new_password = patch.password_hash.is_some();
        person.password_hash = patch.password_hash.unwrap_or(person.password_hash);
        if let Some(email) = patch.email {
            person.email = checked_email(&email)?;
        }
        if person.email != before.email {
            self.claim_email(&person.email)?;
            self.emails.remove(&before.email);
        }
        if person != before {
            self.put_person(person);
            self.audit("person.changed", format!("person/{id}"));
        }
        if new_password {
            self.end_sign_ins(id);
        }
        Ok(((), self.commit()))
    }

    /// Stages the end of a person's access. The name stays with what the person wrote.
    pub(crate) fn remove_person(&mut self, id: PersonId) -> Staged<()> {
        let person = self.newest_person(id)?.clone();
        self.check_other_administrator(id)?;
        self.emails.remove(&person.email);
        self.put_person(Person {
            email: String::new(),
            password_hash: String::new(),
            removed: true,
            ..person
        });
        self.end_sign_ins(id);
        self.audit("person.removed", format!("person/{id}"));
        Ok(((), self.commit()))
    }

    /// Stages a sign-in of somebody whose password was found right; it still has to be the person's password.
    pub(crate) fn sign_in(&mut self, verified: &Person, sign_in: SignIn, now: Now) -> Making {
        let unchanged = |person: &Person| person.password_hash == verified.password_hash;
        if !self.newest_person(verified.id).is_ok_and(unchanged) {
            return Err(BridgeError::Conflict(
                "the password was changed at this moment; sign in with the new one",
            ));
        }
        let mut ended: Vec<[u8; 32]> = self
            .sign_ins
            .values()
            .filter(|s| s.expires_ms <= now.wall_ms)
            .map(|s| s.token_hash)
            .collect();
        if ended.is_empty() && self.sign_ins.len() >= SIGN_INS_MAX {
            ended.extend(
                self.sign_ins
                    .values()
                    .min_by_key(|s| s.expires_ms)
                    .map(|s| s.token_hash),
            );
        }
        for token_hash in ended {
            self.end_sign_in(token_hash);
        }
        self.changes.push(Change::PutSignIn(sign_in));
        self.effects.push(Effect::SignIn(sign_in));
        Ok(Made::Session(sign_in.person))
    }

    pub(crate) fn sign_out(&mut self, token_hash: [u8; 32]) -> Staged<()> {
        if let Some(person) = self.sign_ins.get(&token_hash).map(|sign_in| sign_in.person) {
            self.end_sign_in(token_hash);
            self.audit("session.ended", format!("person/{person}"));
        }
        Ok(((), self.commit()))
    }

    pub(crate) fn add_key(&mut self, new: NewKey, now: Now) -> Making {
        check_name("/name", &new.name)?;
        check_key_role(new.role)?;
        let id = self.next_person_id()?;
        self.next_person += 1;
        self.put_key(ApiKey {
            id,
            name: new.name,
            role: new.role,
            token_hash: new.token_hash,
            created_ms: now.wall_ms,
            last_used_ms: None,
            revoked: false,
        });
        Ok(Made::Key(id))
    }

    pub(crate) fn update_key(&mut self, id: PersonId, patch: KeyPatch) -> Staged<()> {
        let before = self.newest_key(id)?.clone();
        let mut key = before.clone();
        if let Some(name) = patch.name {
            check_name("/name", &name)?;
            key.name = name;
        }
        if let Some(role) = patch.role {
            check_key_role(role)?;
            key.role = role;
        }
        if key != before {
            self.put_key(key);
            self.audit("key.changed", format!("key/{id}"));
        }
        Ok(((), self.commit()))
    }

    pub(crate) fn revoke_key(&mut self, id: PersonId) -> Staged<()> {
        let key = self.newest_key(id)?.clone();
        self.put_key(ApiKey { revoked: true, ..key });
        self.audit("key.revoked", format!("key/{id}"));
        Ok(((), self.commit()))
    }

    /// Whose token this is; stages that a key was used.
    pub(crate) fn identify(&mut self, token_hash: [u8; 32], now: Now) -> Option<Identity> {
        if let Some((person, sign_in)) = self.signed_in(token_hash, now.wall_ms) {
            return Some(Identity::Person(person, sign_in));
        }
        let id = *self.key_of.get(&token_hash)?;
        // One that is being revoked is not put back.
        let key = self.newest_key(id).ok()?.clone();
        let used_ms = key.last_used_ms.unwrap_or(i64::MIN);
        if now.wall_ms.saturating_sub(used_ms) >= KEY_USE_MS {
            self.put_key(ApiKey {
                last_used_ms: Some(now.wall_ms),
                ..key.clone()
            });
            self.commit();
        }
        Some(Identity::Key(key))
    }

    pub(crate) fn signed_in(&self, token_hash: [u8; 32], now_ms: i64) -> Option<(Person, SignIn)> {
        let sign_in = self
            .sign_ins
            .get(&token_hash)
            .filter(|sign_in| sign_in.expires_ms > now_ms)?;
        Some((self.person(sign_in.person)?, *sign_in))
    }

    pub(crate) fn has_people(&self) -> bool {
        self.people.values().any(|person| !person.removed)
    }

    pub(crate) fn people(&self, after: Option<PersonId>) -> impl Iterator<Item = Person> + '_ {
        let after = after.map_or(0, PersonId::number);
        self.people
            .values()
            .filter(move |person| person.id.number() > after && !person.removed)
            .cloned()
    }

    pub(crate) fn person(&self, id: PersonId) -> Option<Person> {
        self.people.get(&id).filter(|person| !person.removed).cloned()
    }

    pub(crate) fn person_by_email(&self, email: &str) -> Option<Person> {
        self.people
            .values()
            .find(|person| person.email == email && !person.removed)
            .cloned()
    }

    pub(crate) fn keys(&self, after: Option<PersonId>) -> impl Iterator<Item = ApiKey> + '_ {
        let after = after.map_or(0, PersonId::number);
        self.keys
            .values()
            .filter(move |key| key.id.number() > after)
            .cloned()
    }

    pub(crate) fn key(&self, id: PersonId) -> Option<ApiKey> {
        self.keys.get(&id).cloned()
    }

    /// Who writes under this number: a person, removed or not, or a key.
    pub(super) fn name_of(&self, id: PersonId) -> Option<&String> {
        let person = self.people.get(&id).map(|person| &person.name);
        person.or_else(|| self.keys.get(&id).map(|key| &key.name))
    }

    pub(super) fn take_key(&mut self, key: ApiKey) {
        if key.revoked {
            self.key_of.remove(&key.token_hash);
        } else {
            self.key_of.insert(key.token_hash, key.id);
        }
        self.keys.insert(key.id, key);
    }

    fn newest_person(&self, id: PersonId) -> Result<&Person, BridgeError> {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Person(person) if person.id == id => Some(person),
            _ => None,
        });
        staged
            .or_else(|| self.people.get(&id))
            .filter(|person| !person.removed)
            .ok_or(BridgeError::NotFound("person"))
    }

    fn newest_key(&self, id: PersonId) -> Result<&ApiKey, BridgeError> {
        let staged = self.staged_effects().find_map(|effect| match effect {
            Effect::Key(key) if key.id == id => Some(key),
            _ => None,
        });
        staged
            .or_else(|| self.keys.get(&id))
            .filter(|key| !key.revoked)
            .ok_or(BridgeError::NotFound("key"))
    }

    /// Somebody has to be able to let others in.
    fn check_other_administrator(&self, id: PersonId) -> Result<(), BridgeError> {
        let staged = self.staged_effects().filter_map(|effect| match effect {
            Effect::Person(person) => Some(person.id),
            _ => None,
        });
        let everybody: BTreeSet<PersonId> = self.people.keys().copied().chain(staged).collect();
        let is_administrator = |id: PersonId| {
            self.newest_person(id)
                .is_ok_and(|person| person.role == Role::Admin)
        };
        if !is_administrator(id)
            || everybody
                .into_iter()
                .any(|other| other != id && is_administrator(other))
        {
            return Ok(());
        }
        Err(BridgeError::Conflict(
            "this is the last administrator; make somebody else one first",
        ))
    }

    fn next_person_id(&self) -> Result<PersonId, BridgeError> {
        PersonId::new(self.next_person).ok_or(BridgeError::Conflict(
            "there are no numbers left for people and keys",
        ))
    }

    fn claim_email(&mut self, email: &str) -> Result<(), BridgeError> {
        if self.emails.insert(email.to_owned()) {
            return Ok(());
        }
        Err(BridgeError::Conflict(
            "a person with this e-mail address exists already",
        ))
    }

    fn put_person(&mut self, person: Person) {
        self.changes.push(Change::PutPerson(person.clone()));
        self.effects.push(Effect::Person(person));
    }

    fn put_key(&mut self, key: ApiKey) {
        self.changes.push(Change::PutKey(key.clone()));
        self.effects.push(Effect::Key(key));
    }

    /// Those on disk, and those on their way there.
    fn end_sign_ins(&mut self, person: PersonId) {
        let staged = self.staged_effects().filter_map(|effect| match effect {
            Effect::SignIn(sign_in) => Some(sign_in),
            _ => None,
        });
        let ended: BTreeSet<[u8; 32]> = self
            .sign_ins
            .values()
            .chain(staged)
            .filter(|sign_in| sign_in.person == person)
            .map(|sign_in| sign_in.token_hash)
            .collect();
        for token_hash in ended {
            self.end_sign_in(token_hash);
        }
    }

    fn end_sign_in(&mut self, token_hash: [u8; 32]) {
        self.changes.push(Change::DeleteSignIn(token_hash));
        self.effects.push(Effect::SignOut(token_hash));
    }
}

fn checked_email(email: &str) -> Result<String, BridgeError> {
    let email = email.trim().to_lowercase();
    let fits = (3..=254).contains(&email.len()) && email.contains('@');
    if fits && !email.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Ok(email)
    } else {
        Err(invalid("/email", "an e-mail address such as anna@example.org"))
    }
}

fn check_person_role(role: Role) -> Result<(), BridgeError> {
    match role {
        Role::Admin | Role::Dispatcher | Role::Viewer => Ok(()),
        Role::Integration | Role::Bot => Err(invalid("/role", "admin, dispatcher or viewer")),
    }
}

fn check_key_role(role: Role) -> Result<(), BridgeError> {
    match role {
        Role::Integration | Role::Bot => Ok(()),
        Role::Admin | Role::Dispatcher | Role::Viewer => Err(invalid("/role", "integration or bot")),
    }
}
