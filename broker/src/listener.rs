//! The TCP listener: accepts, and hands each connection to a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_rustls::rustls::ServerConfig;

use crate::broker::Shared;
use crate::via::Via;
use crate::{connection, front};

/// How long accepting rests after an error: without handles left, the next attempt fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What comes before MQTT on each connection of a listener; by default nothing.
#[derive(Debug, Clone, Default)]
pub struct ListenerOptions {
    /// TLS, by this configuration of rustls 0.23. The certificate of a client, where the configuration asks for one, goes to
    /// [`crate::Authenticate`]. Set `send_tls13_tickets` to 1 where bytes count.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether a proxy tells the address of the client.
    pub proxy_protocol: ProxyProtocol,
}

/// Whether each connection begins with a header of the PROXY protocol, version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// None does; who sends one does not speak MQTT, or TLS.
    #[default]
    Off,
    /// Each does, before TLS, or it is closed: [`crate::Reason::ProxyHeaderInvalid`]. The address in it is the one that
    /// counts, so nobody but the proxy may reach the listener.
    Required,
}

/// Accepts connections until the broker shuts down.
pub(crate) async fn listen(shared: Arc<Shared>, listener: TcpListener, options: ListenerOptions) {
    let mut closing = shared.closing.subscribe();
    let has_front = options.tls.is_some() || options.proxy_protocol == ProxyProtocol::Required;
    let options = Arc::new(options);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // A PUBACK must not wait for the acknowledgement of the segment before it.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "the connection was gone before it was served");
                    continue;
                }
                // A socket for both families spells IPv4 as IPv6.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                if has_front {
                    tokio::spawn(front::serve(shared.clone(), stream, peer, options.clone()));
                } else {
                    tokio::spawn(connection::serve(shared.clone(), stream, peer.into(), Via::Tcp));
                }
            }
            Err(error) => {
                metrics::counter!("waypost_broker_accept_errors_total").increment(1);
                tracing::warn!(%error, "accepting a connection failed; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
