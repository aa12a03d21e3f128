//! The plan in words.

use crate::config::Rollback;
use crate::context::Outcome;
use crate::plan::{Action, Plan, Work};

impl Plan {
    /// The plan for a person.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.headline()];
        for image in &self.images {
            let how = match image.action {
                Action::Build => "build, unless this recipe is there already",
                Action::Reuse => "use what is there, or promote or build it",
                Action::Promote => "same digest as built at merge, or build",
            };
            let how = image.digest.as_ref().map_or(how.to_owned(), |digest| format!("the one that was delivered: {digest}"));
            lines.push(format!("  image   {}  {}:{}  ({how})", image.name, image.repository, image.tags.join(", ")));
            lines.extend(image.copies.iter().map(|copy| format!("  copy    {}  {copy}", image.name)));
        }
        lines.extend(self.url.iter().map(|url| format!("  url     {url}")));
        for gate in &self.gates {
            lines.push(format!("  gate    {}  {}", gate.id, gate.detail));
        }
        if let Some(lock) = &self.lock {
            lines.push(format!("  lease   {}  holds back {}", lock.key, lock.scope));
        }
        for step in self.steps.iter().filter(|step| is_shown(&step.work)) {
            let rollback = self.rollback.iter().flat_map(|rollback| &rollback.targets).find(|target| target.id == step.id);
            let rollback = rollback.map(|target| match target.policy {
                Rollback::Auto => format!("  (rollback: auto, {})", target.why),
                Rollback::Never => format!("  (rollback: never, {})", target.why),
            });
            let is_data = matches!(step.work, Work::Backup(_) | Work::Archive(_) | Work::Seed(_));
            let what = match (matches!(step.work, Work::Trigger(_)), is_data) {
                (true, _) => "trigger",
                (false, true) => "data   ",
                (false, false) => "target ",
            };
            lines.push(format!("  {what} {}{}", step.title, rollback.unwrap_or_default()));
        }
        lines.extend(
            self.sweeps.iter().map(|which| format!("  sweep   first, previews go that are {which} (tidegate plan sweep names them)")),
        );
        lines.extend(self.lifted.iter().map(|what| format!("  lifted  {what}")));
        lines.extend(self.left_out.iter().map(|what| format!("  without {what}")));
        lines.extend(self.warnings.iter().map(|warning| format!("  warning {warning}")));
        lines
    }

    /// The plan in one line.
    pub fn headline(&self) -> String {
        let version = self.version.as_deref().unwrap_or("?");
        let place = &self.display_environment;
        match self.outcome {
            Outcome::Deploy if self.is_back => format!("plan {}: put {version} back on {place} ({})", self.hash, self.sentence),
            Outcome::Deploy => format!("plan {}: deploy {version} to {place} ({})", self.hash, self.sentence),
            Outcome::Remove => format!("plan {}: close {place} ({})", self.hash, self.sentence),
            Outcome::Skip => format!("nothing to do: {} ({})", self.sentence, self.reason),
            Outcome::Refuse => {
                let (first, rest) = self.sentence.split_once('\n').unwrap_or((&self.sentence, ""));
                format!("refused: {first} ({})\n{rest}", self.reason).trim_end().to_owned()
            }
        }
    }
}

fn is_shown(work: &Work) -> bool {
    matches!(
        work,
        Work::Backup(_)
            | Work::Archive(_)
            | Work::Seed(_)
            | Work::Migrate(_)
            | Work::Target(_)
            | Work::Trigger(_)
            | Work::Remove(_)
            | Work::RemovePreview
    )
}
