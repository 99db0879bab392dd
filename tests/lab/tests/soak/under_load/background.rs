//! Threads that send requests until they are ended, and note what they saw.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::watch;

/// A thread with a note of this type. It ends also when this value is dropped, but then the soak does not wait for it.
pub(crate) struct Background<T> {
    end: watch::Sender<bool>,
    thread: JoinHandle<()>,
    note: Arc<Mutex<T>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread for a task that ends when it is told to.
    pub(crate) fn start<F: Future<Output = ()> + 'static>(
        note: T,
        task: impl FnOnce(Arc<Mutex<T>>, watch::Receiver<bool>) -> F + Send + 'static,
    ) -> Self {
        let (end, ended) = watch::channel(false);
        let note = Arc::new(Mutex::new(note));
        let shared = Arc::clone(&note);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(task(shared, ended));
        });
        Self { end, thread, note }
    }

    /// Reads the note.
    ///
    /// # Panics
    /// The thread has failed.
    #[track_caller]
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        assert!(!self.thread.is_finished(), "the thread has failed");
        look(&mut lock(&self.note))
    }

    /// Ends the thread when its requests are over, and gives the note.
    pub(crate) fn end(self) -> T {
        self.end.send_replace(true);
        self.thread.join().expect("the thread ends");
        let note = Arc::into_inner(self.note).expect("the thread has ended");
        note.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn lock<T>(note: &Mutex<T>) -> MutexGuard<'_, T> {
    note.lock().unwrap_or_else(PoisonError::into_inner)
}
