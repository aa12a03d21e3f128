//! A laptop, or any place without a known CI system: git in the working directory, and flags.

use super::{Event, Kind};
use crate::checkout::Checkout;
use crate::error::Result;
use crate::vars::Vars;

/// What git knows here. A folder without git is fine: flags can name every fact.
pub fn read(vars: &Vars) -> Result<Event> {
    let mut event = Event::of(Kind::Manual);
    let server = vars.get("GITHUB_SERVER_URL").unwrap_or("https://github.com");
    let host = server.split("://").nth(1).unwrap_or(server).trim_end_matches('/');
    let checkout = Checkout::here();
    event.set_sha(checkout.head());
    event.set_ref(checkout.branch().map(|branch| format!("refs/heads/{branch}")));
    event.default_branch = checkout.default_branch();
    event.actor = vars.get("USER").map(str::to_owned);
    event.more.repository = checkout.forge_repository(host);
    event.more.run.attempt = 1;
    event.settle_default_branch();
    Ok(event)
}
