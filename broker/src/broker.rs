//! The handle of a broker, and the one lock around its core.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::auth::{Authenticate, Authorise, Principal};
use crate::clock::{self, Armed};
use crate::connection;
use crate::core::{Core, Wake};
use crate::front;
use crate::limits::{Limits, LinkLimits};
use crate::link::{self, LinkReceiver, LinkSender};
use crate::listener::{self, ListenerOptions};
use crate::peer::Peer;
use crate::rate::{ConnectionRates, Rate};
use crate::reason::Reason;
use crate::signal::Signal;
use crate::stats::Stats;
use crate::sys::Sys;
use crate::telemetry::Telemetry;
use crate::traffic::Traffic;
use crate::via::{Via, Ways};

/// Bytes of messages that go to each client before the goodbye.
const LAST_BYTES_MAX: usize = 64 * 1024;

/// A broker. Clones are handles to the same one; it lives as long as a handle, a link or a connection does.
///
/// Closures that are passed in run inside the broker's lock: they must not wait, and must not call the broker.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

impl Broker {
    /// A broker without listeners and links. Install the recorder of the `metrics` facade before.
    pub fn new(limits: Limits, authenticate: Arc<dyn Authenticate>, authorise: Arc<dyn Authorise>) -> Broker {
        let core = Core::new(limits.clone(), authorise);
        let telemetry = Telemetry::new(core.counters());
        let rates = ConnectionRates::new(&limits);
        Broker {
            shared: Arc::new(Shared {
                limits,
                authenticate,
                state: Mutex::new(State {
                    core,
                    connections: BTreeMap::new(),
                    links: BTreeMap::new(),
                    telemetry,
                    armed: Armed::default(),
                }),
                clock: Arc::new(Signal::default()),
                clock_runs: AtomicBool::new(false),
                handshakes: AtomicUsize::new(0),
                traffic: Traffic::default(),
                ways: Ways::new(),
                rates: Mutex::new(rates),
                closing: watch::Sender::new(false),
                released: Notify::new(),
                assigned: AtomicU64::new(0),
                assigned_hash: RandomState::new(),
            }),
        }
    }

    /// Speaks MQTT over a byte stream until one side ends it; spawn the future that it returns. `peer`, an address or a
    /// [`Peer`], goes to [`Authenticate`] and the logs, and its rate is counted. The stream should not hold small writes back. Where there is no
    /// place for it, it is closed before this returns, and the future has nothing to do.
    pub fn serve_connection<S, P>(&self, stream: S, peer: P) -> impl Future<Output = ()> + Send + use<S, P>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        P: Into<Peer>,
    {
        connection::serve(self.shared.clone(), stream, peer.into(), Via::Handed)
    }

    /// Accepts connections, each on a task of its own, until [`Broker::shutdown`]. An error of accept (no handles left)
    /// pauses it for a moment.
    pub async fn listen_tcp(self, listener: TcpListener) {
        self.listen(listener, ListenerOptions::default()).await;
    }

    /// Like [`Broker::listen_tcp`], with what comes before MQTT on each connection: a PROXY header, TLS, or both. All of it has
    /// the place and the time of a handshake ([`Limits::handshakes_max`], [`Limits::handshake_timeout`]), on the connection's
    /// own task: a peer that is silent in it delays nobody.
    pub async fn listen(self, listener: TcpListener, options: ListenerOptions) {
        listener::listen(self.shared, listener, options).await;
    }

    /// Serves one connection that a listener of another kind has accepted, like those of [`Broker::listen`]; spawn the future
    /// that it returns. `accepted` is the address that it came from, which is that of the proxy where there is one.
    pub fn serve_accepted<S>(
        &self,
        stream: S,
        accepted: SocketAddr,
        options: Arc<ListenerOptions>,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        front::serve(self.shared.clone(), stream, accepted, options)
    }

