//! Time that stands still until a caller waits or changes something.

use std::time::{Duration, SystemTime};

use crate::host::Clock;
use crate::host::fake::fake_host::FakeHost;

#[async_trait::async_trait]
impl Clock for FakeHost {
    fn now(&self) -> SystemTime {
        self.with_world(|world| world.now())
    }

    fn elapsed(&self) -> Duration {
        self.with_world(|world| world.elapsed())
    }

    fn up(&self) -> Duration {
        self.with_world(|world| world.up())
    }

    async fn pause(&self, duration: Duration) {
        self.with_world_mut(|world| world.advance(duration));
        // Other tasks of the same test get their turn, as they would during a real wait.
        tokio::task::yield_now().await;
    }

    async fn pause_for_others(&self, duration: Duration) {
        self.pause(duration).await;
    }
}
