//! Conditions before the switch.

pub mod drain;
pub mod order;
