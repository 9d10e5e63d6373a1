//! The listeners: HTTP/1.1 on TCP, in the clear or over TLS, with a bound on whatever a client could hold for ever.

mod handshake;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::rustls::ServerConfig;

/// How long a client may take to send the head of a request, counted from the end of the last one.
const HEADER_READ_MAX: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is being sent to it.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// How much of a request's head or of an answer is buffered for a connection.
const CONNECTION_BUFFER_BYTES: usize = 64 * 1024;
/// How long requests that are under way may go on once the server is to stop.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// How long to wait when the system has no handle left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How many connections there may be at once, on all listeners that share it; clones share it.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// So many.
    pub fn new(connections_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            connections_max.min(Semaphore::MAX_PERMITS),
        )))
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed: an error says that all are taken.
        self.0.clone().try_acquire_owned().ok()
    }
}

/// Serves until `shutdown` is true or its sender is gone; then takes no more connections, lets requests that are
/// under way finish for at most ten seconds, and returns.
///
/// Each connection takes one of the places, and so does each stream of events; a further one is answered 503 and
/// counted. What has become a WebSocket is none any more. A client has 30 seconds to send the head of a request, and 30
/// seconds to take the next bytes of an answer.
pub async fn serve(listener: TcpListener, router: Router, places: Places, shutdown: watch::Receiver<bool>) {
    listen(listener, Front::Clear, router, places, shutdown).await;
}

/// Like [`serve`], over TLS by this configuration of rustls 0.23, whose protocol is `http/1.1`. Give it a router whose state is
/// [`reached_by`](crate::ApiState::reached_by) [`Transport::Tls`](crate::Transport::Tls).
///
/// A handshake has ten seconds and one of the places, on a task of its own: a peer that is silent in it delays nobody. One that
/// fails is counted by reason.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    places: Places,
    shutdown: watch::Receiver<bool>,
) {
    listen(listener, Front::Tls(tls), router, places, shutdown).await;
}

/// What comes before HTTP.
#[derive(Clone)]
enum Front {
    Clear,
    Tls(Arc<ServerConfig>),
}

async fn listen(
    listener: TcpListener,
    front: Front,
    router: Router,
    places: Places,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match places.take() {
                Some(place) => {
                    let (front, router, shutdown) = (front.clone(), router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        meet(stream, peer, front, router, shutdown).await;
                        drop(place);
                    });
                }
                None => refuse(stream, &front),
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be taken: {error}; raise the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all_done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_MAX, all_done).await.is_err() {
        tracing::warn!(
            http.connections = connections.len(),
            "{} connections were cut at shutdown: their requests took too long",
            connections.len()
        );
    }
}

/// Ready once the server is to stop.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, and with it the server.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Lets a connection through its front, and serves it.
async fn meet(
    stream: TcpStream,
    peer: SocketAddr,
    front: Front,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) {
    // A tick must not wait for the acknowledgement of the one before it. A socket that refuses is about to fail.
    let _ = stream.set_nodelay(true);
    match front {
        Front::Clear => serve_connection(stream, peer, router, shutdown).await,
        Front::Tls(config) => {
            let shaken = tokio::select! {
                shaken = handshake::shake_hands(stream, peer, config) => shaken,
                // Nothing is under way yet.
                () = stopped(&mut shutdown) => None,
            };
            if let Some(stream) = shaken {
                serve_connection(stream, peer, router, shutdown).await;
            }
        }
    }
}

async fn serve_connection<S>(stream: S, peer: SocketAddr, router: Router, mut shutdown: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let with_address = service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Stalling::new(stream)), with_address)
        // A connection that becomes a WebSocket ends here as one of HTTP.
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early: {error}");
    }
}

/// Tells a client that speaks in the clear in one write, without waiting for it, that there is no place.
fn refuse(stream: TcpStream, front: &Front) {
    const PROBLEM: &str = concat!(
        r#"{"type":"/problems/busy","title":"The server is busy","status":503,"#,
        r#""detail":"All connections are taken. Try again in a few seconds."}"#
    );
    metrics::counter!("waypost_http_connections_refused_total", "reason" => "connections_max").increment(1);
    if let Front::Tls(_) = front {
        // A handshake is most of what a place is for; whoever finds the connection closed comes again.
        return;
    }
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{PROBLEM}",
        PROBLEM.len()
    );
    // Whoever does not get the answer finds the connection closed, which says the same.
    let _ = stream
        .into_std()
        .and_then(|mut stream| stream.write_all(answer.as_bytes()));
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// A connection that fails when its peer takes nothing for [`WRITE_STALL_MAX`]: somebody who stays connected and
/// does not read would hold a place and a buffer for ever.
struct Stalling<S> {
    stream: S,
    /// Set while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            deadline: None,
        }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_STALL_MAX)));
        ready!(deadline.as_mut().poll(cx));
        metrics::counter!("waypost_http_connections_cut_total", "reason" => "write_stall_max").increment(1);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::StreamExt;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// A server with a short answer at `/` and one at `/endless` that goes on until the server stops.
    async fn serving() -> (
        std::net::SocketAddr,
        watch::Sender<bool>,
        tokio::task::JoinHandle<()>,
    ) {
        let (stop, stopping) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut until = stopping.clone();
        let endless = async move || {
            let first = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"first"))]);
            let rest = futures_util::stream::once(async move {
                stopped(&mut until).await;
                Ok(Bytes::from_static(b"last"))
            });
            Body::from_stream(first.chain(rest))
        };
        let router = Router::new()
            .route("/", get(async || "well"))
            .route("/endless", get(endless));
        (
            address,
            stop,
            tokio::spawn(serve(listener, router, Places::new(100), stopping)),
        )
    }

    #[tokio::test]
    async fn a_server_that_stops_finishes_what_is_under_way() {
        let (address, stop, server) = serving().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        while !text.contains("first") {
            let mut piece = [0u8; 1_024];
            let length = client.read(&mut piece).await.unwrap();
            text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
        stop.send(true).unwrap();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("last"), "{text}");
        server.await.unwrap();
        assert_eq!(idle.read(&mut [0u8; 1]).await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_not_waited_for() {
        let (address, _stop, _server) = serving().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        // Taken in before time is made to pass.
        tokio::time::sleep(Duration::from_millis(50)).await;
        tokio::time::pause();
        let mut answer = String::new();
        // Closed at once or with a 408: either way there is an end.
        let ended = tokio::time::timeout(2 * HEADER_READ_MAX, client.read_to_string(&mut answer)).await;
        assert!(ended.is_ok());
        assert!(!answer.contains("well"), "{answer}");
    }

    #[tokio::test]
    async fn without_a_place_there_is_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        refuse(stream, &Front::Clear);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 5"),
            "{head}"
        );
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{head}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(body).unwrap()["type"],
            "/problems/busy"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut() {
        let (near, mut far) = duplex(4);
        let mut near = Stalling::new(near);
        near.write_all(b"1234").await.unwrap();
        let begun = Instant::now();
        let error = near.write_all(b"5").await.unwrap_err();
        assert_eq!(
            (error.kind(), begun.elapsed()),
            (io::ErrorKind::TimedOut, WRITE_STALL_MAX)
        );

        // One that takes a little from time to time is slow, not gone.
        let slow = tokio::spawn(async move {
            let mut taken = [0u8; 1];
            for _ in 0..12 {
                tokio::time::sleep(WRITE_STALL_MAX - Duration::from_secs(1)).await;
                far.read_exact(&mut taken).await.unwrap();
            }
        });
        let mut near = Stalling::new(near.stream);
        near.write_all(b"56789012").await.unwrap();
        slow.await.unwrap();
    }
}
