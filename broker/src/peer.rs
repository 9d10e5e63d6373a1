//! Who is at the other end of a byte stream, before it has said so itself.

use std::net::SocketAddr;
use std::sync::Arc;

/// The other end of a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from; its rate is counted by this.
    pub address: SocketAddr,
    /// The certificate that it showed, in DER, without its chain; whoever makes a `Peer` has verified it.
    pub certificate: Option<Arc<[u8]>>,
}

impl From<SocketAddr> for Peer {
    /// One that showed no certificate.
    fn from(address: SocketAddr) -> Peer {
        Peer {
            address,
            certificate: None,
        }
    }
}
