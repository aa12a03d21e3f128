//! Rules of `gates:` that go across keys.

use super::check::Checker;
use super::{Drain, Scan};

impl Checker<'_> {
    pub(super) fn drain(&mut self, path: &str, drain: &Drain) {
        for (n, queue) in drain.queues.iter().enumerate() {
            let at = format!("{path}.queues[{n}]");
            self.placeholders(&at, queue);
            let stars = queue.matches('*').count();
            if queue.is_empty() || queue == "*" || stars > 1 || (stars == 1 && !queue.ends_with('*')) {
                self.report(
                    &at,
                    format!("{queue:?} is not a queue"),
                    "a name, an address, or the beginning of names followed by *, as jobs-*",
                );
            }
        }
        for (n, region) in drain.regions.iter().enumerate() {
            let at = format!("{path}.regions[{n}]");
            let parts = region.split('-').count();
            if parts < 3 || !region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
                self.report(&at, format!("{region:?} is not a region"), "write it as us-west-2");
            }
        }
        if drain.quiet.0.is_zero() {
            self.report(&format!("{path}.quiet"), "a single look proves nothing", "AWS asks for several minutes of zero: 2m or more");
        }
        if drain.quiet.0 >= drain.timeout.0 {
            let hint = format!("give `timeout:` more than {}", drain.quiet);
            self.report(&format!("{path}.quiet"), format!("{} of quiet do not fit into a timeout of {}", drain.quiet, drain.timeout), hint);
        }
        match (&drain.pause, &drain.resume) {
            (Some(_), None) => self.report(&format!("{path}.pause"), "the producers would stay stopped", "add `resume:`"),
            (None, Some(_)) => self.report(&format!("{path}.resume"), "nothing was paused", "add `pause:`, or remove this"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        for (name, hook) in [("pause", &drain.pause), ("resume", &drain.resume)] {
            for (n, word) in hook.iter().flat_map(|hook| &hook.command).enumerate() {
                self.placeholders(&format!("{path}.{name}.command[{n}]"), word);
            }
            if hook.as_ref().is_some_and(|hook| hook.command.first().is_none_or(String::is_empty)) {
                self.report(&format!("{path}.{name}"), "the command is empty", "write it as [./producers, stop]");
            }
        }
    }

    pub(super) fn scan(&mut self, path: &str, scan: &Scan) {
        let elsewhere = self.config.images.iter().find(|(_, image)| !crate::registry::is_ecr(&image.repository));
        if let Some((name, image)) = elsewhere {
            let hint = "scan it in a job of its own, before tidegate";
            self.report(path, format!("the findings are those of ECR, and the image {name} is at {}", image.repository), hint);
        }
        if scan.settle.0 >= scan.timeout.0 {
            self.report(&format!("{path}.settle"), "it would never settle", format!("give `timeout:` more than {}", scan.settle));
        }
        for (n, allowed) in scan.allow.iter().enumerate() {
            if jiff::civil::Date::strptime("%Y-%m-%d", &allowed.until).is_err() {
                self.report(&format!("{path}.allow[{n}].until"), format!("{:?} is no day", allowed.until), "write it as 2026-12-31");
            }
        }
    }
}
