//! The machine's clocks.

use std::time::{Duration, SystemTime};

use super::LiveHost;
use crate::host::Clock;

#[async_trait::async_trait]
impl Clock for LiveHost {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
