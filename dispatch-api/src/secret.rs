//! Secrets: 256 random bits, shown once, kept as their SHA-256.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// A secret as its owner gets it: 43 characters of base64url, which need no escaping anywhere.
pub(crate) struct Secret(String);

impl Secret {
    /// A new one.
    pub(crate) fn draw() -> Self {
        let mut bits = [0u8; 32];
        getrandom::fill(&mut bits).expect("the system's random numbers are at hand");
        Self(URL_SAFE_NO_PAD.encode(bits))
    }

    /// For its owner's eyes.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// What the server keeps.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

/// What a secret that somebody shows is compared by.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
