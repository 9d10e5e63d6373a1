//! A WebSocket as a stream of bytes, for a protocol that brings packets of its own.
//!
//! What is written goes out in binary messages of one frame. Pings are answered while the stream is read, and a close from
//! either side is answered and waited for, for a few seconds. A socket on which nothing is under way holds no buffer.

mod frames;

#[cfg(test)]
pub(crate) use frames::tests::masked;

use bytes::{Buf, BufMut, BytesMut};
use frames::{BINARY, CLOSE, End, Frames, PONG, Violation};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The payload of one frame to a client; what is written beyond it waits for the socket. A socket holds at most this
/// unsent, a pong, and a close.
const WRITTEN_AT_ONCE_MAX: usize = 64 * 1024;
/// How long a client may take to read why the socket is closed, and to agree.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Status of a close without a fault.
const NORMAL: u16 = 1000;

/// A WebSocket after its handshake, on the server's side.
///
/// Reading ends at the client's close frame, with an error where the client broke the rules; it has been told which by then.
/// Shutting down sends a close frame and leaves the stream readable, so that the client's answer can be waited for.
#[derive(Debug)]
pub(crate) struct ByteStream<S> {
    stream: S,
    frames: Frames,
    /// Whole frames that the socket has not taken yet.
    unsent: BytesMut,
    unflushed: bool,
    close_sent: bool,
    ending: Option<Ending>,
}

/// The last moments of a socket.
#[derive(Debug)]
struct Ending {
    end: End,
    deadline: Pin<Box<Sleep>>,
    half_closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            unsent: BytesMut::new(),
            unflushed: false,
            close_sent: false,
            ending: None,
        }
    }

    /// Sends what waits; ready when nothing does.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.unsent.is_empty() {
                // [RFC 6455 §5.5.1] nothing follows a close.
                match self.frames.unanswered_ping.take() {
                    Some(ping) if !self.close_sent => self.push(PONG, &ping),
                    _ => break,
                }
            }
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(count);
            self.unflushed = true;
        }
        self.unsent = BytesMut::new();
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues one whole frame, not masked: a server does not [RFC 6455 §5.1].
    fn push(&mut self, opcode: u8, payload: &[u8]) {
        self.unsent.put_u8(0x80 | opcode);
        match payload.len() {
            length @ 0..126 => self.unsent.put_u8(length as u8),
            length @ 126..65_536 => {
                self.unsent.put_u8(126);
                self.unsent.put_u16(length as u16);
            }
            length => {
                self.unsent.put_u8(127);
                self.unsent.put_u64(length as u64);
            }
        }
        self.unsent.put_slice(payload);
    }

    fn push_close(&mut self, status: u16) {
        if !self.close_sent {
            self.close_sent = true;
            self.push(CLOSE, &status.to_be_bytes());
        }
    }

    fn begin_to_end(&mut self, end: End) {
        let status = match end {
            End::Closed => NORMAL,
            End::Violation(violation) => {
                metrics::counter!("waypost_http_mqtt_sockets_ended_total", "reason" => violation.label())
                    .increment(1);
                violation.status()
            }
        };
        self.push_close(status);
        self.ending = Some(Ending {
            end,
            deadline: Box::pin(tokio::time::sleep(CLOSE_MAX)),
            half_closed: false,
        });
    }

    /// Lets the close frame go out, and after a violation waits until the client has it: closing a socket with unread bytes
    /// would reset it, and the reset would overtake the frame.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.poll_send(cx);
        let Some(ending) = &mut self.ending else {
            return Poll::Ready(Ok(()));
        };
        let outcome = match ending.end {
            End::Closed => Ok(()),
            End::Violation(violation) => Err(broken(violation)),
        };
        if ending.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(outcome);
        }
        if ready!(sent).is_err() || ending.end == End::Closed {
            return Poll::Ready(outcome);
        }
        if !ending.half_closed {
            // Whoever is gone cannot be told.
            let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            ending.half_closed = true;
        }
        loop {
            let mut rest = [0; 512];
            let mut rest = ReadBuf::new(&mut rest);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest)) {
                Ok(()) if !rest.filled().is_empty() => {}
                _ => return Poll::Ready(outcome),
            }
        }
    }
}

