//! Random secrets: tokens for machines, passwords that people type once.

use anyhow::Context;
use std::fmt::Write;

/// 256 random bits as 64 hexadecimal digits.
pub(crate) fn token() -> anyhow::Result<String> {
    let mut bits = [0u8; 32];
    getrandom::fill(&mut bits).context("the system has no random numbers")?;
    Ok(bits.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// 100 random bits as four groups of five letters and digits that cannot be taken for each other.
pub(crate) fn password() -> anyhow::Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bits = [0u8; 20];
    getrandom::fill(&mut bits).context("the system has no random numbers")?;
    let letters = bits.map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    Ok(letters
        .chunks(5)
        .map(String::from_iter)
        .collect::<Vec<_>>()
        .join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_their_shape_and_differ() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert_ne!(one, other);
        assert!(
            one.len() == 64 && one.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{one}"
        );
        let (one, other) = (password().unwrap(), password().unwrap());
        assert_ne!(one, other);
        assert!(
            one.len() == 23 && one.split('-').all(|group| group.len() == 5),
            "{one}"
        );
    }
}
