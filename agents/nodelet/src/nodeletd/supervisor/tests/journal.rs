//! What the daemon writes to the journal: a problem once when it begins and once when it ends.

use super::*;

/// What the program logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// How often it has these words.
    fn count(&self, words: &str) -> usize {
        let log = self.0.lock().expect("no test panicked");
        String::from_utf8_lossy(&log).matches(words).count()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().expect("no test panicked");
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// No repair is made on this host, so nothing else in the journal says what is wrong with it.
#[tokio::test(start_paused = true)]
async fn a_condition_that_begins_to_fail_is_in_the_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // If there is only one subscriber, tests on other threads turn the lines of this one off.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(lines);
    beside(&host, directory.path(), async |_outside| {
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(log.count("a condition does not hold"), 0);
        let refused = "use another name".to_owned();
        *host.refused.lock().expect("no test panicked") = Some(refused);
        host.broken.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(host.done(), []);
        let begun = "a condition does not hold: etcd: member runs";
        assert_eq!(log.count(begun), 1, "once");
        let refused = "changing nothing: could not use another name";
        assert_eq!(log.count(refused), 1, "once");
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(log.count("no longer a problem: etcd: member runs"), 1);
    })
    .await;
}
