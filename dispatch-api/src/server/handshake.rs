//! TLS before HTTP: on the connection's own task, in its place and within a time.
//!
//! Whoever speaks HTTP where HTTPS is meant, as a browser does with an address that was typed without its scheme, is told
//! where to go in the clear.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Time for a whole handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// The head of a request in the clear that is read for its address.
const CLEAR_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Shakes hands. `None` where that has failed; it is counted and logged by then.
pub(super) async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    config: Arc<ServerConfig>,
) -> Option<Box<TlsStream<TcpStream>>> {
    let deadline = Instant::now() + HANDSHAKE_MAX;
    let shaken = timeout_at(deadline, shake(stream, config)).await;
    match shaken.unwrap_or(Err(Failed::Late)) {
        Ok(stream) => Some(stream),
        Err(failed) => {
            failed.report(peer);
            None
        }
    }
}

/// Why there is no TLS on a connection.
#[derive(Debug)]
enum Failed {
    /// It ended before it had said hello, as those do who look whether somebody listens.
    Gone,
    Late,
    /// It spoke HTTP, and was told.
    InTheClear,
    /// The client does not want this server, most often since it does not trust the certificate.
    RefusedByClient(rustls::AlertDescription),
    Broken(io::Error),
}

impl Failed {
    fn report(self, peer: SocketAddr) {
        let (reason, detail) = match self {
            Self::Gone => {
                tracing::debug!(%peer, "the connection was gone before it had said hello");
                return;
            }
            Self::Late => (
                "timeout",
                format!("not done within {} s", HANDSHAKE_MAX.as_secs()),
            ),
            Self::InTheClear => ("not_tls", "HTTP without TLS".to_owned()),
            Self::RefusedByClient(alert) => (
                "refused_by_client",
                format!("the client does not take this server ({alert:?}); has it the authority of /ca?"),
            ),
            Self::Broken(error) => ("broken", error.to_string()),
        };
        metrics::counter!("waypost_http_tls_handshakes_failed_total", "reason" => reason).increment(1);
        tracing::info!(%peer, reason, "no TLS with {peer}: {detail}");
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|error| error.downcast_ref());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => Self::RefusedByClient(*alert),
            _ => Self::Broken(error),
        }
    }
}

async fn shake(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Box<TlsStream<TcpStream>>, Failed> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) => {}
        Ok(_) | Err(_) => return Err(Failed::Gone),
    }
    // No record of TLS begins with a letter, and every method does.
    if first[0].is_ascii_uppercase() {
        answer_in_the_clear(&mut stream).await?;
        return Err(Failed::InTheClear);
    }
    // The state of a session is made once the client has said hello.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    // On the heap: futures that hand it on hold it once.
    let stream = Box::pin(hello.into_stream(config)).await?;
    Ok(Box::new(stream))
}

/// Sends a browser to the same address over TLS, and tells everybody else.
async fn answer_in_the_clear(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while head.len() < CLEAR_HEAD_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let room = CLEAR_HEAD_BYTES_MAX - head.len();
        if (&mut *stream).take(room as u64).read_buf(&mut head).await? == 0 {
            break;
        }
    }
    const TEXT: &str = "This port speaks HTTPS: begin the address with https://\n";
    let status = match std::str::from_utf8(&head).ok().and_then(address) {
        // Nothing that is sent along with another method should be sent again in the clear by somebody who follows.
        Some(address) => format!("307 Temporary Redirect\r\nlocation: {address}"),
        None => "400 Bad Request".to_owned(),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncache-control: no-store\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{TEXT}",
        TEXT.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // A socket that is closed with unread bytes is reset, and the reset would overtake the answer.
    let mut rest = [0; 1_024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Where a GET meant to go, as HTTPS spells it.
fn address(head: &str) -> Option<String> {
    let mut lines = head.split("\r\n");
    let mut request = lines.next()?.split(' ');
    let (method, target) = (request.next()?, request.next()?);
    let is_target = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic());
    let host = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then_some(value.trim())
    })?;
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    (["GET", "HEAD"].contains(&method) && is_target && is_host).then(|| format!("https://{host}{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_is_sent_on_and_only_to_where_it_meant_to_go() {
        for (head, expected) in [
            (
                "GET /ca?x=1 HTTP/1.1\r\nAccept: */*\r\nHost: waypost.test:8443\r\n\r\n",
                Some("https://waypost.test:8443/ca?x=1"),
            ),
            (
                "HEAD / HTTP/1.1\r\nhost: [::1]:8443\r\n\r\n",
                Some("https://[::1]:8443/"),
            ),
            ("POST /api/v1/session HTTP/1.1\r\nhost: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nhost: \r\n\r\n", None),
            ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", None),
            ("GET http://other/ HTTP/1.1\r\nhost: a\r\n\r\n", None),
            ("GET /a\tb HTTP/1.1\r\nhost: a\r\n\r\n", None),
            ("GET", None),
            ("", None),
        ] {
            assert_eq!(address(head).as_deref(), expected, "{head:?}");
        }
    }
}
