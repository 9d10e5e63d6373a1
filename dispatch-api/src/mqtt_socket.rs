//! `GET /mqtt`: a WebSocket that is handed over as a stream of bytes, for whoever speaks MQTT here.
//!
//! The handshake ends with the answer; from then on the socket is no connection of this server any more and does not count as
//! one. It asks for no token, and from which page it comes does not matter: who speaks is decided by what is said on it, and
//! no cookie counts there.

use crate::openapi::Document;
use crate::origin;
use crate::problem::{Problem, ProblemType};
use crate::state::ApiState;
use crate::websocket::ByteStream;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha1::{Digest, Sha1};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The one that is spoken [MQTT-6.0.0-3], [MQTT-6.0.0-4].
const SUBPROTOCOL: &str = "mqtt";
/// [RFC 6455 §1.3] what the client's key is hashed with.
const ACCEPT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What is spoken on an upgraded socket, as a stream of bytes; see [`crate::ApiStateBuilder::mqtt_socket`].
///
/// Reading ends where the client closes, and fails where it breaks the rules of WebSocket. Shutting down tells the client, and
/// leaves its answer to be read.
#[derive(Debug)]
pub struct MqttSocket {
    bytes: ByteStream<TokioIo<Upgraded>>,
}

/// Takes over a socket; it must not wait.
pub(crate) type HandOver = dyn Fn(MqttSocket, SocketAddr) + Send + Sync;

pub(crate) fn describe(document: &mut Document) {
    document
        .get("/mqtt", "MQTT over WebSocket")
        .describes(
            "For devices: the subprotocol is `mqtt`, and who speaks is decided by the user name and password of the \
             CONNECT, never by a token or a cookie.",
        )
        .answers_with(101, "The connection speaks MQTT from now on.", "application/octet-stream", json!({}))
        .problems(&[404, 426]);
}

/// `GET /mqtt`
pub(crate) async fn upgrade(State(state): State<ApiState>, mut request: Request) -> Response {
    if state.shared.mqtt_socket.is_none() {
        let detail = "This server has no MQTT over WebSocket.";
        return Problem::new(ProblemType::NotFound, detail).into_response();
    }
    let accept = match accept(request.headers()) {
        Ok(accept) => accept,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(&ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else {
        tracing::error!("a WebSocket came without an address; its listener has to give one");
        let detail = "The server does not know where this request comes from; please report this.";
        return Problem::new(ProblemType::Internal, detail).into_response();
    };
    // Each device by its own address where a proxy tells them: the broker bounds the connections of an address.
    let client = origin::address(state.transport, request.extensions(), request.headers());
    let peer = SocketAddr::new(client.unwrap_or(peer.ip()), peer.port());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                if let Some(hand_over) = &state.shared.mqtt_socket {
                    let bytes = ByteStream::new(TokioIo::new(upgraded));
                    hand_over(MqttSocket { bytes }, peer);
                }
            }
            Err(error) => tracing::debug!(%peer, %error, "a WebSocket was gone before it began: {error}"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        ),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It is no WebSocket, or of another version.
    NotWebSocket,
    BadKey,
    OtherSubprotocol,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (kind, detail) = match self {
            Self::NotWebSocket => (
                ProblemType::UpgradeRequired,
                "This path speaks MQTT over WebSocket (RFC 6455, version 13, subprotocol mqtt) and nothing else: an \
                 MQTT client opens ws://…/mqtt, or wss://…/mqtt where TLS is spoken.",
            ),
            Self::BadKey => (
                ProblemType::Malformed,
                "Sec-WebSocket-Key is missing, or is not 16 bytes in base64.",
            ),
            Self::OtherSubprotocol => (
                ProblemType::Malformed,
                "The subprotocol spoken here is mqtt: send Sec-WebSocket-Protocol: mqtt.",
            ),
        };
        let mut response = Problem::new(kind, detail).into_response();
        if self == Self::NotWebSocket {
            // [RFC 9110 §15.5.22], [RFC 6455 §4.2.2] what would be right.
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// The answer to the key of a handshake [RFC 6455 §4.2.1].
fn accept(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let is_websocket = lists(headers, header::UPGRADE, |one| {
        one.eq_ignore_ascii_case("websocket")
    }) && lists(headers, header::CONNECTION, |one| {
        one.eq_ignore_ascii_case("upgrade")
    }) && headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_some_and(|version| version == "13");
    if !is_websocket {
        return Err(Refusal::NotWebSocket);
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16))
        .ok_or(Refusal::BadKey)?;
    if !lists(headers, header::SEC_WEBSOCKET_PROTOCOL, |one| one == SUBPROTOCOL) {
        return Err(Refusal::OtherSubprotocol);
    }
    let hash = Sha1::new().chain_update(key).chain_update(ACCEPT).finalize();
    Ok(HeaderValue::try_from(STANDARD.encode(hash)).expect("base64 is visible ASCII"))
}

/// Whether one of the things that a header lists is wanted.
fn lists(headers: &HeaderMap, name: header::HeaderName, wanted: impl Fn(&str) -> bool) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|one| wanted(one.trim()))
}

impl AsyncRead for MqttSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MqttSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    const RIGHT: [(&str, &str); 5] = [
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "mqttv3.1, mqtt"),
    ];

    #[test]
    fn the_key_of_the_standard_is_answered_as_the_standard_says() {
        assert_eq!(accept(&headers(&RIGHT)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_handshake_that_is_not_right_is_refused_for_what_is_wrong() {
        let table = [
            ("upgrade", "h2c", Refusal::NotWebSocket),
            ("connection", "keep-alive", Refusal::NotWebSocket),
            ("sec-websocket-version", "8", Refusal::NotWebSocket),
            ("sec-websocket-key", "dGhlIHNhbXBsZQ==", Refusal::BadKey),
            ("sec-websocket-key", "no base64", Refusal::BadKey),
            ("sec-websocket-protocol", "mqttv3.1", Refusal::OtherSubprotocol),
            ("sec-websocket-protocol", "MQTT", Refusal::OtherSubprotocol),
        ];
        for (name, wrong, refusal) in table {
            let mut headers = headers(&RIGHT);
            headers.insert(name, HeaderValue::from_static(wrong));
            assert_eq!(accept(&headers), Err(refusal), "{name}: {wrong}");
            headers.remove(name);
            assert_eq!(accept(&headers), Err(refusal), "without {name}");
        }
    }
}
