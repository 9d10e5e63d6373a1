//! API keys: how other systems and bots come in.

use crate::person::{PersonId, Role};

/// A key of another system or a bot. It writes under its name as people write under theirs, and has read cursors of
/// its own; its number is one of the numbers of people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its number; no person has it.
    pub id: PersonId,
    /// What drivers and colleagues see; 1 to 100 characters.
    pub name: String,
    /// What it may do: [`Role::Integration`] or [`Role::Bot`].
    pub role: Role,
    /// SHA-256 of its token. The token is 256 random bits, so that a slow hash would add nothing.
    pub token_hash: [u8; 32],
    /// When it was made, server clock, UTC milliseconds.
    pub created_ms: i64,
    /// When it was last used, server clock, UTC milliseconds, to the minute; `None` for never.
    pub last_used_ms: Option<i64>,
    /// A revoked key opens nothing any more; what it wrote stays.
    pub revoked: bool,
}

/// What it takes to add a key.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// 1 to 100 characters.
    pub name: String,
    /// [`Role::Integration`] or [`Role::Bot`].
    pub role: Role,
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
}

/// What changes about a key; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct KeyPatch {
    /// 1 to 100 characters.
    pub name: Option<String>,
    /// [`Role::Integration`] or [`Role::Bot`].
    pub role: Option<Role>,
}
