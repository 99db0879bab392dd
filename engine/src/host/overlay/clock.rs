//! Time: it starts at the time of the host below, and a pause ends at once.

use std::time::{Duration, SystemTime};

use super::OverlayHost;
use crate::host::Clock;

#[async_trait::async_trait]
impl Clock for OverlayHost<'_> {
    fn now(&self) -> SystemTime {
        self.upper.now()
    }

    fn elapsed(&self) -> Duration {
        self.upper.elapsed()
    }

    fn up(&self) -> Duration {
        self.upper.up()
    }

    async fn pause(&self, duration: Duration) {
        self.upper.pause(duration).await;
    }
}
