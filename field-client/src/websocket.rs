//! A WebSocket to the server as a stream of bytes (RFC 6455), for networks that let nothing but HTTPS through.
//!
//! What is written goes out in binary messages of one masked frame; of what comes, the payload of binary messages is one stream,
//! whatever their borders [MQTT-6.0.0-2]. Pings are answered while the stream is read. Held are at most one frame that waits
//! for the socket, one pong, and what was read ahead.

use crate::captive::{self, Unreached};
use crate::credentials::ServerAddress;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, BytesMut};
use sha1::{Digest, Sha1};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// [RFC 6455 §1.3] what the key is hashed with.
const ACCEPT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The server's answer to the handshake.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const READ_AHEAD_BYTES: usize = 4 * 1024;
/// The payload of one frame; what is written beyond it waits for the socket.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// [RFC 6455 §5.5] the payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
/// [RFC 6455 §7.4.1] a close without a fault.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// A WebSocket after its handshake, on the client's side.
pub(crate) struct WebSocket<S> {
    stream: S,
    /// Read and not yet taken apart.
    input: BytesMut,
    /// What is left of the payload of the present data frame.
    payload_left: u64,
    /// Whether a message has begun that is not at its end.
    in_message: bool,
    unanswered_ping: Option<BytesMut>,
    has_ended: bool,
    /// Whole frames that the socket has not taken yet.
    unsent: BytesMut,
    unflushed: bool,
}

/// Asks for a WebSocket that carries MQTT.
///
/// # Errors
/// What is wrong and what helps, as a sentence.
pub(crate) async fn open<S>(mut stream: S, server: &ServerAddress) -> Result<WebSocket<S>, Unreached>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: io::Error| format!("asking for a WebSocket: {error}");
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| format!("the system has no random numbers: {error}"))?;
    let key = STANDARD.encode(random);
    let (host, path) = (server.authority(), &server.path);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut input = BytesMut::with_capacity(READ_AHEAD_BYTES);
    let head = loop {
        if let Some(end) = input.windows(4).position(|end| end == b"\r\n\r\n") {
            break input.split_to(end + 4);
        }
        if input.len() >= HEAD_BYTES_MAX {
            return Err("the server's answer does not end; check the address"
                .to_owned()
                .into());
        }
        if stream.read_buf(&mut input).await.map_err(broken)? == 0 {
            return Err(
                "the server closed before it had answered; does it speak HTTP there?"
                    .to_owned()
                    .into(),
            );
        }
    };
    let head = String::from_utf8_lossy(&head);
    check(&head, &key).map_err(|why| {
        // Whose certificate was verified is the server.
        if !server.scheme.is_tls() && captive::is_status(status_code(&head)) {
            Unreached::Captive(captive::advice(&why))
        } else {
            Unreached::Broken(why)
        }
    })?;
    Ok(WebSocket {
        stream,
        input,
        payload_left: 0,
        in_message: false,
        unanswered_ping: None,
        has_ended: false,
        unsent: BytesMut::new(),
        unflushed: false,
    })
}

/// Whether the head of an answer grants what was asked for [RFC 6455 §4.1].
fn check(head: &str, key: &str) -> Result<(), String> {
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status_code(head) != "101" {
        let status: String = status.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(format!(
            "there is no MQTT over WebSocket at this path: the server answers {status:?}"
        ));
    }
    let hash = Sha1::new().chain_update(key).chain_update(ACCEPT).finalize();
    let expected = STANDARD.encode(hash);
    let is_accepted = lines
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == expected);
    if is_accepted {
        Ok(())
    } else {
        Err("something between here and the server answers in its place".to_owned())
    }
}

fn status_code(head: &str) -> &str {
    let status = head.split("\r\n").next().unwrap_or_default();
    status.split(' ').nth(1).unwrap_or_default()
}

/// What stands next in the input.
enum Next {
    /// Payload of a data frame.
    Payload,
    /// It is not whole yet.
    Incomplete,
    Ended,
}

