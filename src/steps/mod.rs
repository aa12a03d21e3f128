//! The steps before the switch.

pub mod aliases;
pub mod context_tar;
pub mod engine;
pub mod image;
pub mod session;
