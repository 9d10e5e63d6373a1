//! Where a listener listens, or that it does not.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// An address, or none: an empty text turns a listener off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    Off,
    At(SocketAddr),
}

impl ListenAddress {
    /// `None` where it is off.
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::At(address) => address.fmt(formatter),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| D::Error::custom(format!("{error}, such as 127.0.0.1:8883; empty turns it off")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_spelled_as_it_is_read_and_an_empty_one_is_off() {
        for (text, address) in [
            ("", None),
            ("127.0.0.1:0", Some(([127, 0, 0, 1], 0).into())),
            ("[::]:8883", Some(([0u16; 8], 8_883).into())),
        ] {
            let read: ListenAddress = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read.address(), address, "{text}");
            assert_eq!(serde_json::to_value(read).unwrap(), text);
        }
        for text in ["off", "127.0.0.1", ":8883", " "] {
            let error = serde_json::from_value::<ListenAddress>(text.into()).unwrap_err();
            assert!(error.to_string().contains("empty turns it off"), "{error}");
        }
    }
}
