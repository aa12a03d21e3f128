//! Contact with the machine, six ways: processes, HTTP, AWS, waiting, the console, secrets. No decisions here.

pub mod aws;
pub mod console;
pub mod http;
pub mod process;
pub mod secret;
pub mod wait;
