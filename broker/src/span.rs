//! The span of a connection, so that each line of the log about it says whose it is.
//!
//! It names the other end, also the one behind a proxy that says so, the listener, and the client and its principal once they
//! are known. What clients say of themselves is cut short, and written as text in quotes, so that nobody writes lines of
//! their own.

use std::net::SocketAddr;

use tracing::Span;
use tracing::field::Empty;

use crate::auth::Principal;
use crate::via::Via;

/// Bytes of a name that are shown.
const NAME_BYTES_MAX: usize = 64;

/// The span of a connection that begins.
pub(crate) fn begin(peer: SocketAddr, via: Via) -> Span {
    tracing::info_span!(
        "connection",
        %peer,
        listener = via.label(),
        proxied.peer = Empty,
        client.id = Empty,
        principal = Empty
    )
}

/// From now on the span that this runs in names the address for which a proxy speaks.
pub(crate) fn name_proxied(peer: SocketAddr) {
    Span::current().record("proxied.peer", tracing::field::display(peer));
}

/// From now on the span that this runs in names the client as it calls itself.
pub(crate) fn name_client(client_id: &str) {
    Span::current().record("client.id", shown(client_id));
}

/// From now on the span that this runs in names the principal as well.
pub(crate) fn name_principal(principal: &Principal) {
    Span::current().record("principal", shown(&principal.name));
}

fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}
