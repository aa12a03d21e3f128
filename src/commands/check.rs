//! `tidegate check`: is the file right? Offline.

use crate::config;
use crate::error::Result;
use crate::tools::console::Console;
use std::path::Path;

/// Validates the configuration, and refuses keys that this version cannot act on.
pub fn run(console: &Console, file: Option<&Path>) -> Result<()> {
    let loaded = config::load(file)?;
    config::refuse_unsupported(&loaded, None)?;
    let config = &loaded.config;
    let count = |number: usize, one: &str| if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") };
    let (images, environments) = (count(config.images.len(), "image"), count(config.environments.len(), "environment"));
    console.good(&format!("{} is valid: {images}, {environments}", loaded.file));
    Ok(())
}
