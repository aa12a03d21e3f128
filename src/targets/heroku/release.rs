//! Releases: made of images, followed through their release phase, confirmed as the one that the app has.

use super::Deploy;
use super::api::{Api, Request};
use crate::error::{Error, Reason, Result};
use crate::tools::wait::{Backoff, spoken};
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the journal says before a release is made, and after.
const INTENT: &str = "release after v";
const MADE: &str = "release v";
const TAIL: usize = 15;
/// How often a release that was taken is looked for, a second apart.
const LOOKS: u32 = 10;
/// The longest line that is shown, in bytes.
const LINE_LIMIT: usize = 16 * 1024;

/// A release of an app.
#[derive(Clone, Debug)]
pub struct Release {
    pub id: String,
    pub version: u64,
    pub status: String,
    pub is_current: bool,
    pub description: String,
    output: Option<String>,
}

impl Release {
    /// Whether its description says that it released these images and no others, as "Deployed web (0123456789ab)".
    /// How several process types are put is not written down anywhere, so only the digests are read.
    pub(super) fn names(&self, images: &[(String, String)]) -> bool {
        let ours: BTreeSet<String> = images.iter().map(|(_process, config)| short(config)).collect();
        self.description.starts_with("Deployed") && ours == self.digests()
    }

    /// The words of the description that are the beginning of a digest.
    fn digests(&self) -> BTreeSet<String> {
        let words = self.description.split(|c: char| !c.is_ascii_alphanumeric());
        let is_digest = |word: &&str| word.len() >= 12 && word.chars().all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f'));
        words.filter(is_digest).map(|word| word.chars().take(12).collect()).collect()
    }

    fn of(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            id: text("id")?,
            version: value.get("version")?.as_u64()?,
            status: text("status").unwrap_or_default(),
            is_current: value.get("current").and_then(Value::as_bool).unwrap_or(false),
            description: text("description").unwrap_or_default(),
            output: text("output_stream_url"),
        })
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// The beginning of a digest, as descriptions have it.
fn short(config: &str) -> String {
    config.trim_start_matches("sha256:").chars().take(12).collect()
}

/// The version in "release v42", as the journal has it.
pub fn version_in(handle: Option<&str>) -> Option<u64> {
    handle?.strip_prefix(MADE)?.parse().ok()
}

/// What a release phase said.
#[derive(Default)]
struct Heard {
    lines: usize,
    tail: VecDeque<String>,
}

/// The newest releases of an app, newest first.
async fn newest_of(api: &Api<'_>, app: &str, count: u32) -> Result<Vec<Release>> {
    let path = format!("/apps/{app}/releases");
    let range = format!("version ..; max={count}, order=desc");
    let answer = api.expect(&Request { range: Some(&range), ..Request::get(&path) }).await?;
    let mut releases: Vec<Release> = answer.list().iter().filter_map(Release::of).collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.version));
    Ok(releases)
}

/// The release that an app runs.
async fn current_of(api: &Api<'_>, app: &str) -> Result<Option<Release>> {
    Ok(newest_of(api, app, 50).await?.into_iter().find(|release| release.is_current))
}

/// The app runs this release, and nobody released anything else meanwhile.
pub(super) async fn expect_current(api: &Api<'_>, app: &str, version: u64) -> Result<()> {
    let current = current_of(api, app).await?;
    if current.as_ref().map(|release| release.version) == Some(version) {
        return Ok(());
    }
    let runs = current.map_or("nothing".to_owned(), |release| format!("v{} ({})", release.version, release.description));
    let sentence = format!("{app} runs {runs} instead of v{version}");
    Err(Error::new(Reason::TargetWrongDigest, sentence).hint("somebody else released there, or went back"))
}

