//! From an address to a stream on which MQTT can be spoken: name, TCP, TLS, WebSocket.

use crate::ServerAddress;
use crate::captive::Unreached;
use crate::race::{Answered, Pace, Trust, race};
use crate::tls::Tls;
use crate::websocket;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

/// The IP addresses of one name that are tried; a further one is as unlikely to answer.
const ENDPOINTS_MAX: usize = 6;
/// Between the addresses of one name. RFC 8305 §8 has 250 ms, and up to two seconds: a phone's first packet takes one.
const ENDPOINT_PACE: Pace = Pace {
    answer: Duration::from_secs(1),
    rest: Duration::from_secs(1),
};
/// What may wait in the system beyond what is under way: more than a packet, so that the link never waits for this process,
/// and little more, as it is old when it leaves.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 2_048;

/// A stream to the server, whatever it is made of.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Opens a stream within `timeout`, up to where a CONNECT may be said. Of the device it has told nothing yet.
///
/// # Errors
/// What is wrong and what helps, with the address before it.
pub(crate) async fn dial(
    server: ServerAddress,
    tls: Arc<Tls>,
    timeout: Duration,
    answer_timeout: Duration,
    answered: Answered,
) -> Result<Box<dyn Wire>, Unreached> {
    let deadline = Instant::now() + timeout;
    let late = |what: &str| Unreached::Broken(format!("{server}: {what}"));
    let named = |why: Unreached| match why {
        Unreached::Broken(why) => Unreached::Broken(format!("{server}: {why}")),
        captive @ Unreached::Captive(_) => captive,
    };
    let stream = timeout_at(deadline, connect(&server, answer_timeout))
        .await
        .map_err(|_| late("no connection in time"))?
        .map_err(named)?;
    answered.say();
    if !server.scheme.is_tls() {
        return upgrade(stream, &server, deadline).await.map_err(named);
    }
    let stream = timeout_at(deadline, tls.connect(stream, &server))
        .await
        .map_err(|_| late("the server did not finish the TLS handshake in time"))?
        .map_err(named)?;
    upgrade(stream, &server, deadline).await.map_err(named)
}

/// A WebSocket, where the address says so.
async fn upgrade<S: Wire + 'static>(
    stream: S,
    server: &ServerAddress,
    deadline: Instant,
) -> Result<Box<dyn Wire>, Unreached> {
    if !server.scheme.is_websocket() {
        return Ok(Box::new(stream));
    }
    match timeout_at(deadline, websocket::open(stream, server)).await {
        Ok(opened) => Ok(Box::new(opened?)),
        Err(_) => Err(Unreached::Broken("the server did not answer in time".to_owned())),
    }
}

async fn connect(server: &ServerAddress, answer_timeout: Duration) -> Result<TcpStream, Unreached> {
    let broken = |error: io::Error| Unreached::Broken(error.to_string());
    let found = lookup_host((server.host.as_str(), server.port))
        .await
        .map_err(broken)?;
    let endpoints = interleaved(found.collect());
    if endpoints.is_empty() {
        return Err(Unreached::Broken("the name has no address".to_owned()));
    }
    let ways = vec![Trust::Verified; endpoints.len()];
    let connecting = race(&ways, ENDPOINT_PACE, |endpoint, _| {
        let endpoint = endpoints[endpoint];
        async move { TcpStream::connect(endpoint).await.map_err(broken) }
    });
    let (_, stream) = connecting.await?;
    prepare(&stream, answer_timeout).map_err(broken)?;
    Ok(stream)
}

/// One of each family after the other, in the order of the system otherwise. [RFC 8305 §4]
fn interleaved(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(is_first) = found.first().map(SocketAddr::is_ipv6) else {
        return found;
    };
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|at| at.is_ipv6() == is_first);
    let mut second = second.into_iter();
    let mut ordered: Vec<SocketAddr> = Vec::new();
    for at in first {
        ordered.push(at);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered.truncate(ENDPOINTS_MAX);
    ordered
}

/// What is written is to leave, and what cannot leave is not to be taken: while it is here, what is newer replaces it.
///
/// And the other end has to acknowledge what it gets, also where MQTT has no answer to it: the system repeats it anyway, so that
/// it finds a dead connection without a byte. Where a box on the way acknowledges for the server, a ping finds it.
fn prepare(stream: &TcpStream, answer_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(answer_timeout))?;
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = answer_timeout;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_name_are_tried_one_family_after_the_other() {
        let all = |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|at| at.parse().unwrap()).collect() };
        let found = all(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1"]);
        let ordered = all(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(interleaved(found), ordered);
        let found: Vec<SocketAddr> = (0..9).map(|n| SocketAddr::from(([1, 0, 0, n], 1))).collect();
        assert_eq!(interleaved(found.clone()), found[..ENDPOINTS_MAX]);
        assert_eq!(interleaved(Vec::new()), []);
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn the_system_takes_little_ahead_and_gives_a_dead_connection_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, Duration::from_secs(20)).unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
        assert!(stream.nodelay().unwrap());
    }
}
