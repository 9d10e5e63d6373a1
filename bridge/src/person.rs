//! People of the office and their sign-ins.

use crate::key::ApiKey;
pub use waypost_proto::PersonId;

/// A dispatcher or administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Its number.
    pub id: PersonId,
    /// Lower case; unique.
    pub email: String,
    /// What drivers and colleagues see; 1 to 100 characters.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// A PHC string; never leaves the server.
    pub password_hash: String,
    /// Somebody who was removed is a name under what they wrote: without address, password and access.
    pub removed: bool,
}

/// What it takes to add a person.
#[derive(Debug, Clone)]
pub struct NewPerson {
    /// Kept in lower case; unique.
    pub email: String,
    /// 1 to 100 characters.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// A PHC string.
    pub password_hash: String,
}

/// What changes about a person; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct PersonPatch {
    /// Kept in lower case; unique.
    pub email: Option<String>,
    /// 1 to 100 characters.
    pub name: Option<String>,
    /// What the person may do.
    pub role: Option<Role>,
    /// A PHC string. A new password ends the person's sign-ins.
    pub password_hash: Option<String>,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads and writes messages, reads everything about devices.
    Dispatcher,
    /// Reads.
    Viewer,
    /// A system beside this one: reads everything, writes messages, devices and positions. Keys only.
    Integration,
    /// Reads and writes messages. Keys only.
    Bot,
}

/// Whose a token is.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Somebody who has signed in.
    Person(Person, SignIn),
    /// A system or a bot.
    Key(ApiKey),
}

/// A sign-in of a person; found by the SHA-256 of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignIn {
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Who signed in.
    pub person: PersonId,
    /// UTC milliseconds after which it is void.
    pub expires_ms: i64,
}