    /// Publishes what the broker has counted on `$SYS/broker/…`, retained, each time that `every` is over and as far as it has
    /// changed, until [`Broker::quiesce`] or [`Broker::shutdown`]; spawn the future. Who may read it is for [`Authorise`] to say.
    /// It counts against no bound of retained messages.
    ///
    /// # Panics
    /// When `every` is zero.
    pub async fn publish_sys(self, every: Duration) {
        let mut closing = self.shared.closing.subscribe();
        let begun = tokio::time::Instant::now();
        let mut due = tokio::time::interval(every);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sys = Sys::default();
        loop {
            tokio::select! {
                _ = due.tick() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            for (topic, value) in sys.changes(&self.stats(), begun.elapsed()) {
                let told = self
                    .shared
                    .with(|core, now| core.publish_system(&topic, value.clone(), now));
                if told {
                    sys.told(topic, value);
                }
            }
        }
    }

    /// Opens an in-process link. It ends when its receiver is dropped.
    pub fn link(&self, name: impl Into<Arc<str>>, limits: LinkLimits) -> (LinkSender, LinkReceiver) {
        link::open(&self.shared, name.into(), limits)
    }

    /// Ends the live sessions of every principal for which `whose` holds, before anything else is sent to them; how many
    /// there were. `reason` goes into the DISCONNECT of MQTT 5; their wills are published.
    pub fn disconnect(&self, whose: impl Fn(&Principal) -> bool, reason: Reason) -> usize {
        self.shared.with(|core, now| core.disconnect(whose, reason, now))
    }

    /// Ends those live subscriptions of every principal for which `whose` and `which` hold, before anything else is sent on
    /// them; how many there were. `which` is asked about `F` for `$share/group/F`, and about the topics of what waits for them:
    /// a filter that a client gave up by itself may have left something behind.
    pub fn revoke_subscriptions(
        &self,
        whose: impl Fn(&Principal) -> bool,
        which: impl Fn(&str) -> bool,
    ) -> usize {
        self.shared
            .with(|core, _| core.revoke_subscriptions(whose, which))
    }

    /// What the broker holds and has counted. Metrics, which may be a moment behind otherwise, say the same after this.
    pub fn stats(&self) -> Stats {
        let now = tokio::time::Instant::now().into_std();
        let (bytes_received, bytes_sent) = self.shared.traffic.bytes();
        let mut state = self.shared.lock();
        let State { core, telemetry, .. } = &mut *state;
        telemetry.tell(core, &self.shared.traffic, now);
        Stats {
            bytes_received,
            bytes_sent,
            ..core.stats()
        }
    }

    /// Stops the listeners, refuses whoever still connects with 0x8B, and takes no further message from clients: those that
    /// they send wait unacknowledged. What was taken is delivered, links go on, and nobody is told yet; an embedder that puts
    /// away what links have received does it between this and [`Broker::shutdown`].
    pub fn quiesce(&self) {
        self.shared.closing.send_replace(true);
        self.shared.with(|core, _| core.quiesce());
    }

    /// Stops the listeners, tells every client (MQTT 5: DISCONNECT 0x8B, behind up to 64 kB of what waits for it), and waits
    /// until their last bytes are out, at most [`Limits::close_timeout`]. Links stay open.
    pub async fn shutdown(&self) {
        self.shared.closing.send_replace(true);
        self.shared.with(|core, now| core.shut_down(LAST_BYTES_MAX, now));
        let all_released = async {
            loop {
                let released = self.shared.released.notified();
                if self.shared.with(|core, _| core.is_empty()) {
                    return;
                }
                released.await;
            }
        };
        if tokio::time::timeout(self.shared.limits.close_timeout, all_released)
            .await
            .is_err()
        {
            tracing::warn!("shut down with connections that did not take their last bytes in time");
        }
    }
}

/// What every task of one broker shares.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) authenticate: Arc<dyn Authenticate>,
    /// Byte streams that have not finished their CONNECT.
    pub(crate) handshakes: AtomicUsize,
    pub(crate) traffic: Traffic,
    pub(crate) ways: Ways,
    pub(crate) closing: watch::Sender<bool>,
    rates: Mutex<ConnectionRates>,
    released: Notify,
    /// Wakes the clock.
    clock: Arc<Signal>,
    clock_runs: AtomicBool,
    state: Mutex<State>,
    assigned: AtomicU64,
    assigned_hash: RandomState,
}

