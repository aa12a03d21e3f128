//! Spans of jobs, sent as OTLP over HTTP where `OTEL_EXPORTER_OTLP_ENDPOINT` says so.
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use super::jobs::{Job, Status};
use crate::error::Result;
use crate::tools::http;
use crate::world::World;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a collector may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Where spans go.
pub struct Traces {
    collector: Option<Collector>,
}

struct Collector {
    client: reqwest::Client,
    url: String,
    headers: Vec<(String, String)>,
}

impl Traces {
    /// The collector of the environment, as the specification names its variables.
    pub fn new(world: &World) -> Result<Self> {
        let direct = world.vars.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(str::to_owned);
        let base = world.vars.get("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}/v1/traces", base.trim_end_matches('/')));
        let Some(url) = direct.or(base) else { return Ok(Self { collector: None }) };
        let headers = world.vars.get("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
        let headers =
            headers.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.trim().into(), value.trim().into()));
        Ok(Self { collector: Some(Collector { client: http::client(&world.vars)?, url, headers: headers.collect() }) })
    }

    /// Sends the span of a job that ended, with its wait and its run as children. A collector that is away loses it.
    pub async fn job(&self, job: &Job) {
        let Some(Collector { client, url, headers }) = &self.collector else { return };
        let mut request = client.post(url).timeout(LIMIT).json(&spans(job));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let _away = request.send().await;
    }
}

/// The trace and the span of a job: what its sender began, or one of its own.
pub fn child_of(parent: Option<&str>) -> String {
    let trace = parent.and_then(parse).map_or_else(crate::report::outputs::random, |(trace, _span)| trace);
    let span: String = crate::report::outputs::random().chars().take(16).collect();
    format!("00-{trace}-{span}-01")
}

/// Trace and span of a `traceparent`. <https://www.w3.org/TR/trace-context/#traceparent-header>
fn parse(text: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = text.split('-').collect();
    let [_version, trace, span, _flags] = parts.as_slice() else { return None };
    let is_hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            && text.bytes().any(|byte| byte != b'0')
    };
    (is_hex(trace, 32) && is_hex(span, 16)).then(|| ((*trace).to_owned(), (*span).to_owned()))
}

fn spans(job: &Job) -> Value {
    let (trace, span) = job.traceparent.as_deref().and_then(parse).unwrap_or_default();
    let ended = job.ended.unwrap_or(job.accepted);
    let started = job.started.unwrap_or(ended);
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let attributes = [
        text("tidegate.app", &job.app),
        text("tidegate.inventory", &job.inventory),
        text("tidegate.job", &job.id),
        text("tidegate.by", &job.by),
        text("tidegate.status", job.status.name()),
    ];
    let one = |name: &str, id: &str, parent: &str, from: u64, to: u64| {
        json!({"traceId": trace, "spanId": id, "parentSpanId": parent, "name": name, "kind": 1,
               "startTimeUnixNano": format!("{from}000000"), "endTimeUnixNano": format!("{to}000000"), "attributes": attributes,
               "status": {"code": if job.status == Status::Success { 1 } else { 2 }, "message": job.detail}})
    };
    let other = |id: usize| format!("{}{id:02x}", span.get(..14).unwrap_or_default());
    let spans = [
        one(&format!("job {}", job.app), &span, "", job.accepted, ended),
        one("wait", &other(1), &span, job.accepted, started),
        one("run", &other(2), &span, started, ended),
    ];
    json!({"resourceSpans": [{"resource": {"attributes": [text("service.name", "tidegate-serve"), text("service.version", env!("CARGO_PKG_VERSION"))]},
           "scopeSpans": [{"scope": {"name": "tidegate"}, "spans": spans}]}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_belongs_to_the_trace_of_its_sender() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"; // the example of the specification
        let child = child_of(Some(parent));
        assert!(child.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && child.ends_with("-01") && child != parent);
        for wrong in [
            None,
            Some("x"),
            Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            Some("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
        ] {
            assert!(parse(&child_of(wrong)).is_some());
        }
    }
}
