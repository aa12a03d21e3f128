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
    let gitlab = vars.get("CI_SERVER_URL").or_else(|| vars.get("GITLAB_HOST")).unwrap_or("https://gitlab.com");
    let (scheme, gitlab_host) = gitlab.split_once("://").unwrap_or(("https", gitlab));
    let gitlab_host = gitlab_host.trim_end_matches('/');
    event.more.repository = checkout.forge_repository(host);
    if event.more.repository.is_none() {
        event.more.repository = checkout.forge_repository(gitlab_host);
        event.more.gitlab = event.more.repository.is_some().then(|| format!("{scheme}://{gitlab_host}/api/v4"));
    }
    event.more.run.attempt = 1;
    event.settle_default_branch();
    Ok(event)
}
