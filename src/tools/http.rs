//! Plain HTTP with the process's proxies and certificates; retries only what is safe to repeat.

use super::wait::{Backoff, Clock};
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How often a request is tried in all.
const TRIES: u32 = 5;
/// The longest pause that a server may ask for with Retry-After before we give up instead.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// Variables that name a file with further certificates to trust, as other tools of the field read them.
const BUNDLES: [&str; 3] = ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "CI_SERVER_TLS_CA_FILE"];

/// A client with sane limits, the system's proxies (`HTTPS_PROXY`, `NO_PROXY`) and the certificates of `BUNDLES`.
/// It follows no redirects: a token must not travel to another host.
pub fn client(vars: &Vars) -> Result<reqwest::Client> {
    built(vars, reqwest::Client::builder().read_timeout(Duration::from_secs(60)))
}

/// The same for servers that work before they answer: each request brings its own limit.
pub fn patient_client(vars: &Vars) -> Result<reqwest::Client> {
    built(vars, reqwest::Client::builder())
}

/// The same for one host at one address: neither the system nor a proxy looks its name up again.
pub fn pinned_client(vars: &Vars, host: &str, address: SocketAddr) -> Result<reqwest::Client> {
    built(vars, reqwest::Client::builder().no_proxy().resolve(host, address))
}

fn built(vars: &Vars, builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
    let mut builder = builder
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .dns_resolver(Careful)
        .redirect(reqwest::redirect::Policy::none());
    for Bundle { name, path, pem } in bundles(vars)? {
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(name, &path, &error.to_string()))?;
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| Error::new(Reason::Internal, format!("no HTTP client can be made: {}", chain(&error))))
}

/// Looks names up, and knows none that lead to where clouds keep the credentials of a machine.
struct Careful;

