//! What is counted, in Prometheus' text form. <https://prometheus.io/docs/instrumenting/exposition_formats/>

use super::jobs::{self, Job, Status};
use super::server::Server;
use crate::error::Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The upper ends of the buckets of job lengths, in seconds.
const BUCKETS: [u64; 8] = [1, 5, 15, 60, 300, 900, 1800, 3600];

/// What is counted since the server began.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    ended: Mutex<BTreeMap<&'static str, u64>>,
    lengths: [AtomicU64; 9],
    seconds: AtomicU64,
    /// Wrong secrets, tokens, passwords and signatures.
    pub refused: AtomicU64,
    /// 1 while the file is as it is used, 0 while it does not hold.
    pub config_holds: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicU64,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, route: &'static str, status: u16) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }

    /// A job ended here.
    pub fn job_ended(&self, job: &Job) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner).entry(job.status.name()).or_default() += 1;
        let (Some(started), Some(ended)) = (job.started, job.ended) else { return };
        let seconds = ended.saturating_sub(started) / 1000;
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        self.lengths.get(bucket).into_iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    /// All of it as text.
    pub async fn text(&self, server: &Server) -> Result<String> {
        let mut text = String::new();
        let running = jobs::running(&server.store).await?;
        let waiting = jobs::waiting(&server.store).await?;
        family(&mut text, "tidegate_jobs", "gauge", "Jobs by where they stand now.");
        line(&mut text, "tidegate_jobs{status=\"queued\"}", waiting as u64);
        for status in [Status::Starting, Status::Running] {
            let count = running.iter().filter(|job| job.status == status).count() as u64;
            line(&mut text, &format!("tidegate_jobs{{status=\"{}\"}}", status.name()), count);
        }
        family(&mut text, "tidegate_jobs_ended_total", "counter", "Jobs that ended on this server, by how.");
        for (status, count) in self.ended.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(&mut text, &format!("tidegate_jobs_ended_total{{status=\"{status}\"}}"), *count);
        }
        self.histogram(&mut text);
        family(&mut text, "tidegate_http_requests_total", "counter", "Requests by route and status.");
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(&mut text, &format!("tidegate_http_requests_total{{route=\"{route}\",code=\"{status}\"}}"), *count);
        }
        family(&mut text, "tidegate_refused_total", "counter", "Wrong secrets, tokens, passwords and signatures.");
        line(&mut text, "tidegate_refused_total", self.refused.load(Ordering::Relaxed));
        family(&mut text, "tidegate_config_ok", "gauge", "Whether tidegate-serve.yml holds as it is now; if not, an older one is used.");
        line(&mut text, "tidegate_config_ok", self.config_holds.load(Ordering::Relaxed));
        family(&mut text, "tidegate_deliveries_kept", "gauge", "Deliveries of webhooks that are kept and tried again.");
        line(&mut text, "tidegate_deliveries_kept", super::hooks::kept(&server.store).await? as u64);
        family(&mut text, "tidegate_connections", "gauge", "Connections that are open.");
        line(&mut text, "tidegate_connections", self.connections.load(Ordering::Relaxed));
        family(&mut text, "tidegate_uptime_seconds", "gauge", "How long the server has been up.");
        line(&mut text, "tidegate_uptime_seconds", server.uptime().as_secs());
        Ok(text)
    }

    fn histogram(&self, text: &mut String) {
        family(text, "tidegate_job_seconds", "histogram", "How long jobs ran.");
        let mut sum = 0;
        for (index, count) in self.lengths.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let end = BUCKETS.get(index).map_or("+Inf".to_owned(), u64::to_string);
            line(text, &format!("tidegate_job_seconds_bucket{{le=\"{end}\"}}"), sum);
        }
        line(text, "tidegate_job_seconds_sum", self.seconds.load(Ordering::Relaxed));
        line(text, "tidegate_job_seconds_count", sum);
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _never = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn line(text: &mut String, name: &str, value: u64) {
    let _never = writeln!(text, "{name} {value}");
}
