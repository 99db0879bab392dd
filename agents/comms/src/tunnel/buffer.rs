//! Buffers for bytes on their way. A tunnel that waits has none, because most tunnels wait most of the time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that are read at a time in one direction. They are written before more is read. A record of TLS has as many.
const SIZE: usize = 16 * 1024;
/// Free buffers that a thread keeps.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with what was read. It can be used again when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
}

impl Buffer {
    fn take() -> Self {
        let free = FREE.with_borrow_mut(Vec::pop);
        Self {
            bytes: free.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()),
            length: 0,
        }
    }

    /// What was read; empty at the end.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

/// Reads what is there, and waits without a buffer if nothing is. Cancel safe.
///
/// # Errors
/// Those of the reader.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Buffer> {
    poll_fn(|context| {
        let mut buffer = Buffer::take();
        let mut read = ReadBuf::new(&mut buffer.bytes);
        ready!(Pin::new(&mut *from).poll_read(context, &mut read))?;
        buffer.length = read.filled().len();
        Poll::Ready(Ok(buffer))
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_reader_that_waits_has_no_buffer_and_a_buffer_is_used_again() {
        let free = || FREE.with_borrow(Vec::len);
        let (mut from, mut to) = duplex(100);
        {
            let waiting = read(&mut from);
            tokio::pin!(waiting);
            let nothing =
                poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()));
            assert!(nothing.await);
            assert_eq!(free(), 1, "it was given back");
            to.write_all(b"first").await.expect("it is open");
            let buffer = waiting.await.expect("it is there");
            assert_eq!(buffer.filled(), b"first");
            assert_eq!(free(), 0);
        }
        assert_eq!(free(), 1);
        drop(to);
        let end = read(&mut from).await.expect("its end");
        assert!(end.filled().is_empty(), "not what was in it before");
    }
}
