//! Answers the `callback_url` of a webhook, safely: only hosts that the configuration names, only addresses that are
//! public (or that it names itself), the one that was looked at, and no redirects.
//!
//! <https://docs.docker.com/docker-hub/repos/manage/webhooks/>

use super::jobs::{Callback, Job, Status};
use super::server::Server;
use crate::tools::http;
use crate::vars::Vars;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use url::{Host, Url};

const LIMIT: Duration = Duration::from_secs(10);

/// Tells the sender of a job's webhook how it ended.
pub async fn tell(server: &Server, job: &Job) {
    let Some(callback) = &job.callback else { return };
    let (state, words) = match job.status {
        Status::Success => ("success", "deployed"),
        Status::Error | Status::TimedOut => ("failure", job.status.name()),
        Status::Queued | Status::Starting | Status::Running | Status::Cancelled | Status::Lost => ("error", job.status.name()),
    };
    let target = server.config().serve.public_url.as_deref().map(|url| format!("{url}/ui/jobs/{}", job.id));
    let body = json!({"state": state, "description": format!("{}: {words}", job.app), "context": "tidegate", "target_url": target});
    match send(&server.world.vars, callback, &body).await {
        Ok(status) => server.say(&format!("the callback of job {} was answered: {status}", job.id)),
        Err(why) => server.say(&format!("the callback of job {} was not sent: {why}", job.id)),
    }
}

/// Sends it to an address that was looked at. The address itself is never repeated: it is a secret of its sender.
async fn send(vars: &Vars, callback: &Callback, body: &serde_json::Value) -> Result<reqwest::StatusCode, String> {
    let (url, address) = checked(callback).await?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let client = http::pinned_client(vars, &host, address).map_err(|error| error.sentence)?;
    let answer = client.post(url).timeout(LIMIT).json(body).send().await.map_err(|error| error.without_url().to_string())?;
    Ok(answer.status())
}

/// The address to connect to, once it is known to be harmless.
pub async fn checked(callback: &Callback) -> Result<(Url, SocketAddr), String> {
    let url = Url::parse(&callback.url).map_err(|error| format!("it is no address: {error}"))?;
    let host = url.host().ok_or("it names no host")?.to_owned();
    let port = url.port_or_known_default().ok_or("it names no port")?;
    let named = format!("{host}:{port}");
    let is_named = callback.hosts.iter().any(|known| *known == named || (*known == host.to_string() && url.port().is_none()));
    if !is_named {
        return Err(format!("{host} is none of its `callback-hosts`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a login".into());
    }
    // An address that the operator wrote into the configuration is the operator's business; what a name resolves to is not.
    let is_literal = !matches!(host, Host::Domain(_));
    if url.scheme() != "https" && !(url.scheme() == "http" && is_literal) {
        return Err(format!("it is {}:, not https:", url.scheme()));
    }
    let addresses: Vec<IpAddr> = match &host {
        Host::Ipv4(address) => vec![(*address).into()],
        Host::Ipv6(address) => vec![(*address).into()],
        Host::Domain(name) => {
            let found = tokio::net::lookup_host((name.as_str(), port)).await.map_err(|error| format!("{name} has no address: {error}"))?;
            found.map(|address| address.ip()).collect()
        }
    };
    let harmless = addresses.iter().find(|address| is_literal || is_public(**address));
    let inside = addresses.iter().any(|address| !is_public(*address));
    match harmless {
        Some(address) if is_literal || !inside => Ok((url, SocketAddr::new(*address, port))),
        Some(_) | None => Err(format!("{host} leads to an address that is not public")),
    }
}

/// Whether an address is one of the public Internet: not of this machine, this network, or a cloud's metadata.
/// <https://www.iana.org/assignments/iana-ipv4-special-registry/>
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            let protocol = a == 192 && b == 0 && c == 0;
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || shared
                || benchmark
                || protocol)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            let embeds_v4 = first == 0x2002 || (first == 0x64 && second == 0xff9b) || (first == 0x2001 && second == 0);
            // 2000::/3 is all that is given out.
            (first & 0xe000) == 0x2000 && !embeds_v4 && !(first == 0x2001 && second == 0x0db8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(url: &str, hosts: &[&str]) -> Callback {
        Callback { url: url.into(), hosts: hosts.iter().map(|host| (*host).to_owned()).collect() }
    }

    #[test]
    fn addresses_inside_are_not_public() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "::1",
            "::ffff:a9fe:a9fe",
            "fd00::1",
            "fe80::1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "0.0.0.0",
            "100.64.0.1",
            "::",
            "192.0.0.192",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["8.8.8.8", "2606:4700::1111"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[tokio::test]
    async fn only_named_hosts_are_asked() {
        let hub = ["registry.hub.docker.com"];
        for (url, why) in [
            ("http://127.0.0.1/x", "none of its"),
            ("https://169.254.169.254/latest", "none of its"),
            ("https://[::ffff:a9fe:a9fe]/", "none of its"),
            ("https://registry.hub.docker.com.evil.example/", "none of its"),
            ("https://registry.hub.docker.com:8443/", "none of its"),
            ("https://user@registry.hub.docker.com/", "a login"),
            ("http://registry.hub.docker.com/", "not https"),
            ("file:///etc/passwd", "names no host"),
            ("hello", "no address"),
        ] {
            let said = checked(&to(url, &hub)).await.unwrap_err();
            assert!(said.contains(why), "{url}: {said}");
        }
        let name = checked(&to("https://localhost/", &["localhost"])).await.unwrap_err();
        assert!(name.contains("not public"), "a name that leads inside: {name}");
        assert!(checked(&to("http://127.0.0.1:9/x", &["127.0.0.1:9"])).await.is_ok(), "what the operator wrote down");
    }
}
