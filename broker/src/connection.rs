//! One connection, from its first byte to its last, on one task.
//!
//! Bytes are read into a buffer of the thread and taken apart outside the lock; one lock serves a batch of packets and
//! takes the output they led to; the output goes out in one write. A connection that is idle holds no buffer at all. Nothing is
//! read from a client while much output for it is unsent, or while a packet of it waits for room on a link.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout, timeout_at};
use tracing::Instrument;

use crate::auth::ConnectAttempt;
use crate::broker::Shared;
use crate::core::decode::{BadConnect, Decoder, read_connect};
use crate::core::encode::{Encoder, Wanted, refusal};
use crate::core::packet::{Connect, Packet};
use crate::core::{ClientIdFrom, Handled};
use crate::peer::Peer;
use crate::rate::Rate;
use crate::reason::Reason;
use crate::signal::Signal;
use crate::span;
use crate::via::Via;

/// Bytes that are read at once, into a buffer that all connections of a thread share.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of messages that are taken from the core at once.
const WRITE_BYTES: usize = 64 * 1024;
/// Unsent bytes over which a client is not read any more.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Packets that are handled under one lock.
const PACKETS_AT_ONCE: usize = 256;

/// The type of a PUBLISH packet.
const PUBLISH: u8 = 3;

thread_local! {
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Serves one byte stream until it ends. Whether there is a place for it is decided before this returns, and a stream without
/// one is gone by then: however many come at once, those that wait to be looked at hold no handle.
pub(crate) fn serve<S>(
    shared: Arc<Shared>,
    stream: S,
    peer: Peer,
    via: Via,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let rate = shared.rate(peer.address.ip());
    let address = peer.address;
    let placed = Handshake::begin(&shared, address, rate).map(|handshake| {
        serve_placed(shared, stream, peer, via, rate, handshake).instrument(span::begin(address, via))
    });
    // Not awaited in a block of its own, which would hold it twice.
    OptionFuture::from(placed).map(drop)
}

/// Serves a stream that has a place, from its CONNECT on.
pub(crate) async fn serve_placed<S>(
    shared: Arc<Shared>,
    mut stream: S,
    peer: Peer,
    via: Via,
    rate: Rate,
    handshake: Handshake,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    shared.start_clock();
    let mut input = BytesMut::new();
    let first = first_packet(&shared, &mut stream, &mut input);
    let first = timeout_at(handshake.deadline, first).await;
    let Peer { address, certificate } = peer;
    let admitted = match first {
        Ok(Ok(Some(connect))) if rate == Rate::Within => {
            admit(&shared, connect, address, certificate.as_deref())
        }
        Ok(Ok(Some(connect))) => Err(BadConnect {
            reason: Reason::ConnectionRate,
            answer: Some(connect.version),
            packet_bytes_max: connect.packet_bytes_max,
        }),
        Ok(Ok(None)) => return,
        Ok(Err(bad)) => {
            shared.with(|core, _| core.count(bad.reason));
            Err(bad)
        }
        Err(_) => {
            shared.with(|core, _| core.count(Reason::HandshakeTimeout));
            Err(BadConnect {
                reason: Reason::HandshakeTimeout,
                answer: None,
                packet_bytes_max: None,
            })
        }
    };
    match admitted {
        Ok(admitted) => {
            drop(handshake);
            Connection::new(shared, stream, input, admitted, via).run().await;
        }
        Err(BadConnect {
            reason,
            answer,
            packet_bytes_max,
        }) => {
            tracing::info!(reason = reason.label(), "connection refused");
            let answer = answer
                .map(|version| refusal(version, reason, packet_bytes_max))
                .unwrap_or_default();
            let said_goodbye = async {
                // A peer that is gone already needs no answer.
                if stream.write_all(&answer).await.is_ok() {
                    linger(&mut stream).await;
                }
            };
            // Whether it took the answer in time changes nothing for anybody else.
            let _ = timeout(shared.limits.close_timeout, said_goodbye).await;
        }
    }
}

/// A place among the connections that have not finished their CONNECT.
pub(crate) struct Handshake {
    shared: Arc<Shared>,
    /// When all that comes before a session has to be over.
    pub(crate) deadline: tokio::time::Instant,
}

impl Handshake {
    /// `None`, and counted, where there is no place: the stream is to be closed unanswered.
    pub(crate) fn begin(shared: &Arc<Shared>, peer: SocketAddr, rate: Rate) -> Option<Handshake> {
        let handshake = Handshake {
            shared: shared.clone(),
            deadline: tokio::time::Instant::now() + shared.limits.handshake_timeout,
        };
        let before = shared.handshakes.fetch_add(1, Ordering::Relaxed);
        if before < handshake.places(rate) {
            return Some(handshake);
        }
        if rate == Rate::Within {
            shared.with(|core, _| core.count(Reason::HandshakeLimit));
        }
        tracing::debug!(%peer, ?rate, "closed unanswered: too many connections without a CONNECT");
        None
    }

    /// Those over their rate are told so in half of the places; the other half is for everybody else.
    fn places(&self, rate: Rate) -> usize {
        match rate {
            Rate::Within => self.shared.limits.handshakes_max,
            Rate::Over => self.shared.limits.handshakes_max / 2,
        }
    }

    /// Whether it would have had a place with this rate, which was not known when it began.
    pub(crate) fn has_place(&self, rate: Rate) -> bool {
        self.shared.handshakes.load(Ordering::Relaxed) <= self.places(rate)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.shared.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads until the CONNECT is there; `None` where the stream ends before.
async fn first_packet<S: AsyncRead + Unpin>(
    shared: &Shared,
    stream: &mut S,
    input: &mut BytesMut,
) -> Result<Option<Connect>, BadConnect> {
    loop {
        if let Some(connect) = read_connect(input, &shared.limits)? {
            return Ok(Some(connect));
        }
        match poll_fn(|context| poll_read(stream, context, input)).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Ok(None),
        }
    }
}

/// A client that was let in.
struct Admitted {
    key: usize,
    signal: Arc<Signal>,
    decoder: Decoder,
    encoder: Encoder,
}

/// Asks the embedder and the core whether the client may come in.
fn admit(
    shared: &Shared,
    mut connect: Connect,
    peer: SocketAddr,
    certificate: Option<&[u8]>,
) -> Result<Admitted, BadConnect> {
    let wanted = Wanted::by(&connect);
    let version = wanted.version;
    let refuse = |reason| BadConnect {
        reason,
        answer: Some(version),
        packet_bytes_max: wanted.packet_bytes_max,
    };
    let client_id_from = if connect.client_id.is_empty() {
        ClientIdFrom::Server
    } else {
        ClientIdFrom::Client
    };
    if client_id_from == ClientIdFrom::Server {
        // [MQTT-3.1.3-8] of 3.1.1: without an identifier only a clean session; 5 learns the one it is given.
        if version == crate::core::message::Version::V311 && !connect.clean_start {
            shared.with(|core, _| core.count(Reason::ClientIdInvalid));
            return Err(refuse(Reason::ClientIdInvalid));
        }
        connect.client_id = shared.assign_client_id();
    }
    span::name_client(&connect.client_id);
    let attempt = ConnectAttempt {
        client_id: &connect.client_id,
        client_id_assigned: client_id_from == ClientIdFrom::Server,
        username: connect.username.as_deref(),
        password: connect.password.as_deref(),
        certificate,
        peer,
    };
    let principal = shared.authenticate.authenticate(&attempt).map_err(|refusal| {
        let reason = Reason::from(refusal);
        shared.with(|core, _| core.count(reason));
        refuse(reason)
    })?;
    span::name_principal(&principal);
    connect.password = None;
    let signal = Arc::new(Signal::default());
    let key = shared
        .with(|core, now| core.connect(connect, principal, client_id_from, now))
        .map_err(refuse)?;
    shared.attach_connection(key, signal.clone());
    // The first turn of the connection takes what came between the two locks.
    Ok(Admitted {
        key,
        signal,
        decoder: Decoder::new(version, &shared.limits),
        encoder: Encoder::new(wanted, &shared.limits),
    })
}

/// Gives the slot back however the task ends.
struct Slot {
    shared: Arc<Shared>,
    key: usize,
    via: Via,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.ways.went(self.via);
        self.shared.release_connection(self.key);
    }
}

/// A client that was let in, and its stream.
struct Connection<S> {
    slot: Slot,
    stream: S,
    signal: Arc<Signal>,
    decoder: Decoder,
    encoder: Encoder,
    /// Read and not taken apart.
    input: BytesMut,
    /// Taken apart and not handled: more than empty only while a packet waits for room on a link.
    inbox: VecDeque<Packet>,
    /// To be written.
    output: BytesMut,
    /// Written and not flushed.
    unflushed: bool,
    /// There are whole packets in the input that had no place in the inbox.
    more_input: bool,
    /// What stands at the front of the input is not a packet; the session ends once the inbox is handled.
    unreadable: Option<Reason>,
    /// A packet waits for room on a link.
    paused: bool,
    ended: Option<Reason>,
    deadline: Option<Instant>,
}

/// Why a connection went on.
enum Wake {
    /// Bytes came, or bytes went, or the core has something.
    Work,
    /// The keep-alive may have run out.
    Deadline,
    /// The stream is at its end.
    Lost,
}

/// What is left to do after a turn.
#[derive(PartialEq, Eq)]
enum Turn {
    /// Another turn, at once.
    Again,
    /// Something has to happen first.
    Wait,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(shared: Arc<Shared>, stream: S, input: BytesMut, admitted: Admitted, via: Via) -> Connection<S> {
        tracing::info!("connected");
        shared.ways.came(via);
        Connection {
            slot: Slot {
                shared,
                key: admitted.key,
                via,
            },
            stream,
            signal: admitted.signal,
            decoder: admitted.decoder,
            encoder: admitted.encoder,
            input,
            inbox: VecDeque::new(),
            output: BytesMut::new(),
            unflushed: false,
            more_input: false,
            unreadable: None,
            paused: false,
            ended: None,
            deadline: None,
        }
    }

    async fn run(mut self) {
        let timer = sleep_until(tokio::time::Instant::now());
        tokio::pin!(timer);
        let mut armed = None;
        while self.ended.is_none() {
            let turn = self.turn();
            if armed.is_none()
                && let Some(deadline) = self.deadline
            {
                timer.as_mut().reset(deadline.into());
                armed = Some(deadline);
            }
            if self.ended.is_some() {
                break;
            }
            let wake = poll_fn(|context| {
                let wake = self.poll_wake(context, armed.is_some().then_some(timer.as_mut()));
                if turn == Turn::Again && wake.is_pending() {
                    Poll::Ready(Wake::Work)
                } else {
                    wake
                }
            })
            .await;
            match wake {
                // What others have asked for by now counts for what is published here: a client that subscribes and then has
                // another one publish need not wait for its SUBACK, however busy the machine is.
                Wake::Work if self.input.first().is_some_and(|first| first >> 4 == PUBLISH) => {
                    tokio::task::yield_now().await;
                }
                Wake::Work => {}
                Wake::Deadline => {
                    // The deadline has moved on with every packet since the timer was set.
                    armed = None;
                    let key = self.slot.key;
                    self.slot.shared.with(|core, now| core.handle_timeout(key, now));
                }
                Wake::Lost => {
                    let key = self.slot.key;
                    self.slot
                        .shared
                        .with(|core, now| core.fail(key, Reason::ConnectionLost, now));
                }
            }
            tokio::task::coop::consume_budget().await;
        }
        self.close().await;
    }

    /// Takes apart what was read, has it handled, and takes what is to be written.
    fn turn(&mut self) -> Turn {
        self.take_apart();
        let key = self.slot.key;
        let mut outputs = Vec::new();
        let bytes_max = WRITE_BYTES.saturating_sub(self.output.len());
        let (inbox, paused, unreadable) = (&mut self.inbox, &mut self.paused, self.unreadable);
        let (drained, deadline, now) = self.slot.shared.with(|core, now| {
            *paused = false;
            while let Some(packet) = inbox.pop_front() {
                match core.handle(key, packet, now) {
                    Handled::Done => {}
                    Handled::Paused(packet) => {
                        inbox.push_front(packet);
                        *paused = true;
                        break;
                    }
                    Handled::Ended => inbox.clear(),
                }
            }
            if let (Some(reason), false) = (unreadable, *paused) {
                core.fail(key, reason, now);
            }
            (
                core.drain(key, bytes_max, now, &mut outputs),
                core.deadline(key),
                now,
            )
        });
        for output in &outputs {
            self.encoder.write(output, now, &mut self.output);
        }
        if self.inbox.is_empty() {
            self.inbox = VecDeque::new();
        }
        self.ended = drained.ended;
        self.deadline = deadline;
        let more_input = self.more_input && !self.paused;
        let more_output = drained.more && self.output.is_empty();
        if more_input || more_output {
            Turn::Again
        } else {
            Turn::Wait
        }
    }

    /// Moves packets from the input to the inbox, up to one that cannot be read.
    fn take_apart(&mut self) {
        self.more_input = false;
        if self.paused || self.unreadable.is_some() {
            return;
        }
        while !self.input.is_empty() {
            if self.inbox.len() >= PACKETS_AT_ONCE {
                self.more_input = true;
                return;
            }
            match self.decoder.read(&mut self.input) {
                Ok(Some(packet)) => self.inbox.push_back(packet),
                Ok(None) => return,
                Err(reason) => {
                    self.unreadable = Some(reason);
                    return;
                }
            }
        }
        self.input = BytesMut::new();
    }

    /// Writes what can be written, reads what can be read, and says when there is something to do.
    fn poll_wake(&mut self, context: &mut Context<'_>, timer: Option<Pin<&mut Sleep>>) -> Poll<Wake> {
        let mut work = false;
        match self.poll_write(context) {
            Poll::Ready(Ok(wrote)) => work |= wrote,
            Poll::Ready(Err(_)) => return Poll::Ready(Wake::Lost),
            Poll::Pending => {}
        }
        // What was read is handled before the end of the stream can be seen.
        let may_read = !self.paused
            && !self.more_input
            && self.unreadable.is_none()
            && self.output.len() < UNSENT_BYTES_MAX;
        if may_read {
            match poll_read(&mut self.stream, context, &mut self.input) {
                Poll::Ready(Ok(count @ 1..)) => {
                    self.slot.shared.traffic.received(count);
                    work = true;
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Wake::Lost),
                Poll::Pending => {}
            }
        }
        work |= self.signal.poll(context).is_ready();
        if work {
            return Poll::Ready(Wake::Work);
        }
        match timer.map(|timer| timer.poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Wake::Deadline),
            _ => Poll::Pending,
        }
    }

    /// Writes and flushes; `true` when everything went out just now.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.output.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(false));
        }
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => {
                    self.output.advance(count);
                    self.slot.shared.traffic.sent(count);
                    self.unflushed = true;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        self.output = BytesMut::new();
        match Pin::new(&mut self.stream).poll_flush(context)? {
            Poll::Ready(()) => {
                self.unflushed = false;
                Poll::Ready(Ok(true))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Lets the client take its last bytes, for a while, and gives the slot back.
    async fn close(mut self) {
        let reason = self.ended.unwrap_or(Reason::ConnectionLost);
        tracing::info!(reason = reason.label(), "disconnected");
        if reason == Reason::ConnectionLost {
            return;
        }
        self.slot.shared.traffic.sent(self.output.len());
        let output = std::mem::take(&mut self.output);
        let stream = &mut self.stream;
        let said_goodbye = async {
            // Where the peer is gone there is nobody to say it to.
            if stream.write_all(&output).await.is_ok() {
                match reason {
                    // It has said its last word; a stream that has a goodbye of its own answers with it.
                    Reason::ClientDisconnected => drop(stream.shutdown().await),
                    _ => linger(stream).await,
                }
            }
        };
        // A peer that does not take it in time is cut.
        let _ = timeout(self.slot.shared.limits.close_timeout, said_goodbye).await;
    }
}

/// Says that nothing more comes, and reads until the peer agrees: closing a socket with unread bytes would reset it, and the
/// reset would overtake the last packet.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 512];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

/// Appends what can be read to `input`; zero at the end of the stream. The buffer that it is read into belongs to the thread,
/// so that waiting for bytes costs no memory.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut buffer = READ_BUFFER
        .take()
        .unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
    let mut read = ReadBuf::new(&mut buffer);
    let polled = Pin::new(stream).poll_read(context, &mut read);
    let filled = read.filled().len();
    input.extend_from_slice(read.filled());
    READ_BUFFER.set(Some(buffer));
    polled.map_ok(|()| filled)
}
