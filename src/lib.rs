//! tidegate: one CI step that decides, builds once, waits for quiet queues, deploys, proves what runs, and tells.
//!
//! In reading order:
//!
//! 1. [`event`] what happened: CI variables and a payload become an [`event::Event`]; [`inputs`] what the step asks for.
//! 2. [`config`] `tidegate.yml` as types; [`version`] what versions are.
//! 3. [`gather`] reads the few facts that the event does not hold; [`context`] decides; [`plan`] lists the steps.
//!    `context` and `plan` are pure: same inputs, same hash.
//! 4. [`run`] carries the plan out with [`steps`], [`gates`] and [`targets`]; [`registry`] and [`forge`] are the outside.
//!    [`state`] keeps leases and records: who may go now, and what runs where.
//!    [`backup`] saves databases before they change, proves what it saved, and brings it back.
//! 5. [`report`] says what happened: log, outputs, summary, comment.
//! 6. [`sweep`] finds previews that have had their time, and removes them as the events would have.
//! 7. [`serve`] is the CD server: a long-lived process that takes requests and webhooks and runs jobs.
//! 8. [`doctor`] tries beforehand what a run will need. [`rehearse`] is an outside of our own, in this process.
//!
//! Invariants: nothing outside changes before the plan is printed; `deployed` is said only when what runs was
//! identified; a failure to tell never changes a verdict; secrets are values of [`tools::secret::Secret`], never text.

pub mod backup;
pub mod checkout;
pub mod cli;
pub mod commands;
pub mod config;
pub mod context;
pub mod delivery;
pub mod doctor;
pub mod error;
pub mod event;
pub mod forge;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gates;
pub mod gather;
pub mod inputs;
mod occasion;
pub mod plan;
pub mod registry;
pub mod rehearse;
pub mod report;
pub mod run;
pub mod serve;
pub mod state;
pub mod steps;
pub mod sweep;
pub mod targets;
pub mod tools;
pub mod variables;
pub mod vars;
pub mod version;
pub mod world;
