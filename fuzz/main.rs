//! One program for every target: TIDEGATE_FUZZ names it. libFuzzer's own flags follow as usual.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tidegate::fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("TIDEGATE_FUZZ").unwrap_or_default();
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("TIDEGATE_FUZZ is {wanted:?}; the targets are {}", known.join(", "))).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
