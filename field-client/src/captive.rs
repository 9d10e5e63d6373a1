//! A network that answers in the server's place, because it wants a person to sign in first (a captive portal).
//!
//! Hotels, depots and petrol stations have such Wi-Fi. It shows in three ways: a certificate that nobody here trusts, a web page
//! where TLS or MQTT is expected, and a redirection where a WebSocket is asked for. Each of them may also be a server that
//! was set up wrongly, so that the advice names both.
//!
//! **The rule:** the device's secret goes to nobody whose certificate was not verified. At an `mqtt://` or `ws://` address it
//! cannot hold, as there is no certificate: there the secret goes to whoever answers, which is why these addresses are for
//! loopback and networks that are trusted, and why they are not tried where something else answered at an address with TLS.

/// Why there is no stream to the server, as a sentence that says what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreached {
    /// It does not answer, or not as it should.
    #[error("{0}")]
    Broken(String),
    /// The network on the way answers in its place; what to show.
    #[error("{0}")]
    Captive(String),
}

impl From<String> for Unreached {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

/// What a person can do first.
const ADVICE: &str = "this network may want you to sign in: open any web page, or use mobile data";

/// Whether what came is the beginning of an answer in HTTP.
pub(crate) fn is_http(input: &[u8]) -> bool {
    input.starts_with(b"HTTP/")
}

/// Where MQTT or TLS was expected.
pub(crate) fn answered_as_a_web_page() -> String {
    advice("a web page answers where the server should")
}

/// What to show; `sign` is what was seen, and what else it may mean.
pub(crate) fn advice(sign: &str) -> String {
    format!("{ADVICE} ({sign})")
}

/// Whether the status of an answer to a WebSocket handshake is that of a network and not of a server: a page, a
/// redirection to one, or that a person has to sign in [RFC 6585 §6].
pub(crate) fn is_status(code: &str) -> bool {
    matches!(code, "200" | "301" | "302" | "303" | "307" | "308" | "511")
}