fn broken(violation: Violation) -> io::Error {
    let what = match violation {
        Violation::Malformed => "a frame that WebSocket does not have",
        Violation::Text => "a text message",
        Violation::TooLarge => "a frame over the bound",
    };
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while buffer.remaining() > 0 {
            if this.ending.is_some() {
                return this.poll_end(cx);
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            let (payload, end) = this.frames.take_in(&mut buffer.filled_mut()[before..]);
            buffer.set_filled(before + payload);
            if let Some(end) = end {
                this.begin_to_end(end);
            }
            // A pong waits for the socket and for nothing else.
            if let Poll::Ready(sent) = this.poll_send(cx) {
                sent?;
            }
            if payload > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ByteStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_send(cx))?;
        let count = bytes.len().min(WRITTEN_AT_ONCE_MAX);
        if count > 0 {
            self.push(BINARY, &bytes[..count]);
            // What the socket does not take now goes with the next call.
            if let Poll::Ready(sent) = self.poll_send(cx) {
                sent?;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.push_close(NORMAL);
        self.poll_send(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn socket(buffer: usize) -> (ByteStream<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(buffer);
        (ByteStream::new(near), far)
    }

    async fn expect(client: &mut DuplexStream, expected: &[u8]) {
        let mut read = vec![0; expected.len()];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_pings_are_answered_between_them() {
        let (mut socket, mut client) = socket(256);
        let sent = [masked(0x02, b"he"), masked(0x89, b"?"), masked(0x80, b"llo")].concat();
        client.write_all(&sent).await.unwrap();
        let mut read = [0; 5];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
        expect(&mut client, &[0x8A, 1, b'?']).await;
        socket.write_all(b"hi").await.unwrap();
        expect(&mut client, &[0x82, 2, b'h', b'i']).await;

        // A ping alone is answered although nothing is read from it.
        client.write_all(&masked(0x89, b"")).await.unwrap();
        let (waiting, ()) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(1), socket.read(&mut read)),
            expect(&mut client, &[0x8A, 0])
        );
        assert!(waiting.is_err(), "a ping is no payload");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_beyond_the_bound_waits_for_the_socket() {
        let (mut socket, mut client) = socket(1_000);
        let all: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut written = 0;
        while let Poll::Ready(count) = Pin::new(&mut socket).poll_write(&mut cx, &all[written..]) {
            written += count.unwrap();
        }
        assert_eq!(written, WRITTEN_AT_ONCE_MAX);
        assert!(socket.unsent.len() < WRITTEN_AT_ONCE_MAX + 10);
        let expected = all.clone();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            let mut payload = Vec::new();
            while let [0x82, length, rest @ ..] = &read[..] {
                let (length, rest) = match length {
                    126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                    127 => (
                        u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize,
                        &rest[8..],
                    ),
                    short => (usize::from(*short), rest),
                };
                payload.extend_from_slice(&rest[..length]);
                read = rest[length..].to_vec();
            }
            assert!(payload == expected);
            assert_eq!(read, [0x88, 2, 0x03, 0xE8]);
        });
        socket.write_all(&all[written..]).await.unwrap();
        socket.shutdown().await.unwrap();
        drop(socket);
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_is_answered_from_either_side() {
        let (mut socket, mut client) = socket(256);
        client.write_all(&masked(0x82, b"last")).await.unwrap();
        client.write_all(&masked(0x88, &[0x03, 0xE9])).await.unwrap();
        let mut read = Vec::new();
        socket.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"last");
        expect(&mut client, &[0x88, 2, 0x03, 0xE8]).await;
        assert!(socket.write_all(b"late").await.is_err());

        let (mut socket, mut client) = self::socket(256);
        socket.shutdown().await.unwrap();
        expect(&mut client, &[0x88, 2, 0x03, 0xE8]).await;
        // Not answered after the close, and neither is the close answered twice.
        client.write_all(&masked(0x89, b"?")).await.unwrap();
        client.write_all(&masked(0x88, &[0x03, 0xE8])).await.unwrap();
        assert_eq!(socket.read(&mut [0; 9]).await.unwrap(), 0);
        drop(socket);
        assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_breaks_the_rules_is_told_which_before_it_is_cut() {
        for (sent, status) in [
            (masked(0x81, b"text"), 1003_u16),
            (vec![0x82, 0x01, 0x00], 1002),
            (masked(0xC2, b"extension"), 1002),
            (vec![0x82, 0xFF, 0, 0, 0, 0, 1, 0, 0, 1], 1009),
        ] {
            let (mut socket, mut client) = socket(256);
            let serving =
                tokio::spawn(async move { socket.read(&mut [0; 9]).await.map_err(|error| error.kind()) });
            client.write_all(&sent).await.unwrap();
            let [high, low] = status.to_be_bytes();
            expect(&mut client, &[0x88, 2, high, low]).await;
            // Nothing follows, and what the client still says is taken until it agrees.
            assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0, "{status}");
            assert!(!serving.is_finished(), "{status}");
            client.write_all(&[0; 300]).await.unwrap();
            drop(client);
            assert_eq!(
                serving.await.unwrap(),
                Err(io::ErrorKind::InvalidData),
                "{status}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_why_it_is_closed_is_cut() {
        let (mut socket, mut client) = socket(3);
        let serving =
            tokio::spawn(async move { socket.read(&mut [0; 9]).await.map_err(|error| error.kind()) });
        client.write_all(&[0x81, 0x80]).await.unwrap();
        assert_eq!(serving.await.unwrap(), Err(io::ErrorKind::InvalidData));
    }
}
