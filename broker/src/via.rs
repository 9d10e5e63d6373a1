//! By which way a byte stream came in, for the log and for metrics.

use metrics::{Counter, Gauge};

/// The way of a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// A listener without TLS.
    Tcp,
    /// A listener with TLS.
    Tls,
    /// Handed over by the embedder, as what a WebSocket carries.
    Handed,
}

impl Via {
    const ALL: [Via; 3] = [Via::Tcp, Via::Tls, Via::Handed];

    /// The label in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Via::Tcp => "tcp",
            Via::Tls => "tls",
            Via::Handed => "handed",
        }
    }
}

/// Connected clients by the way that they came.
pub(crate) struct Ways {
    live: [Gauge; Via::ALL.len()],
    connects: [Counter; Via::ALL.len()],
}

impl Ways {
    pub(crate) fn new() -> Ways {
        Ways {
            live: Via::ALL
                .map(|via| metrics::gauge!("waypost_broker_listener_connections", "listener" => via.label())),
            connects: Via::ALL.map(
                |via| metrics::counter!("waypost_broker_listener_connects_total", "listener" => via.label()),
            ),
        }
    }

    /// A client was let in.
    pub(crate) fn came(&self, via: Via) {
        self.live[via as usize].increment(1.0);
        self.connects[via as usize].increment(1);
    }

    /// It is gone.
    pub(crate) fn went(&self, via: Via) {
        self.live[via as usize].decrement(1.0);
    }
}
