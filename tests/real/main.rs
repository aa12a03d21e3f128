//! The same stories against real parts: the Docker engine, docker-registry behind an ECR front, moto, Prism, skopeo.
//!
//! `tests/run` starts the parts and says where they are; without that these tests fail by name rather than pass by luck.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice, clippy::disallowed_methods, dead_code)]

#[path = "../it/never_twice.rs"]
mod never_twice;
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
mod state;
mod swarm;
mod trigger;
