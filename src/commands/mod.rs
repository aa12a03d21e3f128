//! One thin file per command that is not a delivery.

pub mod backup;
pub mod check;
pub mod drain;
pub mod explain;
pub mod init;
pub mod lock;
pub mod place;
pub mod plan;
pub mod quarantine;
pub mod restore;
pub mod schema;
pub mod status;
pub mod trigger;
