//! Conditions before the switch.

use crate::error::{Error, Reason, Result};

pub mod after;
pub mod drain;
pub mod freeze;
pub mod order;
pub mod quarantine;
pub mod scan;

/// A gate that a person may lift, with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Gate {
    /// The same image must have succeeded elsewhere, for long enough
    After,
    /// The queues must be quiet
    Drain,
    /// Nothing is deployed in this time
    Freeze,
    /// The registry's scan must find nothing too severe
    Scan,
    /// The database must be saved first
    Backup,
    /// A migration lies between what runs and what it goes back to
    Migration,
}

/// Gates that a person lifts for one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// The gates.
    pub gates: Vec<Gate>,
    /// Why.
    pub reason: String,
}

impl Override {
    /// Nothing is lifted without a reason.
    pub fn parse(gates: Vec<Gate>, reason: Option<String>) -> Result<Self> {
        let reason = reason.unwrap_or_default().trim().to_owned();
        match (gates.is_empty(), reason.is_empty()) {
            (true, true) => Ok(Self::default()),
            (false, false) => Ok(Self { gates, reason }),
            (false, true) => Err(Error::new(Reason::InputInvalid, "a gate is lifted without a reason")
                .hint("say why with --reason TEXT (input `reason`): it is kept with the record of the delivery")),
            (true, false) => Err(Error::new(Reason::InputInvalid, "a reason is given, and no gate that it lifts")
                .hint("name the gate with --override after, drain, freeze, scan, backup or migration, or leave the reason out")),
        }
    }

    /// Whether this gate is lifted.
    pub fn lifts(&self, gate: Gate) -> bool {
        self.gates.contains(&gate)
    }
}
