//! `proof:` of commands and webhooks: how it is known that the version runs, by an address or a program that says so.

use super::Site;
use crate::config::{CommandProof, HttpProof, Proof, template::Values};
use crate::error::{Error, Reason, Result};
use crate::tools::http::{self, chain};
use crate::tools::process::{End, Program};
use crate::tools::wait::Backoff;
use std::sync::Mutex;
use std::time::Duration;

/// How much of an answer is read.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// How long the first pause between looks is, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What one look found.
enum Seen {
    /// The text is there.
    Yes(String),
    /// It is not; what was there instead.
    No(String),
}

/// Looks until the text is there or the deadline has come.
pub async fn wait(site: &Site<'_>, values: &Values, proof: &Proof, deadline: Duration) -> Result<String> {
    let clock = &site.world.clock;
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut said = String::new();
    loop {
        let seen = tokio::select! {
            seen = look(site, values, proof) => seen?,
            () = site.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, "cancelled while the proof was waited for")),
        };
        let instead = match seen {
            Seen::Yes(proof) => return Ok(proof),
            Seen::No(instead) => instead,
        };
        if clock.now() >= deadline {
            return Err(Error::new(Reason::TargetWrongDigest, format!("{} was done, but the proof says otherwise: {instead}", site.step))
                .hint("what runs is not what was asked for, or the proof looks at the wrong place"));
        }
        if instead != said {
            site.say(&format!("not yet: {instead}"));
            said = instead;
        }
        let pause = backoff.pause().min(deadline.saturating_sub(clock.now()));
        tokio::select! {
            () = clock.sleep(pause) => {}
            () = site.world.cancel.cancelled() => {}
        }
    }
}

/// One look: the proof, if it holds now.
pub async fn holds(site: &Site<'_>, values: &Values, proof: &Proof) -> Result<Option<String>> {
    Ok(match look(site, values, proof).await? {
        Seen::Yes(proof) => Some(proof),
        Seen::No(_) => None,
    })
}

async fn look(site: &Site<'_>, values: &Values, proof: &Proof) -> Result<Seen> {
    match proof {
        Proof::Http(http) => at_address(site, values, http).await,
        Proof::Command(command) => of_program(site, values, command).await,
        Proof::Answer(_) => Ok(Seen::No("only the answer itself can say".into())),
    }
}

async fn at_address(site: &Site<'_>, values: &Values, proof: &HttpProof) -> Result<Seen> {
    let fill = |text: &str| site.fill(values, text);
    let (url, wanted) = (fill(&proof.url)?, fill(&proof.contains)?);
    safe(&url, &shown(&url))?;
    if site.world.rehearsal {
        return Ok(Seen::Yes(format!("{} would be asked for {wanted}", shown(&url))));
    }
    let client = http::client(&site.world.vars)?;
    let asked = async {
        let answer = client.get(&url).send().await.map_err(|error| chain(&error.without_url()))?;
        let status = answer.status();
        let body = http::limited(answer, ANSWER_LIMIT).await?;
        if status.is_success() { Ok(String::from_utf8_lossy(&body).into_owned()) } else { Err(format!("it answers {status}")) }
    };
    let place = shown(&url);
    Ok(match tokio::time::timeout(LOOK_LIMIT, asked).await {
        Ok(Ok(body)) if says(&body, &wanted) => Seen::Yes(format!("{place} says {wanted}")),
        Ok(Ok(body)) => Seen::No(format!("{place} does not say {wanted} but {:?}", beginning(&body))),
        Ok(Err(why)) => Seen::No(format!("{place}: {why}")),
        Err(_elapsed) => Seen::No(format!("{place}: no answer within {}", humantime::format_duration(LOOK_LIMIT))),
    })
}

async fn of_program(site: &Site<'_>, values: &Values, proof: &CommandProof) -> Result<Seen> {
    let fill = |text: &String| site.fill(values, text);
    let argv = proof.run.iter().map(fill).collect::<Result<Vec<_>>>()?;
    let wanted = fill(&proof.contains)?;
    if site.world.rehearsal {
        return Ok(Seen::Yes(format!("`{}` would be asked for {wanted}", argv.join(" "))));
    }
    let heard: Mutex<String> = Mutex::default();
    let keep = |line: &str| {
        if let Ok(mut heard) = heard.lock()
            && heard.len() < ANSWER_LIMIT
        {
            heard.push_str(line);
            heard.push('\n');
        }
    };
    let env = Some(super::command::surroundings(site, values, &proof.pass));
    let program = Program { argv: &argv, folder: site.folder, env, limit: LOOK_LIMIT, cancel: None, marker: None };
    let ran = program.run(&keep).await?;
    let heard = heard.into_inner().unwrap_or_default();
    let shown = argv.first().cloned().unwrap_or_default();
    Ok(match ran.end {
        End::Exited(status) if status.success() && says(&heard, &wanted) => Seen::Yes(format!("`{shown}` says {wanted}")),
        End::Exited(status) if status.success() => Seen::No(format!("`{shown}` does not say {wanted} but {:?}", beginning(&heard))),
        End::Exited(status) => Seen::No(format!("`{shown}` ended with {status}")),
        End::TimedOut | End::Cancelled => Seen::No(format!("`{shown}` did not end within {}", humantime::format_duration(LOOK_LIMIT))),
    })
}

/// Whether a text names something as a whole: 1.4.2 is in v1.4.2 and web-1.4.2, but not in 1.4.20, 1.4.2-rc.1 or 11.4.2.
pub fn says(text: &str, wanted: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+');
    let goes_before = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+');
    text.match_indices(wanted).any(|(at, _)| {
        let head = text.get(..at).unwrap_or_default();
        let unprefixed = head.strip_suffix(['v', 'V']).filter(|rest| !rest.ends_with(goes_before)).unwrap_or(head);
        let mut after = text.get(at + wanted.len()..).unwrap_or_default().chars();
        let (next, one_more) = (after.next(), after.next());
        let goes_on = next.is_some_and(is_part) || (next == Some('.') && one_more.is_some_and(is_part));
        !goes_on && !unprefixed.ends_with(goes_before)
    })
}

/// Refuses an address that others could read or change on the way.
pub fn safe(url: &str, name: &str) -> Result<()> {
    if url.starts_with("https://") || (url.starts_with("http://") && crate::config::is_loopback(url)) {
        return Ok(());
    }
    Err(Error::new(Reason::InputInvalid, format!("{name} is no https:// address"))
        .hint("without TLS everybody on the way can read and change it"))
}

/// An address without what may be secret in it.
pub fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// The beginning of a text, on one line.
pub fn beginning(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    crate::tools::console::cut(&line, 120)
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn a_version_is_named_as_a_whole() {
        for text in ["1.4.2", "version 1.4.2.", "{\"version\":\"1.4.2\"}", "v1.4.2\n", "web-1.4.2", "1.4.2-rc.1, then 1.4.2"] {
            assert!(says(text, "1.4.2"), "{text}");
        }
        for text in ["1.4.20", "1.4.2-rc.1", "11.4.2", "1.4.2.1", "0.1.4.2", "0.v1.4.2", "dev1.4.2", "1.4.2+b", ""] {
            assert!(!says(text, "1.4.2"), "{text}");
        }
        assert!(says("app@sha256:ab", "sha256:ab") && !says("sha256:abc", "sha256:ab"));
    }
}
