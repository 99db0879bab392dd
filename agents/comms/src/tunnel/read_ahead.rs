//! Reads a connection in large parts. TLS alone asks the kernel for a quarter of a record at a time.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffer::Buffer;

/// A connection with what was read of it and is not asked for yet. While nothing comes, it has no buffer.
#[derive(Debug)]
pub struct ReadAhead<S> {
    stream: S,
    /// Never empty.
    ahead: Option<Buffer>,
}

impl<S> ReadAhead<S> {
    /// A connection of which nothing was read.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            ahead: None,
        }
    }

    /// The connection itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl ReadAhead<TcpStream> {
    /// Lets the runtime that runs now wait for its bytes.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub(crate) fn take_over(&mut self) -> io::Result<()> {
        let same = self.stream.as_fd().try_clone_to_owned()?;
        self.stream = TcpStream::from_std(same.into())?;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ahead = match self.ahead.take() {
            Some(ahead) => ahead,
            None => ready!(Buffer::poll_fill(Pin::new(&mut self.stream), cx))?,
        };
        let length = ahead.filled().len().min(into.remaining());
        into.put_slice(&ahead.filled()[..length]);
        ahead.advance(length);
        if !ahead.filled().is_empty() {
            self.ahead = Some(ahead);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_comes_is_read_in_order_and_a_waiting_one_has_no_buffer() {
        let (mut to, from) = duplex(1 << 20);
        let mut from = ReadAhead::new(from);
        let sent: Vec<u8> = (0..300_000_usize).map(|at| (at % 251) as u8).collect();
        to.write_all(&sent).await.expect("it is open");
        let mut back = vec![0; sent.len() - 1];
        // In parts that are smaller than the buffer.
        for part in back.chunks_mut(1000) {
            from.read_exact(part).await.expect("it is there");
        }
        assert!(back[..] == sent[..back.len()]);
        assert!(from.ahead.is_some(), "one byte is left");
        from.read_u8().await.expect("it is there");
        assert!(from.ahead.is_none());
        drop(to);
        assert_eq!(from.read(&mut back).await.expect("its end"), 0);
        assert!(from.ahead.is_none());
    }
}
