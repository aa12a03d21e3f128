//! Waiting: clocks as values, deadlines, back-off and cancelling. The only place that sleeps.

use std::time::{Duration, Instant};
pub use tokio_util::sync::CancellationToken as Cancel;

/// A clock that may run faster than the wall: a rehearsal waits two minutes in two seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    speed: u32,
}

impl Clock {
    /// The monotonic clock.
    pub fn real() -> Self {
        Self { start: Instant::now(), speed: 1 }
    }

    /// A clock that runs `speed` times as fast.
    pub fn fast(speed: u32) -> Self {
        Self { start: Instant::now(), speed: speed.max(1) }
    }

    /// The time since this clock was made. Jumps of the system's clock do not change it.
    pub fn now(&self) -> Duration {
        self.start.elapsed().saturating_mul(self.speed)
    }

    /// Sleeps for this long on this clock.
    #[allow(clippy::disallowed_methods)]
    pub async fn sleep(&self, length: Duration) {
        tokio::time::sleep(length / self.speed).await;
    }

    /// How long this much time of the clock really takes.
    pub fn real_length(&self, length: Duration) -> Duration {
        length / self.speed
    }
}

/// Growing pauses between tries, up to a limit.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    limit: Duration,
}

impl Backoff {
    /// Starts with this pause and never exceeds the limit.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { next: first, limit }
    }

    /// The pause to make now. Doubles, with up to a quarter taken off so that many clients do not march in step.
    pub fn pause(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.limit);
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.subsec_nanos());
        now - now / 4 * (nanos % 1000) / 1000
    }
}

/// Seconds as people read them: 1.4s, 2m 5s.
pub fn spoken(length: Duration) -> String {
    if length < Duration::from_secs(60) {
        return format!("{:.1}s", length.as_secs_f64());
    }
    humantime::format_duration(Duration::from_secs(length.as_secs())).to_string()
}

/// Blocks the thread for this long.
#[allow(clippy::disallowed_methods)]
pub fn nap(length: Duration) {
    std::thread::sleep(length);
}

/// A sleep as a value that can be polled.
pub type Nap = std::pin::Pin<Box<tokio::time::Sleep>>;

/// A sleep of this length, of the wall's clock.
#[allow(clippy::disallowed_methods)]
pub fn nap_of(length: Duration) -> Nap {
    Box::pin(tokio::time::sleep(length))
}
