//! `tidegate check`: is the file right? Offline.

use crate::config;
use crate::error::Result;
use crate::tools::console::{Console, count};
use std::path::Path;

/// Validates the configuration, and refuses keys that this version cannot act on.
pub fn run(console: &Console, file: Option<&Path>) -> Result<()> {
    let loaded = config::load(file)?;
    config::refuse_unsupported(&loaded, None)?;
    let config = &loaded.config;
    let images = count(config.images.len(), "image", "images");
    let environments = count(config.environments.len(), "environment", "environments");
    console.good(&format!("{} is valid: {images}, {environments}", loaded.file));
    Ok(())
}
