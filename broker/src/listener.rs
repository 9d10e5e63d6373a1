//! The TCP listener: accepts, and hands each connection to a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::broker::Shared;
use crate::connection;

/// How long accepting rests after an error: without handles left, the next attempt fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the broker shuts down.
pub(crate) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let mut closing = shared.closing.subscribe();
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
                tokio::spawn(connection::serve(shared.clone(), stream, peer));
            }
            Err(error) => {
                metrics::counter!("waypost_broker_accept_errors_total").increment(1);
                tracing::warn!(%error, "accepting a connection failed; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
