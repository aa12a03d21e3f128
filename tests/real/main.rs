//! The same stories against real parts: the Docker engine, docker-registry behind an ECR front, moto, Prism, skopeo.
//!
//! `tests/run` starts the parts and says where they are; without that these tests fail by name rather than pass by luck.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    dead_code
)]

#[path = "../it/cd.rs"]
mod cd;
#[path = "../it/never_twice.rs"]
mod never_twice;
#[path = "../it/serve.rs"]
mod serve;
#[path = "../it/serve_attacks.rs"]
mod serve_attacks;
#[path = "../it/serve_hooks.rs"]
mod serve_hooks;
#[path = "../it/serve_lost.rs"]
mod serve_lost;
#[path = "../it/tls.rs"]
mod tls;
#[path = "../it/world.rs"]
mod world;

mod app_deploy;
mod awx;
mod backup;
mod container;
mod ecs;
mod github;
mod gitlab;
mod heroku;
mod image;
mod kube;
mod kubectl;
mod parts;
mod prism;
mod queues;
mod serve_docker;
mod serve_page;
mod serve_parts;
mod serve_replicas;
mod serve_store;
mod state;
mod swarm;
mod trigger;

/// The store of CD servers in these stories: a real Redis, each with keys of its own.
fn cd_store(vars: &mut std::collections::BTreeMap<String, String>) -> String {
    vars.insert("TIDEGATE_REDIS_PASSWORD".into(), parts::part("TIDEGATE_REAL_REDIS_PASSWORD"));
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("store: redis://{}\nstore-prefix: cd-{}-{number}\n", parts::part("TIDEGATE_REAL_REDIS"), std::process::id())
}
