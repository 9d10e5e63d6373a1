//! Times: UTC milliseconds inside, RFC 3339 with milliseconds for everybody else.

use anyhow::Context;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// `2026-11-24T13:45:12.345Z`; `None` for a moment that no calendar of four digits has.
pub(crate) fn rfc3339(utc_ms: i64) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(utc_ms) * 1_000_000).ok()?;
    moment.format(FORMAT).ok()
}

/// The moment that RFC 3339 names, with any fraction and offset.
pub(crate) fn parse_rfc3339(text: &str) -> anyhow::Result<i64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .with_context(|| format!("{text:?} is no time; write it as 2026-11-24T13:45:12Z"))?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).context("that is no time of today")
}

/// Now by the wall clock.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_with_milliseconds_in_utc() {
        assert_eq!(
            rfc3339(1_795_527_912_345).as_deref(),
            Some("2026-11-24T13:45:12.345Z")
        );
        assert_eq!(rfc3339(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(rfc3339(i64::MAX), None);
        assert_eq!(
            parse_rfc3339("2026-11-24T14:45:12.345+01:00").unwrap(),
            1_795_527_912_345
        );
        assert!(parse_rfc3339("yesterday").is_err());
    }
}
