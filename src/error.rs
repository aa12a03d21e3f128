//! What went wrong, in words a person can act on: a sentence, a hint, a reason code and the exit code it means.

use std::fmt;

/// Declares the closed list of reason codes once: variant, wire name, exit code and the sentence for `docs/reason-codes.md`.
macro_rules! reasons {
    ($($variant:ident $name:literal $exit:literal $meaning:literal;)*) => {
        /// Why a run ended as it did. A closed list: scripts match on these strings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($variant),* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];

            /// The stable name, as in outputs and reports.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name),* }
            }

            /// The exit code of a run that ends for this reason.
            pub fn exit_code(self) -> u8 {
                match self { $(Reason::$variant => $exit),* }
            }

            /// One sentence for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => $meaning),* }
            }
        }
    };
}

reasons! {
    Deployed "deploy.done" 0 "Everything asked for runs, and was identified.";
    Built "image.built" 0 "The environment has no `deploy:`; the images were built or reused and tagged.";
    Triggered "trigger.done" 0 "Nothing is deployed here; the pipelines elsewhere were started, and ended well where they were followed.";
    ImageReused "image.reused" 0 "The same recipe was already in the registry; nothing was built (later: today the report's images say `how`).";
    Removed "preview.removed" 0 "The preview is gone: its pull request is closed, or `ttl` or `max` says so.";
    PreviewKept "preview.kept" 0 "The preview is over; its workloads were not made by tidegate and were left as they are.";
    Planned "event.matched" 0 "An environment claims this event.";
    EventIgnored "event.ignored" 0 "No environment claims this event.";
    EventUnknown "event.unknown" 0 "tidegate does not know this event or action.";
    EventDeleted "event.deleted" 0 "A branch or tag was deleted; there is nothing to deploy.";
    EventFork "event.fork" 0 "The pull request comes from a fork (or its repository is gone); untrusted code gets no secrets.";
    EventNoSecrets "event.no-secrets" 0 "The run has no secrets (Dependabot); it cannot deploy.";
    EventDraft "event.draft" 0 "Draft pull requests and draft releases are not deployed.";
    EventLabel "event.label" 0 "The pull request lacks the label that the preview asks for.";
    EventPrerelease "event.prerelease" 0 "The environment does not take pre-releases.";
    EventNotAVersion "event.not-a-version" 0 "The tag is not a version, so `when: release` does not claim it.";
    EventOffDefault "event.off-default" 0 "The released commit is not on the default branch, and it takes no lane for hot fixes (`hotfix:`).";
    EventMergeGroup "event.merge-group" 0 "A merge queue only checks; the merge itself deploys.";
    EventSchedule "event.schedule" 0 "A schedule deploys nothing by itself.";
    EventUntrusted "event.untrusted" 0 "`pull_request_target` and `workflow_run` mix secrets with untrusted code; only removal is done there.";
    EventDirective "event.directive" 0 "A directive in the commit message or the pull request says so (`[tidegate skip]`, `[tidegate preview=off]`).";
    EventCondition "event.condition" 0 "The environment's `if:` is not met.";
    Superseded "order.superseded" 0 "Something newer already runs there; nothing was touched.";
    BuildFailed "build.failed" 1 "The image could not be built.";
    PushFailed "push.failed" 1 "The image could not be pushed or read back.";
    TargetFailed "target.failed" 1 "The target reported a failure.";
    TargetImagePull "target.image-pull" 1 "The target cannot pull the image.";
    TargetCrashLoop "target.crash-loop" 1 "The new version starts and dies.";
    TargetUnschedulable "target.unschedulable" 1 "No node can take the new pods.";
    TargetQuota "target.quota" 1 "A quota or an admission rule refuses the new pods.";
    TargetProbe "target.probe" 1 "The new version runs but its readiness or liveness probe fails.";
    TargetConfig "target.container-config" 1 "The container cannot be created from its configuration.";
    TargetRolledBack "target.rolled-back" 1 "The new version failed, and what ran before runs again: by `rollback: auto`, or by the platform itself.";
    TargetWrongDigest "target.wrong-digest" 1 "What runs is not what was asked for.";
    TargetMissing "target.missing" 1 "The workload, namespace, container or queue does not exist.";
    MigrationFailed "migration.failed" 1 "A migration ended with another exit code than 0, or its output says that it failed.";
    BackupFailed "backup.failed" 1 "A backup could not be made, or not be proven good; nothing was switched.";
    RestoreFailed "restore.failed" 1 "A backup could not be restored; the sentence says what the database holds now.";
    TriggerFailed "trigger.failed" 1 "A pipeline that was started elsewhere did not end well, or could not be started.";
    DrainFailed "drain.failed" 1 "A queue could not be read, so it cannot be called quiet.";
    HookFailed "hook.failed" 1 "A pause or resume command failed.";
    ForgeFailed "forge.failed" 1 "The forge (GitHub, GitLab) did not answer as needed.";
    LockLost "lock.lost" 1 "The lease was taken away while the run went on; what runs there is another run's business now.";
    Internal "internal" 1 "A bug in tidegate; please report it.";
    ConfigInvalid "config.invalid" 2 "tidegate.yml has a mistake.";
    ConfigMissing "config.missing" 2 "There is no tidegate.yml.";
    ConfigUnsupported "config.unsupported" 2 "A key is known but this version of tidegate cannot do it yet.";
    ConfigOverlap "config.overlap" 2 "More than one environment claims the same event.";
    InputInvalid "input.invalid" 2 "A flag, an input or a variable has an impossible value.";
    InputVersion "input.version" 2 "The version is not a usable name, or does not exist.";
    InputEnvironment "input.environment" 2 "The environment is missing or not in tidegate.yml.";
    InputEvent "input.event" 2 "The event payload is missing or broken, or a fact it should hold is.";
    TargetInput "target.input" 2 "The target does not take what it is given: a prompt that is off, a field that is owned by another, a node that is no manager.";
    TriggerInput "trigger.input" 2 "The pipeline elsewhere does not take what it is given: no such workflow, an input it does not know, a limit.";
    ToolMissing "tool.missing" 2 "A needed tool (the Docker engine, git, ssh, a program of the configuration) is not there.";
    ToolVersion "tool.version" 2 "A tool is there, and too old for what it has to work with: pg_dump for a newer server.";
    InputBackup "input.backup" 2 "The backup that is asked for does not exist, or is of another kind than the database.";
    VersionConflict "version.conflict" 2 "This version exists already, made from something else.";
    ProviderAmbiguous "provider.ambiguous" 2 "The variables of two CI systems are set at once.";
    ScanTimeout "scan.timeout" 3 "The registry did not end its scan of the image in time.";
    DrainTimeout "drain.timeout" 3 "The queues did not become quiet in time.";
    TargetTimeout "target.timeout" 3 "The target did not settle in time.";
    TriggerTimeout "trigger.timeout" 3 "A pipeline that was started elsewhere did not end in time.";
    BackupTimeout "backup.timeout" 3 "A backup or a restore did not end in time; what it had begun was taken back.";
    LockTimeout "lock.timeout" 3 "Another run held the lease of the environment for too long.";
    LockUnreachable "lock.unreachable" 4 "The store of leases and records cannot be read or written, so nothing is deployed.";
    LockScope "lock.scope" 4 "The lease holds back no other run (a file on a throw-away runner, a job without resource group) and the environment is `manual`; or it is another environment's (`environment:` of a GitLab job).";
    GateFreeze "gate.freeze" 4 "A deploy freeze is on (`freeze:`, or GitLab's `CI_DEPLOY_FREEZE`); previews go on, and so do environments that only build.";
    GateAfter "gate.after" 4 "The same image has not succeeded in the environment that must come before (`after:`).";
    GateSoak "gate.soak" 4 "The same image has not run there for long enough (`soak:`).";
    GateScan "gate.scan" 4 "The registry's scan found something too severe, or could not scan the image (`gates: [{scan: …}]`).";
    GateQuarantined "gate.quarantined" 4 "The image is in quarantine (`tidegate quarantine`).";
    GateHotfix "gate.hotfix" 4 "It is no hot fix: its branch, its number or its history does not fit, or `hotfix: forbid`.";
    GateMigration "gate.migration" 4 "A migration that is not `backward-compatible` lies between the two versions, so the older one may not fit the database.";
    RestoreRefused "restore.refused" 4 "A restore would replace what people work with, and nobody said its name (`--yes-restore NAME`).";
    OrderUnknown "order.unknown" 4 "It cannot be said whether the version is newer than what runs, and nobody asked for it by hand.";
    OrderChanged "order.changed" 4 "While a rollback waited, something else was delivered there; nothing was switched.";
    TagMoved "tag.moved" 4 "A released tag points elsewhere now; versions do not change.";
    AuthDenied "auth.denied" 5 "The credentials lack a permission.";
    AuthExpired "auth.expired" 5 "The credentials have expired.";
    AuthMissing "auth.missing" 5 "There are no credentials.";
    Cancelled "run.cancelled" 130 "The run was cancelled.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A failure as a person meets it. `sentence` says what and where, `hint` how to go on, `detail` what the outside said.
#[derive(Clone, Debug)]
pub struct Error {
    /// The reason code; it decides the exit code.
    pub reason: Reason,
    /// What happened, and where.
    pub sentence: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Lines from the outside world (events, log lines), shown under the sentence.
    pub detail: Vec<String>,
    /// The thing itself is not there (any more).
    pub gone: bool,
    /// Whether it was done all the same is not known: the answer was lost.
    pub lost: bool,
}

/// The result of everything that can fail in front of a user.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure with its reason and sentence.
    pub fn new(reason: Reason, sentence: impl Into<String>) -> Self {
        Self { reason, sentence: sentence.into(), hint: None, detail: Vec::new(), gone: false, lost: false }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what the outside said.
    pub fn detail(mut self, lines: Vec<String>) -> Self {
        self.detail = lines;
        self
    }

    /// The lines under `error:`, without decoration: sentence, detail, hint.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.sentence.lines().map(str::to_owned).collect();
        lines.extend(self.detail.iter().map(|line| format!("  {line}")));
        lines.extend(self.hint.iter().flat_map(|hint| hint.lines()).map(|line| format!("  → {line}")));
        lines
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Error {}

/// What is true after a run, or of one target of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What was asked for runs, and was identified.
    Deployed,
    /// The preview is gone.
    Removed,
    /// There was nothing to do.
    Skipped,
    /// Something newer runs there.
    Superseded,
    /// A step failed.
    Failed,
    /// The platform went back to the previous version.
    RolledBack,
    /// It cannot be said what runs.
    Unknown,
    /// Waiting ended at the deadline.
    TimedOut,
    /// A gate or policy said no.
    Refused,
    /// The run was cancelled.
    Cancelled,
}

impl Verdict {
    /// The verdict of a run that ended with this error.
    pub fn of(error: &Error) -> Self {
        if error.reason == Reason::TargetRolledBack {
            return Self::RolledBack;
        }
        if error.reason == Reason::LockLost {
            return Self::Unknown;
        }
        match error.reason.exit_code() {
            0 if error.reason == Reason::Superseded => Self::Superseded,
            0 => Self::Skipped,
            3 => Self::TimedOut,
            4 => Self::Refused,
            130 | 143 => Self::Cancelled,
            _ => Self::Failed,
        }
    }

    /// The wire name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Removed => "removed",
            Self::Skipped => "skipped",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Unknown => "unknown",
            Self::TimedOut => "timed-out",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}
