//! `tidegate serve`: the CD server, for sites that CI cannot reach. It takes requests and webhooks, runs one job per
//! inventory, and keeps what it accepted through restarts.

mod apps;
mod asking;
mod callback;
pub mod config;
mod guard;
mod hooks;
mod http;
mod jobs;
mod metrics;
pub mod output;
mod run;
mod secrets;
mod server;
mod slack;
mod start;
mod store;
mod trace;

#[cfg(any(test, fuzzing))]
pub(crate) use hooks::payload;
pub use run::supervise::supervise;
pub use start::{Args, run};
