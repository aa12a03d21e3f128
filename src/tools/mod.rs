//! Contact with the machine, six ways: processes, HTTP, AWS (and who we are there), waiting, the console, secrets; globs, and ids by time. No decisions here.

pub mod aws;
pub mod console;
pub mod glob;
pub mod http;
pub mod identity;
pub mod pipe;
pub mod process;
pub mod redact;
pub mod secret;
pub mod ulid;
pub mod wait;
