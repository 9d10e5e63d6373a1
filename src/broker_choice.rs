//! Which broker devices meet this server at: its own, or one elsewhere.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// The setting `mqtt.broker`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum BrokerChoice {
    /// The embedded one: the empty text.
    #[default]
    Embedded,
    /// One elsewhere: `mqtt://[user:password@]host[:port]`.
    External(ExternalBroker),
}

/// Where a broker elsewhere is, and who the bridge is there. It never shows the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ExternalBroker {
    /// A name or an IP address, without the brackets of IPv6.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `None` on a broker that asks for neither user name nor password.
    pub(crate) login: Option<Login>,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The port where an address has none.
const PORT: u16 = 1883;

impl TryFrom<String> for BrokerChoice {
    type Error = &'static str;

    /// The errors leave out the text: there may be a password in it.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            return Ok(Self::Embedded);
        }
        let rest = text
            .strip_prefix("mqtt://")
            .ok_or("an address such as mqtt://user:password@broker.example:1883 is expected, and nothing but mqtt://")?;
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(parse_login(login)?), place),
            None => (None, rest),
        };
        let (host, port) = parse_place(place.strip_suffix('/').unwrap_or(place)).ok_or(
            "what follows mqtt:// and the password is a name or an IP address, and a port such as :1883",
        )?;
        Ok(Self::External(ExternalBroker { host, port, login }))
    }
}

fn parse_login(text: &str) -> Result<Login, &'static str> {
    let error =
        "user name and password are written user:password, other than letters, digits and -._~ as %XX";
    let (user, password) = text.split_once(':').ok_or(error)?;
    let user = decode(user).filter(|user| !user.is_empty()).ok_or(error)?;
    let password = decode(password).ok_or(error)?;
    Ok(Login { user, password })
}

/// Takes `%XX` for the byte that it stands for; `None` where it stands for none, or the bytes are no text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let value = digits.iter().try_fold(0, |value, digit| {
            Some(value * 16 + char::from(*digit).to_digit(16)?)
        })?;
        bytes.push(u8::try_from(value).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
fn parse_place(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                (!port.is_empty())
                    .then_some(port)
                    .map(|port| port.strip_prefix(':')),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(Some(port))),
            None => (text, None),
        },
    };
    let is_host = |c: char| c.is_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(is_host) {
        return None;
    }
    let port = match port {
        Some(port) => port?.parse().ok().filter(|port| *port != 0)?,
        None => PORT,
    };
    Some((host.to_owned(), port))
}

impl fmt::Display for ExternalBroker {
    /// Host and port, and nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for ExternalBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.login {
            Some(Login { user, .. }) => write!(f, "mqtt://{user}:***@{self}"),
            None => write!(f, "mqtt://{self}"),
        }
    }
}

impl Serialize for BrokerChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Embedded => serializer.serialize_str(""),
            Self::External(broker) => serializer.serialize_str(&format!("{broker:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BrokerChoice, &'static str> {
        BrokerChoice::try_from(text.to_owned())
    }

    #[test]
    fn an_address_is_parsed_into_place_and_login() {
        assert_eq!(parse(""), Ok(BrokerChoice::Embedded));
        for (text, shown, login) in [
            ("mqtt://broker.example", "broker.example:1883", None),
            ("mqtt://10.0.0.1:2883/", "10.0.0.1:2883", None),
            ("mqtt://[::1]:1884", "[::1]:1884", None),
            ("mqtt://[::1]", "[::1]:1883", None),
            ("mqtt://waypost:s3cret@b:1", "b:1", Some(("waypost", "s3cret"))),
            ("mqtt://w%40y:a%3Ab%2F@c:d@b", "b:1883", Some(("w@y", "a:b/@c:d"))),
        ] {
            let Ok(BrokerChoice::External(broker)) = parse(text) else {
                panic!("{text}")
            };
            assert_eq!(broker.to_string(), shown, "{text}");
            let found = broker
                .login
                .as_ref()
                .map(|login| (&*login.user, &*login.password));
            assert_eq!(found, login, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for text in [
            "broker.example:1883",
            "mqtts://u:s3cret@b",
            "mqtt://",
            "mqtt://u:s3cret@",
            "mqtt://u:s3cret@b:0",
            "mqtt://u:s3cret@b:port",
            "mqtt://u:s3cret@b c",
            "mqtt://us3cret@b",
            "mqtt://:s3cret@b",
            "mqtt://u:s3cret%4@b",
            "mqtt://u:s3cret%zz@b",
            "mqtt://u:s3cret%ff@b",
            "mqtt://u:s3cret@[b]",
            "mqtt://u:s3cret@[::1]1883",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn neither_the_settings_nor_the_log_show_the_password() {
        let choice = parse("mqtt://waypost:s3cret@b").unwrap();
        for shown in [format!("{choice:?}"), serde_json::to_string(&choice).unwrap()] {
            assert!(shown.contains("mqtt://waypost:***@b:1883"), "{shown}");
        }
    }
}
