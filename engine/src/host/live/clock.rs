//! The machine's clocks.

use std::time::{Duration, SystemTime};

use super::LiveHost;
use crate::host::Clock;
use crate::host::live::process::age;

#[async_trait::async_trait]
impl Clock for LiveHost {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn up(&self) -> Duration {
        age::age(1).unwrap_or(Duration::MAX)
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn pause_for_others(&self, duration: Duration) {
        self.pause(duration).await;
    }
}
