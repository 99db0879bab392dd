//! Time: it starts at the time of the host below, and a pause ends at once, unless another host is asked again after it.

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

    async fn pause_for_others(&self, duration: Duration) {
        self.lower.pause_for_others(duration).await;
        self.upper.pause(duration).await;
    }
}
