//! The steps around the switch.

pub mod aliases;
pub mod context_tar;
pub mod copies;
pub mod endpoint;
pub mod engine;
pub mod image;
mod progress;
pub mod recipe;
pub mod session;
pub mod trigger;
