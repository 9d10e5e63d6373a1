//! A stream that holds back what is written until somebody waits for an answer to it.
//!
//! The client's last message of a TLS handshake needs no answer, and the CONNECT can be written right behind it: held back,
//! both leave in one packet. On a radio link that is one header less, and one packet less that can be lost.

use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Holds back while it is corked, at most the messages of a handshake; passes everything through afterwards.
pub(crate) struct Corked<S> {
    stream: S,
    held: BytesMut,
    is_corked: bool,
    /// What came first.
    heard: [u8; HEARD_BYTES],
    heard_bytes: usize,
}

/// As much of what comes as tells a web page from a handshake.
const HEARD_BYTES: usize = 5;

impl<S> Corked<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
            is_corked: true,
            heard: [0; HEARD_BYTES],
            heard_bytes: 0,
        }
    }

    /// What came first, at most five bytes.
    pub(super) fn heard(&self) -> &[u8] {
        &self.heard[..self.heard_bytes]
    }

    fn hear(&mut self, bytes: &[u8]) {
        let left = &mut self.heard[self.heard_bytes..];
        let count = left.len().min(bytes.len());
        left[..count].copy_from_slice(&bytes[..count]);
        self.heard_bytes += count;
    }

    /// What is held leaves with the next write, at the next flush or before the next read.
    pub(super) fn uncork(&mut self) {
        self.is_corked = false;
    }

    fn holds(&self) -> bool {
        self.is_corked || !self.held.is_empty()
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.held.advance(count),
            }
        }
        self.held = BytesMut::new();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            ready!(self.poll_send(cx))?;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.heard_bytes < HEARD_BYTES {
            self.hear(&buffer.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds() {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.holds() {
            for slice in slices {
                self.held.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_corked {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
