//! Buffers for bytes on their way. A tunnel that waits has none, because most tunnels wait most of the time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::threads::MOST_THREADS;

/// Bytes that are read at a time in one direction. They are written before more is read. Four records of TLS have as many: a call of the kernel costs as much as the
/// encryption of a quarter of a record.
const SIZE: usize = 64 * 1024;
/// At most so many buffers have this size. Further ones have [`SMALL`]: tunnels whose readers are slow keep theirs, and there may be thousands.
const LARGE: usize = 512;
/// A record of TLS.
const SMALL: usize = 16 * 1024;
/// Free buffers that a thread keeps.
const KEPT: usize = 32;
/// What an idle tunnel has, in bytes, as the soak `tunnels` has seen it.
const IDLE: usize = 25 * 1024;
/// A record that arrives, or its plain text, with what TLS adds to it.
const RECORD: usize = 18 * 1024;
/// The program, and what its allocator does not give back.
const PROGRAM: usize = 64 * 1024 * 1024;

/// Most memory of the daemon with so many tunnels, in bytes. It follows from the sizes of buffers, all full at the same time:
///
/// - large buffers, as many bytes that TLS has encrypted of them, and those that each thread keeps;
/// - for each tunnel what an idle one has, three small buffers (one for each direction, one with what was read ahead), as many bytes as one of them that TLS has encrypted, and a
///   record that arrives and its plain text.
///
/// What the kernel has for connections is not in it.
#[must_use]
pub const fn most_memory(tunnels: usize) -> usize {
    let large = (2 * LARGE + MOST_THREADS * KEPT) * SIZE;
    let each = IDLE + 3 * SMALL + SMALL + 2 * RECORD;
    PROGRAM + large + tunnels * each
}

/// Buffers of [`SIZE`] that are in use.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with what was read. It can be used again when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Buffer {
    fn take() -> Self {
        let allocated = |size| vec![0; size].into_boxed_slice();
        let bytes = if IN_USE.fetch_add(1, Ordering::Relaxed) < LARGE {
            let free = FREE.with_borrow_mut(Vec::pop);
            free.unwrap_or_else(|| allocated(SIZE))
        } else {
            IN_USE.fetch_sub(1, Ordering::Relaxed);
            allocated(SMALL)
        };
        Self {
            bytes,
            begin: 0,
            end: 0,
        }
    }

    /// A buffer with what one read gives.
    ///
    /// # Errors
    /// Those of the reader.
    pub(super) fn poll_fill(
        from: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Self>> {
        let mut buffer = Self::take();
        let mut read = ReadBuf::new(&mut buffer.bytes);
        ready!(from.poll_read(context, &mut read))?;
        buffer.end = read.filled().len();
        Poll::Ready(Ok(buffer))
    }

    /// What was read; empty at the end.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    /// Takes away what was used of it.
    pub(super) fn advance(&mut self, length: usize) {
        self.begin = (self.begin + length).min(self.end);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() != SIZE {
            return;
        }
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

/// What was read, and why there is no more.
#[derive(Debug)]
pub(super) struct Read {
    /// Empty at the end.
    pub(super) buffer: Buffer,
    /// An error that came after these bytes. The reader may not tell it again.
    pub(super) error: Option<io::Error>,
}

/// Reads all that is there, as far as a buffer takes it, and waits without a buffer if nothing is. Cancel safe.
///
/// # Errors
/// Those of the reader, if they came before a byte.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Read> {
    poll_fn(|context| {
        let mut buffer = Buffer::take();
        let mut read = ReadBuf::new(&mut buffer.bytes);
        let mut error = None;
        loop {
            let before = read.filled().len();
            match Pin::new(&mut *from).poll_read(context, &mut read) {
                Poll::Pending if before == 0 => return Poll::Pending,
                Poll::Ready(Err(error)) if before == 0 => return Poll::Ready(Err(error)),
                Poll::Pending => break,
                Poll::Ready(Err(its)) => {
                    error = Some(its);
                    break;
                }
                Poll::Ready(Ok(())) => {
                    if read.filled().len() == before || read.remaining() == 0 {
                        break;
                    }
                }
            }
        }
        buffer.end = read.filled().len();
        Poll::Ready(Ok(Read { buffer, error }))
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
            let read = waiting.await.expect("it is there");
            assert_eq!(read.buffer.filled(), b"first");
            assert_eq!(free(), 0);
        }
        assert_eq!(free(), 1);
        drop(to);
        let end = read(&mut from).await.expect("its end");
        assert!(end.buffer.filled().is_empty(), "not what was in it before");
    }

    #[test]
    fn most_buffers_are_small() {
        let all: Vec<Buffer> = (0..LARGE + 100).map(|_| Buffer::take()).collect();
        let large = |all: &[Buffer]| all.iter().filter(|its| its.bytes.len() == SIZE).count();
        // Other tests have some, too.
        assert!((LARGE - 50..=LARGE).contains(&large(&all)));
        assert_eq!(all[LARGE + 99].bytes.len(), SMALL);
        drop(all);
        assert_eq!(Buffer::take().bytes.len(), SIZE);
    }

    /// Gives these parts, one each time, and then breaks.
    struct Breaks(Vec<&'static [u8]>);

    impl AsyncRead for Breaks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            into.put_slice(self.0.remove(0));
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn parts_are_read_together_and_an_error_after_them_is_kept() {
        let read = read(&mut Breaks(vec![b"one", b"two"]))
            .await
            .expect("bytes");
        assert_eq!(read.buffer.filled(), b"onetwo");
        let error = read.error.expect("it is kept");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = super::read(&mut Breaks(Vec::new()))
            .await
            .expect_err("no bytes");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
