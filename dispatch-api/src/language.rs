//! The language in which somebody reads: what `Accept-Language` asks for first.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use std::convert::Infallible;
use waypost_bridge::template::FALLBACK_LOCALE;

/// A language tag, such as `de` or `pt-BR`; English for those who ask for none that is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Language(pub(crate) String);

/// The longest tag that is looked at, in bytes (RFC 5646 §4.4.1).
const TAG_BYTES_MAX: usize = 35;
/// How many tags are looked at.
const TAGS_MAX: usize = 32;

impl Language {
    fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT_LANGUAGE).iter();
        let choices = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .take(TAGS_MAX)
            .filter_map(choice);
        // The first of those that are wanted most.
        let best = choices.reduce(|best, next| if next.0 > best.0 { next } else { best });
        Self(best.map_or_else(|| FALLBACK_LOCALE.to_owned(), |(_, tag)| tag))
    }
}

impl<S: Sync> FromRequestParts<S> for Language {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// One choice of the list with its weight; `None` for what is not wanted, or no tag.
fn choice(text: &str) -> Option<(f32, String)> {
    let mut parts = text.split(';').map(str::trim);
    let tag = parts.next().filter(|tag| is_tag(tag))?;
    let weight = match parts.next() {
        Some(parameter) => weight(parameter)?,
        None => 1.0,
    };
    (weight > 0.0).then(|| (weight, spelled(tag)))
}

/// [RFC 9110 §12.4.2] `q=0.8`.
fn weight(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    let value: f32 = value.trim().parse().ok()?;
    let is_weight = name.trim().eq_ignore_ascii_case("q") && (0.0..=1.0).contains(&value);
    is_weight.then_some(value)
}

/// Whether a text has the form of a language tag.
pub(crate) fn is_tag(text: &str) -> bool {
    let is_part =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let starts_with_letter = text.starts_with(|first: char| first.is_ascii_alphabetic());
    starts_with_letter && text.len() <= TAG_BYTES_MAX && text.split('-').all(is_part)
}

/// [RFC 5646 §2.1.1] in the case in which tags are written, as it makes no difference: `pt-BR`, `zh-Hant`.
pub(crate) fn spelled(tag: &str) -> String {
    let part = |(place, part): (usize, &str)| match part.len() {
        2 if place > 0 => part.to_ascii_uppercase(),
        4 if place > 0 => part[..1].to_ascii_uppercase() + &part[1..].to_ascii_lowercase(),
        _ => part.to_ascii_lowercase(),
    };
    let parts: Vec<String> = tag.split('-').enumerate().map(part).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_one_that_is_wanted_most() {
        for (lines, language) in [
            (&[][..], "en"),
            (&["de"], "de"),
            (&["de-AT, de;q=0.9, en;q=0.8"], "de-AT"),
            (&["en;q=0.5, fr;q=0.9"], "fr"),
            (&["en;q=0.5", "pl"], "pl"),
            (&["de;q=0, fr;q=0.1"], "fr"),
            (&["PT-br"], "pt-BR"),
            (&["zh-hant-tw"], "zh-Hant-TW"),
            (&["*"], "en"),
            (&["*, de;q=0.3"], "de"),
            (&["", ","], "en"),
            (&["de; Q = 0.7 , ru;q=0.6"], "de"),
            (&["d\u{e9}, fr"], "en"),
            (&["12, -, de-, abcdefghi, a_b, fr"], "fr"),
            (&["de;q=x, en;q=2, fr;level=1"], "en"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(
                    header::ACCEPT_LANGUAGE,
                    axum::http::HeaderValue::from_bytes(line.as_bytes()).unwrap(),
                );
            }
            assert_eq!(Language::of(&headers).0, language, "{lines:?}");
        }
    }
}
