//! Keeps guesses and floods away: how many wrong secrets a source or an app may be sent, how many requests a source may send.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many sources and apps are remembered; more than that are forgotten together.
const REMEMBERED: usize = 50_000;

/// How many bytes of bodies are held at once, and of one source.
const BODIES: usize = 64 * 1024 * 1024;
const BODIES_OF_ONE: usize = 16 * 1024 * 1024;
/// The longest name of an app that is remembered; no app has a longer one.
const NAME: usize = 160;
/// How many sources have to guess at an app before those that never knew its secret have to wait.
const SOURCES: f64 = 10.0;

/// What keeps guesses and floods away.
#[derive(Default)]
pub struct Guard {
    sources: Buckets<IpAddr>,
    apps: Buckets<String>,
    floods: Buckets<IpAddr>,
    lines: Buckets<IpAddr>,
    bodies: Arc<Mutex<Bodies>>,
    /// Who knew an app's secret before: somebody else's guesses must not keep them from deploying.
    friends: Mutex<HashSet<(String, IpAddr)>>,
}

/// How many bytes of bodies are held, of whom.
#[derive(Default)]
struct Bodies {
    total: usize,
    sources: HashMap<IpAddr, usize>,
}

/// What one request holds of the room for bodies, until it is answered.
pub struct Held {
    bodies: Arc<Mutex<Bodies>>,
    source: IpAddr,
    bytes: usize,
}

impl Held {
    /// Takes so many bytes more; no when there is no room, for all or for this source.
    pub fn take(&mut self, bytes: usize) -> bool {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let own = bodies.sources.get(&self.source).copied().unwrap_or_default();
        if bodies.total + bytes > BODIES || own + bytes > BODIES_OF_ONE {
            return false;
        }
        bodies.total += bytes;
        bodies.sources.insert(self.source, own + bytes);
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.total = bodies.total.saturating_sub(self.bytes);
        let left = bodies.sources.get(&self.source).copied().unwrap_or_default().saturating_sub(self.bytes);
        match left {
            0 => bodies.sources.remove(&self.source),
            left => bodies.sources.insert(self.source, left),
        };
    }
}

/// How somebody may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// They may try.
    Yes,
    /// They may try again after this.
    After(Duration),
}

impl Guard {
    /// The room for the body of a request.
    pub fn held(&self, source: IpAddr) -> Held {
        Held { bodies: self.bodies.clone(), source, bytes: 0 }
    }

    /// Whether a source may send one more request.
    pub fn request(&self, source: IpAddr, per_second: u32) -> Allowed {
        self.floods.take(&source, f64::from(per_second), f64::from(per_second))
    }

    /// Whether a source may try a secret of an app; without an app only the source counts, as nobody may lock others out.
    pub fn may_try(&self, source: IpAddr, app: &str, per_minute: u32) -> Allowed {
        let app = named(app);
        let rate = f64::from(per_minute) / 60.0;
        let of_source = self.sources.look(&source, rate, f64::from(per_minute));
        if of_source != Allowed::Yes || app.is_empty() || self.is_friend(app, source) {
            return of_source;
        }
        self.apps.look(&app.to_owned(), rate * SOURCES, f64::from(per_minute) * SOURCES)
    }

    /// Whether it is time for another line about what a source does: a flood of guesses is no flood of lines.
    pub fn may_say(&self, source: IpAddr) -> bool {
        self.lines.take(&source, 0.1, 3.0) == Allowed::Yes
    }

    /// Notes how it went.
    pub fn tried(&self, source: IpAddr, app: &str, per_minute: u32, knew: Knew) {
        let app = named(app);
        let mut friends = self.friends.lock().unwrap_or_else(PoisonError::into_inner);
        if knew == Knew::It {
            if friends.len() > REMEMBERED {
                friends.clear();
            }
            friends.insert((app.to_owned(), source));
            return;
        }
        drop(friends);
        let rate = f64::from(per_minute) / 60.0;
        self.sources.take(&source, rate, f64::from(per_minute));
        if !app.is_empty() {
            self.apps.take(&app.to_owned(), rate * SOURCES, f64::from(per_minute) * SOURCES);
        }
    }

    fn is_friend(&self, app: &str, source: IpAddr) -> bool {
        self.friends.lock().unwrap_or_else(PoisonError::into_inner).contains(&(app.to_owned(), source))
    }
}

/// A name that is worth remembering.
fn named(app: &str) -> &str {
    if app.len() > NAME { "" } else { app }
}

/// Whether the secret was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knew {
    /// It was.
    It,
    /// It was not.
    Nothing,
}

/// Buckets that fill again with time: <https://en.wikipedia.org/wiki/Token_bucket>.
struct Buckets<K>(Mutex<HashMap<K, (f64, Instant)>>);

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn look(&self, key: &K, rate: f64, size: f64) -> Allowed {
        let buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(key).map_or(Allowed::Yes, |bucket| allowed(filled(*bucket, rate, size), rate))
    }

    fn take(&self, key: &K, rate: f64, size: f64) -> Allowed {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() > REMEMBERED {
            buckets.retain(|_key, bucket| filled(*bucket, rate, size) < size);
        }
        if buckets.len() > REMEMBERED {
            buckets.clear();
        }
        let now = Instant::now();
        let bucket = buckets.entry(key.clone()).or_insert((size, now));
        let left = filled(*bucket, rate, size);
        let allowed = allowed(left, rate);
        *bucket = (if allowed == Allowed::Yes { left - 1.0 } else { left }, now);
        allowed
    }
}

fn filled((left, since): (f64, Instant), rate: f64, size: f64) -> f64 {
    (left + since.elapsed().as_secs_f64() * rate).min(size)
}

fn allowed(left: f64, rate: f64) -> Allowed {
    if left >= 1.0 { Allowed::Yes } else { Allowed::After(Duration::from_secs_f64(((1.0 - left) / rate).clamp(1.0, 3600.0))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_end_and_friends_go_on() {
        let guard = Guard::default();
        let (friend, stranger, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        guard.tried(friend, "app", 5, Knew::It);
        for _guess in 0..5 {
            assert_eq!(guard.may_try(stranger, "app", 5), Allowed::Yes);
            guard.tried(stranger, "app", 5, Knew::Nothing);
        }
        assert!(matches!(guard.may_try(stranger, "app", 5), Allowed::After(_)));
        assert!(matches!(guard.may_try(stranger, "another", 5), Allowed::After(_)), "the source has guessed enough");
        assert_eq!(guard.may_try(other, "app", 5), Allowed::Yes, "one stranger locks nobody out");
        for number in 0..10 {
            (0..5).for_each(|_guess| guard.tried([10, 0, 1, number].into(), "app", 5, Knew::Nothing));
        }
        assert!(matches!(guard.may_try(other, "app", 5), Allowed::After(_)), "the app was guessed at enough");
        assert_eq!(guard.may_try(other, "another", 5), Allowed::Yes);
        assert_eq!(guard.may_try(friend, "app", 5), Allowed::Yes, "those who knew it before go on");
    }

    #[test]
    fn floods_end() {
        let guard = Guard::default();
        let source = [10, 0, 0, 1].into();
        let taken = (0..100).filter(|_| guard.request(source, 10) == Allowed::Yes).count();
        assert!((10..20).contains(&taken), "{taken}");
    }
}
