//! What the journal says of a deployment on ECS: how far a run came that was killed. It is short: GitHub keeps 140 characters.

/// How far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub step: Step,
    /// The number of the revision that is deployed; the family is known.
    pub revision: u64,
}

/// The last thing that is known to have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The revision is registered; its task or the deployment may have begun.
    Registered,
    /// Its task was started.
    Task(String),
    /// Its task did not end well.
    Failed(String),
    /// Its task ended well; the deployment may have begun.
    Passed,
    /// The deployment has begun.
    Deployment(String),
}

impl Noted {
    /// From its text.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let (step, revision) = match words.as_slice() {
            ["revision", revision] => (Step::Registered, revision),
            ["task", task, "of", revision] => (Step::Task((*task).to_owned()), revision),
            ["failed", task, "of", revision] => (Step::Failed((*task).to_owned()), revision),
            ["passed", revision] => (Step::Passed, revision),
            ["deployment", id, "of", revision] => (Step::Deployment((*id).to_owned()), revision),
            _other => return None,
        };
        Some(Self { step, revision: revision.parse().ok()? })
    }

    /// Whether the task need not be run any more.
    pub fn has_passed(&self) -> bool {
        matches!(self.step, Step::Passed | Step::Deployment(_))
    }
}

impl std::fmt::Display for Noted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, revision } = self;
        match step {
            Step::Registered => write!(f, "revision {revision}"),
            Step::Task(task) => write!(f, "task {task} of {revision}"),
            Step::Failed(task) => write!(f, "failed {task} of {revision}"),
            Step::Passed => write!(f, "passed {revision}"),
            Step::Deployment(id) => write!(f, "deployment {id} of {revision}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for step in [Step::Registered, Step::Task("t".into()), Step::Failed("t".into()), Step::Passed, Step::Deployment("d".into())] {
            let noted = Noted { step, revision: 8 };
            assert_eq!(Noted::parse(&noted.to_string()), Some(noted));
        }
        assert_eq!(Noted::parse("job 42"), None);
    }
}
