//! What a person sees of a build: a line per step that did something, its output, the tail kept for failures.

use super::image::Job;
use crate::world::World;
use bollard::moby::buildkit::v1::StatusResponse;
use std::collections::{HashMap, HashSet, VecDeque};

const LOG_TAIL: usize = 25;

/// What a person sees of a build: a line per step that did something, its output folded in CI, the tail kept for failures.
pub(super) struct Progress<'a> {
    world: &'a World,
    image: &'a str,
    names: HashMap<String, String>,
    ended: HashSet<String>,
    tail: VecDeque<String>,
    error: Option<String>,
    open: bool,
}

impl<'a> Progress<'a> {
    pub fn new(job: &Job<'a>) -> Self {
        let (world, image) = (job.world, job.image.name.as_str());
        if job.alone {
            world.console.group(&format!("build {image}"));
        }
        Self { world, image, names: HashMap::new(), ended: HashSet::new(), tail: VecDeque::new(), error: None, open: job.alone }
    }

    pub fn show(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            self.names.insert(vertex.digest.clone(), vertex.name.clone());
            if !vertex.error.is_empty() {
                self.error = Some(format!("{}: {}", vertex.name, vertex.error));
            }
            let inner =
                vertex.name.starts_with("[internal]") || vertex.name.starts_with("exporting") || vertex.name.starts_with("importing");
            if let (Some(started), Some(ended)) = (&vertex.started, &vertex.completed)
                && !inner
                && self.ended.insert(vertex.digest.clone())
                && vertex.error.is_empty()
            {
                let seconds =
                    ended.seconds.saturating_sub(started.seconds) as f64 + f64::from(ended.nanos.saturating_sub(started.nanos)) / 1e9;
                let time = if vertex.cached { "cached".to_owned() } else { format!("{seconds:.1}s") };
                self.world.console.relay(self.image, &format!("{} {time}", vertex.name));
            }
        }
        for log in &status.logs {
            for line in String::from_utf8_lossy(&log.msg).lines().filter(|line| !line.trim().is_empty()) {
                self.world.console.relay(self.image, line);
                let line = self.world.console.redactor().clean(line);
                self.tail.push_back(line.chars().filter(|c| !c.is_control()).take(300).collect());
                if self.tail.len() > LOG_TAIL {
                    self.tail.pop_front();
                }
            }
        }
    }

    /// BuildKit's own words about the step that failed, rather than the stream's.
    pub fn cause(&self, otherwise: &str) -> String {
        self.error.clone().unwrap_or_else(|| otherwise.to_owned())
    }

    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    pub fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.world.console.end_group();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.close();
    }
}