impl reqwest::dns::Resolve for Careful {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let fine: Vec<SocketAddr> = found.into_iter().filter(|address| !is_metadata(address.ip())).collect();
            if fine.is_empty() {
                return Err(format!("{} leads to a link-local address, where clouds keep credentials", name.as_str()).into());
            }
            Ok(Box::new(fine.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Whether this is where a cloud's metadata service answers, in any of its spellings.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>
fn is_metadata(address: IpAddr) -> bool {
    const ELSEWHERE: [Ipv4Addr; 3] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    let of_v4 = |v4: Ipv4Addr| v4.is_link_local() || ELSEWHERE.contains(&v4);
    match address.to_canonical() {
        IpAddr::V4(v4) => of_v4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, .., y, z] = v6.segments();
            let embedded = match (a, b) {
                (0x64, 0xff9b) | (0, 0) => Some((y, z)), // NAT64, and the old form
                (0x2002, _) => Some((b, c)),             // 6to4
                (_, _) => None,
            };
            let v4 = |(high, low): (u16, u16)| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
            // EC2 and EKS, and Google's.
            (a, b) == (0xfd00, 0xec2) || (a, b) == (0xfd20, 0xce) || v6.is_unicast_link_local() || embedded.map(v4).is_some_and(of_v4)
        }
    }
}

/// Why an address that an answer gave is not asked: it is no web address, or it leads to a cloud's credentials.
pub fn leads_astray(url: &url::Url) -> Option<String> {
    let literal = match url.host() {
        Some(url::Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
        Some(url::Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
        Some(url::Host::Domain(_)) | None => None,
    };
    let why = match (url.scheme(), url.host(), literal) {
        ("http" | "https", _, Some(address)) if is_metadata(address) => "a link-local address, where clouds keep credentials",
        ("http" | "https", Some(_), _) => return None,
        _other => "no web address",
    };
    Some(format!("its answer leads to {}, {why}", url.host_str().unwrap_or_else(|| url.scheme())))
}

/// The address that an answer gave, if it may be asked.
pub fn led_to(text: &str) -> std::result::Result<url::Url, String> {
    let url = url::Url::parse(text).map_err(|error| format!("its answer gives no address: {error}"))?;
    leads_astray(&url).map_or(Ok(url), Err)
}

/// A file with certificates to trust besides those of the system.
pub struct Bundle {
    name: &'static str,
    path: String,
    /// What is in it.
    pub pem: Vec<u8>,
}

/// The files that variables name.
pub fn bundles(vars: &Vars) -> Result<Vec<Bundle>> {
    let mut found = Vec::new();
    for name in BUNDLES {
        let Some(path) = vars.get(name) else { continue };
        let pem = std::fs::read(path).map_err(|error| unusable(name, path, &error.to_string()))?;
        if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
            return Err(unusable(name, path, "there is no certificate in it"));
        }
        found.push(Bundle { name, path: path.to_owned(), pem });
    }
    Ok(found)
}

fn unusable(name: &str, path: &str, why: &str) -> Error {
    Error::new(Reason::InputInvalid, format!("the certificates in {path} ({name}) cannot be used: {why}"))
        .hint("name a file with certificates in PEM form (-----BEGIN CERTIFICATE-----) that this job can read, or unset the variable")
}

/// Sends a request that may be repeated: again after 429, 5xx and lost connections, honouring Retry-After.
pub async fn send(clock: &Clock, request: RequestBuilder) -> std::result::Result<Response, String> {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(8));
    for attempt in 1..=TRIES {
        let Some(this) = request.try_clone() else {
            return request.send().await.map_err(|error| chain(&error.without_url()));
        };
        let last = attempt == TRIES;
        let pause = match this.send().await {
            Ok(response) if last || !is_passing(response.status()) => return Ok(response),
            Ok(response) => match retry_after(&response) {
                Some(asked) if asked > LONGEST_RETRY_AFTER => return Ok(response),
                Some(asked) => asked,
                None => backoff.pause(),
            },
            Err(error) if last || error.is_builder() => return Err(chain(&error.without_url())),
            Err(_lost) => backoff.pause(),
        };
        clock.sleep(pause).await;
    }
    Err("no answer".into())
}

/// Whether a status is likely to pass by itself.
pub fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// What the server asks to wait, in seconds form.
pub fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Whether repeating a request of this method cannot do something twice.
pub fn is_repeatable(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "PUT" | "DELETE")
}

/// An error with its causes, which is where the useful part is; never a URL's query.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

/// The body of an answer, up to a limit: no server can fill the memory.
pub async fn limited(mut answer: Response, limit: usize) -> std::result::Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| chain(&error.without_url()))? {
        if body.len().saturating_add(piece.len()) > limit {
            return Err(format!("its answer is longer than {limit} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clouds_credentials_are_asked_by_nobody() {
        for astray in [
            "http://169.254.169.254/latest/meta-data/",
            "https://[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://2852039166/",
            "http://0xa9.0xfe.0xa9.0xfe/",
            "http://[fd00:ec2::254]/",
            "http://[fd00:ec2::23]/",
            "http://[fd20:ce::254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::1]/",
            "http://[::a9fe:a9fe]/",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://[fe80::1]/",
            "file:///etc/passwd",
            "ftp://registry.example/",
            "unix:/var/run/docker.sock",
        ] {
            assert!(leads_astray(&url::Url::parse(astray).unwrap()).is_some(), "{astray}");
        }
        for fine in
            ["https://registry.example/v2/", "http://127.0.0.1:5000/", "http://[::1]:5000/", "http://10.0.0.7/", "http://[2600::1]/"]
        {
            assert_eq!(leads_astray(&url::Url::parse(fine).unwrap()), None, "{fine}");
        }
    }

    /// A name is judged by what it leads to.
    #[tokio::test]
    async fn a_name_that_leads_there_is_not_known() {
        use reqwest::dns::Resolve;
        let look = |name: &str| Careful.resolve(name.parse().unwrap());
        assert!(look("169.254.169.254").await.is_err_and(|why| why.to_string().contains("link-local")));
        assert_eq!(look("127.0.0.1").await.unwrap().count(), 1);
    }
}