impl<S> WebSocket<S> {
    /// Takes heads and control frames off the input.
    fn advance(&mut self) -> io::Result<Next> {
        loop {
            if self.has_ended {
                return Ok(Next::Ended);
            }
            if self.payload_left > 0 {
                let has_some = !self.input.is_empty();
                return Ok(if has_some { Next::Payload } else { Next::Incomplete });
            }
            let [first, second, rest @ ..] = &self.input[..] else {
                return Ok(Next::Incomplete);
            };
            let (first, second) = (*first, *second);
            let (is_last, opcode) = (first & 0x80 != 0, first & 0x0F);
            // [RFC 6455 §5.1, §5.2] a server masks nothing, and there is no extension.
            if first & 0x70 != 0 || second & 0x80 != 0 {
                return Err(broken("a frame that WebSocket does not have"));
            }
            let (length, head) = match (second, rest) {
                (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
                (127, [a, b, c, d, e, f, g, h, ..]) => {
                    (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10)
                }
                (126 | 127, _) => return Ok(Next::Incomplete),
                (short, _) => (u64::from(short), 2),
            };
            match (opcode, self.in_message) {
                (BINARY, false) | (CONTINUATION, true) => {
                    self.input.advance(head);
                    self.payload_left = length;
                    self.in_message = !is_last;
                }
                (CLOSE | PING | PONG, _) if is_last && length <= CONTROL_BYTES_MAX as u64 => {
                    let length = usize::from(second);
                    if self.input.len() < head + length {
                        return Ok(Next::Incomplete);
                    }
                    self.input.advance(head);
                    let payload = self.input.split_to(length);
                    match opcode {
                        CLOSE => self.has_ended = true,
                        PING => self.unanswered_ping = Some(payload),
                        _ => {}
                    }
                }
                _ => return Err(broken("a frame that does not belong here")),
            }
        }
    }

    /// Queues one whole frame, masked with what nobody can foretell [RFC 6455 §5.3].
    fn push(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut mask = [0; 4];
        getrandom::fill(&mut mask).map_err(io::Error::other)?;
        self.unsent.put_u8(0x80 | opcode);
        match u16::try_from(payload.len()) {
            Ok(length @ 0..126) => self.unsent.put_u8(0x80 | length as u8),
            Ok(length) => {
                self.unsent.put_u8(0x80 | 126);
                self.unsent.put_u16(length);
            }
            // Nothing is longer than `FRAME_BYTES_MAX`.
            Err(error) => return Err(io::Error::other(error)),
        }
        self.unsent.put_slice(&mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        self.unsent.extend(masked.map(|(byte, mask)| byte ^ mask));
        Ok(())
    }
}

impl<S: AsyncWrite + Unpin> WebSocket<S> {
    /// Sends what waits; ready when nothing does.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.unsent.is_empty() {
                let Some(ping) = self.unanswered_ping.take() else {
                    break;
                };
                self.push(PONG, &ping)?;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unsent.advance(count),
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let next = this.advance()?;
            // A pong waits for the socket and for nothing else.
            if let Poll::Ready(sent) = this.poll_send(cx) {
                sent?;
            }
            match next {
                Next::Ended => return Poll::Ready(Ok(())),
                Next::Payload => {
                    let left = usize::try_from(this.payload_left).unwrap_or(usize::MAX);
                    let count = left.min(this.input.len()).min(buffer.remaining());
                    buffer.put_slice(&this.input.split_to(count));
                    this.payload_left -= count as u64;
                    return Poll::Ready(Ok(()));
                }
                Next::Incomplete => {}
            }
            let mut piece = [0; READ_AHEAD_BYTES];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.input.extend_from_slice(piece.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let count = bytes.len().min(FRAME_BYTES_MAX);
        if count > 0 {
            self.push(BINARY, &bytes[..count])?;
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
        if !self.has_ended {
            self.has_ended = true;
            self.push(CLOSE, &NORMAL)?;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;
    use tokio::io::{DuplexStream, duplex};

    fn address() -> ServerAddress {
        ServerAddress {
            scheme: Scheme::Wss,
            host: "::1".to_owned(),
            port: 8443,
            path: "/mqtt".to_owned(),
        }
    }

    fn socket(buffer: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(buffer);
        let socket = WebSocket {
            stream: near,
            input: BytesMut::new(),
            payload_left: 0,
            in_message: false,
            unanswered_ping: None,
            has_ended: false,
            unsent: BytesMut::new(),
            unflushed: false,
        };
        (socket, far)
    }

    /// One frame of a client: its first byte and its payload without the mask.
    async fn frame(server: &mut DuplexStream) -> (u8, Vec<u8>) {
        let first = server.read_u8().await.unwrap();
        let length = match server.read_u8().await.unwrap() {
            254 => server.read_u16().await.unwrap(),
            short => u16::from(short & 0x7F),
        };
        let mut mask = [0; 4];
        server.read_exact(&mut mask).await.unwrap();
        let mut payload = vec![0; length.into()];
        server.read_exact(&mut payload).await.unwrap();
        let plain = payload.iter().zip(mask.iter().cycle());
        (first, plain.map(|(byte, mask)| byte ^ mask).collect())
    }

    #[test]
    fn the_answer_of_the_standard_is_taken_and_every_other_is_refused() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let answer = |status, accept| format!("HTTP/1.1 {status}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert_eq!(check(&answer("101 Switching Protocols", right), key), Ok(()));
        for (head, said) in [
            (
                answer("404 Not Found", right),
                "the server answers \"HTTP/1.1 404 Not Found\"",
            ),
            (answer("101 Switching Protocols", "x"), "in its place"),
            ("HTTP/1.1 101 X\r\n\r\n".to_owned(), "in its place"),
            (String::new(), "no MQTT over WebSocket"),
        ] {
            let why = check(&head, key).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }

    #[tokio::test]
    async fn what_comes_with_the_answer_is_read_and_the_host_is_spelled_with_its_port() {
        let (near, mut far) = duplex(4_096);
        let serving = tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(far.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let line = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("{name}: {head}")).to_owned()
            };
            assert_eq!(line("GET "), "/mqtt HTTP/1.1");
            assert_eq!(line("Host: "), "[::1]:8443");
            assert_eq!(line("Sec-WebSocket-Protocol: "), "mqtt");
            let hash = Sha1::new()
                .chain_update(line("Sec-WebSocket-Key: "))
                .chain_update(ACCEPT);
            let accept = STANDARD.encode(hash.finalize());
            let answer = format!("HTTP/1.1 101 x\r\nsec-websocket-accept: {accept}\r\n\r\n");
            far.write_all(&[answer.as_bytes(), &[0x82, 2, b'h', b'i']].concat())
                .await
                .unwrap();
        });
        let mut socket = open(near, &address()).await.map_err(drop).unwrap();
        let mut read = String::new();
        socket.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "hi");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn bytes_go_both_ways_however_they_are_cut_and_pings_are_answered() {
        let long = vec![7; 70_000];
        let mut sent = vec![0x02, 2, b'o', b'n', 0x89, 1, b'?', 0x80, 1, b'e', 0x82, 127];
        sent.extend(70_000_u64.to_be_bytes());
        sent.extend(&long);
        sent.extend([0x8A, 0, 0x82, 126, 0, 1, b'!', 0x88, 2, 3, 0xE8]);
        for buffer in [1, 3, 4_096] {
            let (socket, far) = socket(buffer);
            let (mut hears, mut says) = tokio::io::split(far);
            let sent = sent.clone();
            let saying = tokio::spawn(async move { says.write_all(&sent).await });
            let (mut reader, mut writer) = tokio::io::split(socket);
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).await.map(|_| read)
            });
            let mut pong = [0; 7];
            hears.read_exact(&mut pong).await.unwrap();
            assert_eq!((pong[0], pong[1], pong[6] ^ pong[2]), (0x8A, 0x81, b'?'));
            let read = reading.await.unwrap().unwrap();
            assert!(read == [b"one", &long[..], b"!"].concat(), "{buffer}");
            saying.await.unwrap().unwrap();
            let writing = tokio::spawn(async move {
                writer.write_all(&[5; 40_000]).await?;
                writer.flush().await?;
                drop(writer);
                io::Result::Ok(())
            });
            let mut heard = Vec::new();
            hears.read_to_end(&mut heard).await.unwrap();
            writing.await.unwrap().unwrap();
            // Two frames of 16 KiB, and the rest.
            assert_eq!(heard.len(), 40_000 + 3 * 8, "{buffer}");
        }
    }

    #[tokio::test]
    async fn a_frame_is_masked_and_a_good_bye_is_said_once() {
        let (mut socket, mut server) = socket(1_000);
        socket.write_all(&[1, 2, 3, 4, 5]).await.unwrap();
        socket.write_all(&[9; 200]).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(frame(&mut server).await, (0x82, vec![1, 2, 3, 4, 5]));
        assert_eq!(frame(&mut server).await, (0x82, vec![9; 200]));
        assert_eq!(frame(&mut server).await, (0x88, vec![3, 0xE8]));
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_a_server_does_not_send_ends_the_connection() {
        for sent in [
            &[0x81, 1, b'x'][..],
            &[0x82, 0x81, 0, 0, 0, 0, 0],
            &[0xC2, 0],
            &[0x80, 0],
            &[0x02, 0, 0x82, 0],
            &[0x83, 0],
            &[0x09, 0],
            &[0x89, 126, 0, 126],
        ] {
            let (mut socket, mut server) = socket(1_000);
            server.write_all(sent).await.unwrap();
            let error = socket.read(&mut [0; 9]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{sent:?}");
        }
    }
}
