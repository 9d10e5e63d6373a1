//! What a connection has to pass before MQTT: a PROXY header, then TLS.
//!
//! All of it happens on the connection's own task, in its place among the handshakes and within their time. What fails here
//! is closed without a word of MQTT, counted by its reason, and logged with what was wrong.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout_at;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;
use tracing::Instrument;

use crate::broker::Shared;
use crate::connection::{Handshake, serve_placed};
use crate::listener::{ListenerOptions, ProxyProtocol};
use crate::peer::Peer;
use crate::proxy_protocol::{BadHeader, PREAMBLE_BYTES, Preamble};
use crate::rate::Rate;
use crate::reason::Reason;
use crate::span;
use crate::via::Via;

/// Serves a stream that begins with what the options say. As with [`crate::connection::serve`], one without a place is gone
/// before this returns.
pub(crate) fn serve<S>(
    shared: Arc<Shared>,
    stream: S,
    accepted: SocketAddr,
    options: Arc<ListenerOptions>,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let via = if options.tls.is_some() { Via::Tls } else { Via::Tcp };
    let rate = match options.proxy_protocol {
        ProxyProtocol::Off => shared.rate(accepted.ip()),
        // All come from the address of the proxy; whose rate counts stands in the header.
        ProxyProtocol::Required => Rate::Within,
    };
    let placed = is_worth_it(rate, &options, accepted)
        .then(|| Handshake::begin(&shared, accepted, rate))
        .flatten()
        .map(|handshake| {
            serve_placed_behind(shared, stream, accepted, options, rate, handshake)
                .instrument(span::begin(accepted, via))
        });
    OptionFuture::from(placed).map(drop)
}

/// Whether one who is over the rate may be told so: a TLS handshake is most of what the rate is there to spare.
fn is_worth_it(rate: Rate, options: &ListenerOptions, peer: SocketAddr) -> bool {
    let is_worth_it = rate == Rate::Within || options.tls.is_none();
    if !is_worth_it {
        tracing::debug!(%peer, "closed before the TLS handshake: too many connections of this address");
    }
    is_worth_it
}

async fn serve_placed_behind<S>(
    shared: Arc<Shared>,
    mut stream: S,
    accepted: SocketAddr,
    options: Arc<ListenerOptions>,
    mut rate: Rate,
    handshake: Handshake,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut peer = Peer::from(accepted);
    if options.proxy_protocol == ProxyProtocol::Required {
        let header = timeout_at(handshake.deadline, proxied_address(&mut stream)).await;
        match header.unwrap_or_else(|_| Err(Failed::late())) {
            Ok(Some(told)) => {
                peer.address = told;
                span::name_proxied(told);
            }
            Ok(None) => {}
            Err(failed) => return failed.report(&shared),
        }
        rate = shared.rate(peer.address.ip());
        if !handshake.has_place(rate) || !is_worth_it(rate, &options, peer.address) {
            return;
        }
    }
    let Some(config) = options.tls.clone() else {
        return serve_placed(shared, stream, peer, Via::Tcp, rate, handshake).await;
    };
    drop(options);
    let shaken = timeout_at(handshake.deadline, shake_hands(stream, config)).await;
    match shaken.unwrap_or_else(|_| Err(Failed::late())) {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates();
            peer.certificate = chain
                .and_then(|chain| chain.first())
                .map(|certificate| Arc::from(certificate.as_ref()));
            serve_placed(shared, stream, peer, Via::Tls, rate, handshake).await;
        }
        Err(failed) => failed.report(&shared),
    }
}

/// Why a stream did not get to MQTT.
enum Failed {
    /// It ended before it had said hello, as those do who look whether somebody listens.
    Gone,
    For(Reason, String),
}

impl Failed {
    fn late() -> Failed {
        let detail = "it was silent for too long before MQTT began";
        Failed::For(Reason::HandshakeTimeout, detail.to_owned())
    }

    fn report(self, shared: &Shared) {
        match self {
            Failed::Gone => tracing::debug!("the connection was gone before it had said hello"),
            Failed::For(reason, detail) => {
                shared.with(|core, _| core.count(reason));
                tracing::info!(reason = reason.label(), "connection refused: {detail}");
            }
        }
    }
}

/// Reads a PROXY header and nothing behind it. `None`: the proxy speaks for itself, or does not know.
async fn proxied_address<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, Failed> {
    let invalid = |bad: BadHeader| {
        let detail = format!("{bad}; this listener is for a proxy that speaks the PROXY protocol, version 2");
        Failed::For(Reason::ProxyHeaderInvalid, detail)
    };
    let mut preamble = [0; PREAMBLE_BYTES];
    let mut filled = 0;
    while filled < PREAMBLE_BYTES {
        filled += match stream.read(&mut preamble[filled..]).await {
            Ok(0) | Err(_) if filled == 0 => return Err(Failed::Gone),
            Ok(0) | Err(_) => return Err(invalid(BadHeader::Malformed)),
            Ok(count) => count,
        };
        if !Preamble::may_begin_with(&preamble[..filled]) {
            return Err(invalid(BadHeader::NoHeader));
        }
    }
    let preamble = Preamble::parse(preamble).map_err(invalid)?;
    let mut rest = vec![0; preamble.rest_bytes()];
    let read = stream.read_exact(&mut rest).await;
    read.map_err(|_| invalid(BadHeader::Malformed))?;
    preamble.source(&mut rest).map_err(invalid)
}

/// The TLS handshake. The stream is on the heap: futures that hand it on hold it once.
async fn shake_hands<S>(stream: S, config: Arc<ServerConfig>) -> Result<Box<TlsStream<S>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |error: io::Error| {
        let detail = format!("the TLS handshake failed: {error}");
        Failed::For(Reason::TlsHandshakeFailed, detail)
    };
    // The state of a session is made once the client has said hello.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => failed(error),
            _ => Failed::Gone,
        })?;
    Box::pin(hello.into_stream(config))
        .await
        .map(Box::new)
        .map_err(failed)
}
