//! People of the office and their sign-ins.

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

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads and writes messages, reads everything about devices.
    Dispatcher,
    /// Reads.
    Viewer,
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
