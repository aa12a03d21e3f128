//! Stories: the built binary against the sandbox of `rehearse`. One file per event and per part; the transcript of what
//! the outside saw is part of the answer. Every success has a lying twin.

// In a test a failed expectation is the message.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods
)]

mod access;
mod action;
mod ancestry;
mod app_deploy;
mod awx;
mod backup;
mod broken;
mod by_hand;
mod cancel;
mod cd;
mod command;
mod comments;
mod contracts;
mod copies;
mod directives;
mod doctor;
mod drain;
mod ecs;
mod events;
mod forks;
mod gitlab;
mod gitops;
mod heroku;
mod hostile;
mod hotfix;
mod image;
mod init;
mod kubernetes;
mod kubernetes_apply;
mod kubernetes_rollback;
mod life;
mod lost;
mod merge;
mod migrate;
mod mistakes;
mod monorepo;
mod never_twice;
mod order;
mod promotion;
mod properties;
mod proxy;
mod pull_request;
mod rehearse;
mod release;
mod reliability;
mod rollback;
mod scan;
mod serve;
mod serve_attacks;
mod serve_docs;
mod serve_hooks;
mod serve_lost;
mod state;
mod swarm;
mod sweep;
mod tls;
mod trigger;
mod webhook;
mod world;

/// The store of CD servers in these stories: the embedded one.
fn cd_store(_vars: &mut std::collections::BTreeMap<String, String>) -> String {
    String::new()
}