struct State {
    core: Core,
    connections: BTreeMap<usize, Arc<Signal>>,
    links: BTreeMap<usize, Arc<Signal>>,
    telemetry: Telemetry,
    armed: Armed,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.clock.raise();
    }
}

impl Shared {
    /// Sees to it that the clock runs; called where there is a runtime, when the first connection comes.
    pub(crate) fn start_clock(self: &Arc<Self>) {
        if !self.clock_runs.swap(true, Ordering::Relaxed) {
            tokio::spawn(clock::run(Arc::downgrade(self), self.clock.clone()));
        }
    }

    /// Has done what is due by now; when there will be more.
    pub(crate) fn do_what_is_due(&self) -> Option<Instant> {
        self.with(|core, now| core.handle_due(now));
        let mut state = self.lock();
        let next = state.core.next_due();
        state.armed.set(next);
        next
    }

    /// Runs one batch of verbs under the lock, and wakes whoever has something to take when it is free again.
    pub(crate) fn with<R>(&self, verbs: impl FnOnce(&mut Core, Instant) -> R) -> R {
        let now = tokio::time::Instant::now().into_std();
        let mut signals = Vec::new();
        let result = {
            let mut state = self.lock();
            let result = verbs(&mut state.core, now);
            state.settle(&mut signals);
            let State { core, telemetry, .. } = &mut *state;
            telemetry.tell_when_due(core, &self.traffic, now);
            let next = state.core.next_due();
            if state.armed.is_late_for(next) {
                signals.push(self.clock.clone());
            }
            result
        };
        for signal in signals {
            signal.raise();
        }
        result
    }

    /// Whether a connection from this address is one too many; one that is, is counted.
    pub(crate) fn rate(&self, address: IpAddr) -> Rate {
        let now = tokio::time::Instant::now().into_std();
        // A panic under this lock is a bug of this crate; the others are served on.
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rates.take(address, now);
        drop(rates);
        if rate == Rate::Over {
            self.with(|core, _| core.count(Reason::ConnectionRate));
        }
        rate
    }

    /// Lets a connection be woken.
    pub(crate) fn attach_connection(&self, key: usize, signal: Arc<Signal>) {
        self.lock().connections.insert(key, signal);
    }

    /// Gives back the slot of a connection that is gone.
    pub(crate) fn release_connection(&self, key: usize) {
        self.lock().connections.remove(&key);
        self.with(|core, now| core.release(key, now));
        self.released.notify_waiters();
    }

    /// Lets a link's receiver be woken.
    pub(crate) fn attach_link(&self, key: usize, signal: Arc<Signal>) {
        self.lock().links.insert(key, signal);
    }

    /// Gives back the slot of a link that nobody holds any more.
    pub(crate) fn release_link(&self, key: usize) {
        self.lock().links.remove(&key);
        self.with(|core, _| core.release_link(key));
    }

    /// A client identifier that nobody can foretell.
    pub(crate) fn assign_client_id(&self) -> String {
        let number = self.assigned.fetch_add(1, Ordering::Relaxed);
        format!("auto-{number}-{:016x}", self.assigned_hash.hash_one(number))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic under the lock is a bug of this crate or of the embedder's `Authorise`; the others are served on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, signals: &mut Vec<Arc<Signal>>) {
        while let Some(wake) = self.core.poll_wake() {
            let signal = match wake {
                Wake::Connection(key) => self.connections.get(&key),
                Wake::Link(key) => self.links.get(&key),
            };
            signals.extend(signal.cloned());
        }
    }
}
