//! The link to the server: which address is tried next, when, in which version.

use crate::connection::{self, EVENTS_MAX, Ended, FRAMES_MAX, LinkEvent, Settings, ToServer};
use crate::core::backoff::Backoff;
use crate::packet::Version;
use crate::tls::Tls;
use crate::{ServerAddress, websocket};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// One attempt to connect, and the connection that it becomes. Dropped, it is cut without a good-bye.
pub(crate) struct Attempt {
    pub(crate) outgoing: mpsc::Sender<ToServer>,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) task: JoinHandle<Ended>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The addresses in turn, each with the version that its server speaks.
pub(crate) struct Addresses {
    servers: Vec<(ServerAddress, Version)>,
    next: usize,
    backoff: Backoff,
}

impl Addresses {
    pub(crate) fn new(servers: Vec<ServerAddress>, backoff: Backoff) -> Self {
        let servers = servers.into_iter().map(|server| (server, Version::V5)).collect();
        Self {
            servers,
            next: 0,
            backoff,
        }
    }

    /// The address that is to be tried.
    pub(crate) fn current(&self) -> (&ServerAddress, Version) {
        let (server, version) = &self.servers[self.next];
        (server, *version)
    }

    /// Its server does not speak the version. Returns whether there is another to try at once.
    pub(crate) fn version_refused(&mut self) -> bool {
        let version = &mut self.servers[self.next].1;
        let older = *version == Version::V5;
        *version = if older { Version::V4 } else { Version::V5 };
        older
    }

    /// It failed: the next address is tried at once, after the last one there is a pause.
    pub(crate) fn failed(&mut self, random: u64) -> Duration {
        self.next = (self.next + 1) % self.servers.len();
        if self.next == 0 {
            self.backoff.after_failure(random)
        } else {
            Duration::ZERO
        }
    }

    /// In step: this address is a good one, and the next pause is short.
    pub(crate) fn succeeded(&mut self) {
        self.backoff.reset();
    }
}

/// Starts to connect.
pub(crate) fn start(server: &ServerAddress, tls: &Arc<Tls>, settings: Settings) -> Attempt {
    let (outgoing, outgoing_receiver) = mpsc::channel(FRAMES_MAX);
    let (events_sender, events) = mpsc::channel(EVENTS_MAX);
    let (server, tls) = (server.clone(), tls.clone());
    let task = tokio::spawn(async move {
        let broken = |why: String| Ended::Broken(format!("{server}: {why}"));
        let deadline = Instant::now() + settings.connect_timeout;
        let stream = match timeout_at(deadline, connect(&server)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return broken(error.to_string()),
            Err(_) => return broken("no connection in time".to_owned()),
        };
        let line = Line {
            server: &server,
            deadline,
            settings,
            outgoing: outgoing_receiver,
            events: events_sender,
        };
        if !server.scheme.is_tls() {
            return line.speak(stream).await;
        }
        match timeout_at(deadline, tls.connect(stream, &server)).await {
            Ok(Ok(stream)) => line.speak(stream).await,
            Ok(Err(why)) => broken(why),
            Err(_) => broken("the server did not finish the TLS handshake in time".to_owned()),
        }
    });
    Attempt {
        outgoing,
        events,
        task,
    }
}

/// What is to be said on a stream, once there is one.
struct Line<'a> {
    server: &'a ServerAddress,
    deadline: Instant,
    settings: Settings,
    outgoing: mpsc::Receiver<ToServer>,
    events: mpsc::Sender<LinkEvent>,
}

impl Line<'_> {
    /// Speaks MQTT on it, within a WebSocket where the address says so.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) -> Ended {
        if !self.server.scheme.is_websocket() {
            return connection::run(stream, self.settings, self.outgoing, self.events).await;
        }
        let opened = timeout_at(self.deadline, websocket::open(stream, self.server)).await;
        match opened.unwrap_or_else(|_| Err("the server did not answer in time".to_owned())) {
            Ok(socket) => connection::run(socket, self.settings, self.outgoing, self.events).await,
            Err(why) => Ended::Broken(format!("{}: {why}", self.server)),
        }
    }
}

async fn connect(server: &ServerAddress) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    // Batches are put together here; what is written is to leave.
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tried_in_turn_with_a_pause_after_the_last() {
        let server = |host: &str| ServerAddress {
            scheme: crate::Scheme::Mqtt,
            host: host.to_owned(),
            port: 1883,
            path: String::new(),
        };
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut addresses = Addresses::new(vec![server("a"), server("b")], backoff);
        let mut tried = Vec::new();
        for _ in 0..4 {
            tried.push((
                addresses.current().0.host.clone(),
                addresses.failed(u64::MAX).as_millis(),
            ));
        }
        let expected = [("a", 0), ("b", 500), ("a", 0), ("b", 1_000)];
        assert_eq!(tried, expected.map(|(host, pause)| (host.to_owned(), pause)));
        assert!(addresses.version_refused(), "3.1.1 is tried at once");
        assert_eq!(addresses.current().1, Version::V4);
        assert!(
            !addresses.version_refused(),
            "then there is nothing left to try at once"
        );
    }
}
