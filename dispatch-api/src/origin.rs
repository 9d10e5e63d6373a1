//! From where a request comes: for the audit record and the bounds on signing in.

use crate::state::Transport;
use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap};
use std::net::{IpAddr, SocketAddr};

/// The address of the client, from the other end of the connection as the listener saw it. Whoever sends `X-Forwarded-For` can write anything into it; only where a proxy stands
/// before this server is its last hop what that proxy saw.
pub(crate) fn address(transport: Transport, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| peer.ip());
    let forwarded = match transport {
        Transport::Plain | Transport::Tls => None,
        Transport::TlsOfProxy => last_hop(headers),
    };
    forwarded.or(peer).map(|address| address.to_canonical())
}

fn last_hop(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    let hop = last.to_str().ok()?.rsplit(',').next()?.trim();
    hop.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_hop_counts_and_only_behind_a_proxy() {
        let mut extensions = Extensions::new();
        let peer: SocketAddr = "[::ffff:127.0.0.1]:4711".parse().unwrap();
        extensions.insert(ConnectInfo(peer));
        for (lines, plain, behind_proxy) in [
            (&[][..], "127.0.0.1", "127.0.0.1"),
            (&["192.0.2.1"], "127.0.0.1", "192.0.2.1"),
            (&["10.0.0.1, 192.0.2.1"], "127.0.0.1", "192.0.2.1"),
            (&["10.0.0.1", "192.0.2.1"], "127.0.0.1", "192.0.2.1"),
            (&["10.0.0.1, 2001:db8::1"], "127.0.0.1", "2001:db8::1"),
            (&["192.0.2.1, unknown"], "127.0.0.1", "127.0.0.1"),
            (&[""], "127.0.0.1", "127.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let found = |transport| address(transport, &extensions, &headers).unwrap().to_string();
            assert_eq!(found(Transport::Plain), plain, "{lines:?}");
            assert_eq!(found(Transport::Tls), plain, "{lines:?}");
            assert_eq!(found(Transport::TlsOfProxy), behind_proxy, "{lines:?}");
        }
        assert_eq!(
            address(Transport::Plain, &Extensions::new(), &HeaderMap::new()),
            None
        );
    }
}