impl Deploy<'_> {
    async fn releases(&self, count: u32) -> Result<Vec<Release>> {
        newest_of(&self.api, &self.work.app, count).await
    }

    pub(super) async fn newest(&self) -> Result<Option<Release>> {
        Ok(self.releases(1).await?.into_iter().next())
    }

    pub(super) async fn current(&self) -> Result<Option<Release>> {
        current_of(&self.api, &self.work.app).await
    }

    /// The first release after this one that is no deploy of images and no rollback: what a change of config vars made.
    pub(super) async fn oldest_since(&self, version: u64) -> Result<Option<Release>> {
        let is_other = |release: &Release| ["Deployed", "Rollback", "Promote"].iter().all(|word| !release.description.starts_with(word));
        Ok(self.releases(20).await?.into_iter().rev().find(|release| release.version > version && is_other(release)))
    }

    /// A release that is newer than this and is what we asked for; it may take a moment to show.
    pub(super) async fn newer_than(&self, version: u64, is_ours: &(dyn Fn(&Release) -> bool + Sync)) -> Result<Option<Release>> {
        for look in 0..LOOKS {
            let ours = self.releases(20).await?.into_iter().find(|release| release.version > version && is_ours(release));
            if ours.is_some() {
                return Ok(ours);
            }
            if look + 1 < LOOKS {
                self.api.sleep(Duration::from_secs(1)).await?;
            }
        }
        Ok(None)
    }

    /// The release that a killed run of this delivery made, unless it failed or something came after it.
    pub(super) async fn resumed(&self, images: &[(String, String)]) -> Result<Option<Release>> {
        let handle = self.site.memory.started().await;
        let Some(newest) = self.newest().await? else { return Ok(None) };
        let asked = handle.as_deref().and_then(|handle| handle.strip_prefix(INTENT)?.parse::<u64>().ok());
        let made = version_in(handle.as_deref()) == Some(newest.version);
        let taken = asked.is_some_and(|before| newest.version > before);
        if !(made || taken) || !newest.names(images) || matches!(newest.status.as_str(), "failed" | "expired") {
            return Ok(None);
        }
        self.site.say(&format!("the run before made the release v{}: it is followed", newest.version));
        self.site.note_started(&format!("{MADE}{}", newest.version)).await?;
        Ok(Some(newest))
    }

    /// Releases the images. Where Heroku makes no release, the app must have these very images released already.
    pub(super) async fn release(&self, images: &[(String, String)]) -> Result<Release> {
        let app = &self.work.app;
        let newest = self.newest().await?.map_or(0, |release| release.version);
        self.site.memory.note_started(&format!("{INTENT}{newest}")).await?; // without a journal nothing is released
        let updates: Vec<Value> = images.iter().map(|(process, config)| json!({"type": process, "docker_image": config})).collect();
        let (path, body) = (format!("/apps/{app}/formation"), json!({"updates": updates}));
        let request = Request { variant: ".docker-releases", repeats: super::api::Repeats::No, ..Request::patch(&path, &body) };
        self.is_between.store(true, Ordering::SeqCst);
        let asked = self.api.expect(&request).await;
        if asked.as_ref().is_err_and(|error| !error.lost) {
            self.is_between.store(false, Ordering::SeqCst); // refused: what ran before goes on
            asked?;
            return Err(Error::new(Reason::Internal, "a release that was refused without an error"));
        }
        if let Some(release) = self.newer_than(newest, &|release| release.names(images)).await? {
            self.site.say(&format!("v{} of {app} is made: {}", release.version, release.description));
            self.site.note_started(&format!("{MADE}{}", release.version)).await?;
            return Ok(release);
        }
        asked?; // its answer was lost, and nothing came of it
        self.released_before(images).await
    }

    /// Heroku makes no release of images that are released already. Its description names them.
    async fn released_before(&self, images: &[(String, String)]) -> Result<Release> {
        let app = &self.work.app;
        let releases = self.releases(50).await?;
        let current = releases.iter().find(|release| release.is_current);
        let deployed = releases.iter().filter(|release| release.status == "succeeded" && release.description.starts_with("Deployed"));
        // The newest release that names a process type is what that one runs, unless somebody went back since.
        let is_last = |(process, config): &(String, String)| {
            let names_it = |release: &&&Release| release.description.split(|c: char| !is_of_name(c)).any(|word| word == process);
            let last = deployed.clone().find(|release| names_it(&release))?;
            let went_back = releases.iter().any(|later| later.version > last.version && later.description.starts_with("Rollback"));
            // Whose digest is whose is read where it is written, and known anyway where there is only one.
            let is_named = last.description.contains(&format!("{process} ({})", short(config)));
            let is_only = last.names(images) && last.digests().len() == 1;
            ((is_named || is_only) && !went_back).then_some(last.version)
        };
        let since: Option<Vec<u64>> = images.iter().map(is_last).collect();
        match (current, since) {
            (Some(current), Some(since)) => {
                let since = since.into_iter().max().unwrap_or(current.version);
                self.site.say(&format!("{app} has these images already, since v{since}"));
                self.site.note_started(&format!("{MADE}{}", current.version)).await?;
                Ok(current.clone())
            }
            (current, _) => {
                let runs = current.map_or("nothing".to_owned(), |release| format!("v{} ({})", release.version, release.description));
                let sentence = format!("Heroku took the images for {app} and made no release; it runs {runs}");
                Err(Error::new(Reason::TargetWrongDigest, sentence).hint(format!("heroku releases -a {app} shows what was released")))
            }
        }
    }

    /// Follows the release phase to its end, showing its output.
    pub(super) async fn follow(&self, release: &Release) -> Result<Release> {
        let (clock, limit, app) = (&self.site.world.clock, self.work.target.timeout.0, &self.work.app);
        let (deadline, version) = (clock.now().saturating_add(limit), release.version);
        let path = format!("/apps/{app}/releases/{}", release.id);
        let (mut heard, mut said) = (Heard::default(), false);
        let mut pauses = Backoff::new(super::PAUSES.0, super::PAUSES.1);
        loop {
            let now = self.api.read(&path).await?;
            let now = Release::of(&now.body)
                .ok_or_else(|| Error::new(Reason::TargetFailed, format!("Heroku describes v{version} of {app} without its number")))?;
            match now.status.as_str() {
                "succeeded" => return Ok(now),
                "failed" | "expired" => {
                    self.is_between.store(false, Ordering::SeqCst); // Heroku goes on with what ran before
                    self.hear(&now, &mut heard, Duration::from_secs(5)).await;
                    let sentence = format!("the release phase of v{version} of {app} {}; what ran before goes on", now.status);
                    return Err(Error::new(Reason::TargetFailed, sentence)
                        .detail(heard.detail())
                        .hint(format!("heroku releases:output v{version} -a {app}")));
                }
                _pending => {}
            }
            let left = deadline.saturating_sub(clock.now());
            if left.is_zero() {
                let sentence = format!("v{version} of {app} (release {}) is still {} after {}", now.id, now.status, spoken(limit));
                let hint = "its release phase goes on there; https://status.heroku.com shows incidents";
                return Err(Error::new(Reason::TargetTimeout, sentence).detail(heard.detail()).hint(hint));
            }
            if !said {
                self.site.say(&format!("release phase of v{version} of {app}: {}", now.status));
                said = true;
            }
            self.hear(&now, &mut heard, left).await;
            self.api.sleep(self.api.pause(pauses.pause()).min(left)).await?;
        }
    }

    /// Shows what the release phase says, until it ends. A stream that breaks begins anew: what was shown is not shown again.
    async fn hear(&self, release: &Release, heard: &mut Heard, limit: Duration) {
        let Some(url) = &release.output else { return };
        let listening = async {
            let Ok(answer) = self.api.stream(url).await else { return };
            let (mut pieces, mut rest, mut at) = (answer.bytes_stream(), Vec::new(), 0);
            while let Some(Ok(piece)) = pieces.next().await {
                rest.extend_from_slice(&piece);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n').or((rest.len() > LINE_LIMIT).then_some(LINE_LIMIT)) {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    at += 1;
                    self.line(heard, &String::from_utf8_lossy(&line), at);
                }
            }
            self.line(heard, &String::from_utf8_lossy(&rest), at + 1);
        };
        tokio::select! {
            () = listening => {}
            () = self.site.world.clock.sleep(limit) => {}
            () = self.site.world.cancel.cancelled() => {}
        }
    }

    fn line(&self, heard: &mut Heard, line: &str, at: usize) {
        let plain = console::strip_ansi_codes(line).trim_end().to_owned();
        if plain.is_empty() || at <= heard.lines || self.work.target.output == crate::config::Output::Hide {
            return;
        }
        heard.lines = at;
        if heard.tail.len() == TAIL {
            heard.tail.pop_front();
        }
        self.site.world.console.relay("release", &plain);
        heard.tail.push_back(crate::tools::console::cut(&plain, 1000));
    }

    pub(super) async fn is_current(&self, version: u64) -> Result<()> {
        expect_current(&self.api, &self.work.app, version).await
    }

    /// The release is still the app's, and the registry has what was released.
    pub(super) async fn confirm(&self, version: u64) -> Result<()> {
        self.is_current(version).await?;
        if self.has_images().await? {
            return Ok(());
        }
        let sentence = format!("registry.heroku.com has other images for {} now than were released", self.work.app);
        Err(Error::new(Reason::TargetWrongDigest, sentence).hint("does somebody else push there?"))
    }
}

impl Heard {
    fn detail(&self) -> Vec<String> {
        if self.tail.is_empty() {
            return Vec::new();
        }
        std::iter::once("last lines of the release phase:".to_owned()).chain(self.tail.iter().map(|line| format!("  {line}"))).collect()
    }
}
