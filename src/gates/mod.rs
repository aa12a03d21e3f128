//! Conditions before the switch.

pub mod drain;
