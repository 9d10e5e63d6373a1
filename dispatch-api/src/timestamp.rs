//! Times: UTC milliseconds inside, RFC 3339 with milliseconds outside.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// A moment in UTC milliseconds. Written `2026-11-24T13:45:12.345Z`; one before the year 0 or after 9999, which only a
/// broken clock shows, is written as the first or the last moment between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) i64);

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

impl Timestamp {
    /// 0000-01-01T00:00:00.000Z
    pub(crate) const MIN: Self = Self(-62_167_219_200_000);
    /// 9999-12-31T23:59:59.999Z
    pub(crate) const MAX: Self = Self(253_402_300_799_999);
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = (*self).clamp(Self::MIN, Self::MAX).0;
        let moment =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map_err(|_| fmt::Error)?;
        f.write_str(&moment.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

/// A text that is no time.
#[derive(Debug, thiserror::Error)]
#[error("must be a time such as 2026-11-24T13:45:12.345Z")]
pub(crate) struct NoTime;

impl FromStr for Timestamp {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NoTime)?;
        let ms = moment.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(ms).map(Self).map_err(|_| NoTime)
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples(["2026-11-24T13:45:12.345Z"])
            .into()
    }
}

impl ToSchema for Timestamp {}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_with_milliseconds_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_795_527_912_345, "2026-11-24T13:45:12.345Z"),
            (Timestamp::MIN.0, "0000-01-01T00:00:00.000Z"),
            (Timestamp::MAX.0, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(ms), "{text}");
        }
        assert_eq!(Timestamp(i64::MAX).to_string(), Timestamp::MAX.to_string());
        assert_eq!(Timestamp(i64::MIN).to_string(), Timestamp::MIN.to_string());
    }

    #[test]
    fn any_rfc_3339_is_read() {
        for (text, ms) in [
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:00.0019Z", Some(1)),
            (
                "9999-12-31T23:59:59.999-23:59",
                Some(Timestamp::MAX.0 + 86_340_000),
            ),
            ("1970-01-01", None),
            ("1970-01-01T00:00:00", None),
            ("0", None),
            ("", None),
            ("1970-13-01T00:00:00Z", None),
        ] {
            assert_eq!(text.parse::<Timestamp>().ok(), ms.map(Timestamp), "{text}");
        }
    }
}
