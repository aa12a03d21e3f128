//! AWS access: one configuration per region and role, with credentials that renew themselves; errors in plain words.

use super::http;
use super::identity::{Identity, REFUSAL, WebIdentity};
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use aws_config::{BehaviorVersion, Region, SdkConfig, identity::IdentityCache, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::{Builder, Connector, proxy::ProxyConfig, tls};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use std::time::Duration;

/// Where and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// The region; `AWS_REGION` when not given.
    pub region: Option<String>,
    /// The role to assume.
    pub role: Option<String>,
}

impl Access {
    /// The region, or an error that says where to write it.
    pub fn region(&self, vars: &Vars) -> Result<String> {
        let region = self.region.as_deref().or_else(|| vars.get("AWS_REGION")).or_else(|| vars.get("AWS_DEFAULT_REGION"));
        region.map(str::to_owned).ok_or_else(|| {
            Error::new(Reason::InputInvalid, "no AWS region is known")
                .hint("set AWS_REGION, the input `aws-region`, `aws: {region: …}` in tidegate.yml, or --region of `tidegate drain`")
        })
    }
}

/// The SDK's configuration for one service (`SQS`, `ECR`, …).
pub async fn config(vars: &Vars, access: &Access, service: &str) -> Result<SdkConfig> {
    let region = access.region(vars)?;
    let loader = base(vars, &region)?;
    let loader = match static_credentials(vars) {
        Some(credentials) => loader.credentials_provider(credentials),
        None => loader.credentials_provider(default_chain(&region).await),
    };
    let mut config = loader.load().await;
    if let Some(role) = &access.role {
        config = assume(vars, config, role, &region).await?;
    }
    // Only what stands in our variables counts: a rehearsal has its own, and the SDK would read the process's.
    config = config.into_builder().service_config(NoServiceConfig).build();
    let own = format!("AWS_ENDPOINT_URL_{service}");
    if let Some(url) = vars.get(&own).or_else(|| vars.get("AWS_ENDPOINT_URL")) {
        config = config.into_builder().endpoint_url(url).build();
    }
    Ok(config)
}

fn base(vars: &Vars, region: &str) -> Result<aws_config::ConfigLoader> {
    let bundles = http::bundles(vars)?;
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(5)
                .with_initial_backoff(Duration::from_millis(200))
                .with_max_backoff(Duration::from_secs(8)),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(10))
                .operation_attempt_timeout(Duration::from_secs(30))
                .operation_timeout(Duration::from_secs(120))
                .build(),
        )
        .identity_cache(IdentityCache::lazy().load_timeout(Duration::from_secs(20)).buffer_time(Duration::from_secs(120)).build());
    if bundles.is_empty() {
        return Ok(loader);
    }
    let mut trusted = tls::TrustStore::default();
    for bundle in bundles {
        trusted.add_pem_certificate(bundle.pem);
    }
    let context = tls::TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| Error::new(Reason::InputInvalid, format!("the certificates cannot be used: {error}")))?;
    Ok(loader.http_client(trusting(context)))
}

/// The SDK's own client, which takes the proxies of the environment, with more certificates than the system's.
fn trusting(context: tls::TlsContext) -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc)).tls_context(context.clone()).build()
    })
}

/// No settings of single services from the environment or from files.
#[derive(Debug)]
struct NoServiceConfig;

impl aws_types::service_config::LoadServiceConfig for NoServiceConfig {
    fn load_config(&self, _key: aws_types::service_config::ServiceConfigKey<'_>) -> Option<String> {
        None
    }
}

fn static_credentials(vars: &Vars) -> Option<Credentials> {
    let (id, key) = (vars.get("AWS_ACCESS_KEY_ID")?, vars.get("AWS_SECRET_ACCESS_KEY")?);
    let session = vars.get("AWS_SESSION_TOKEN").map(str::to_owned);
    Some(Credentials::new(id, key, session, None, "environment"))
}

/// Files, web identity, containers and instances. The instance's metadata service is asked with short limits:
/// off AWS nothing answers there.
async fn default_chain(region: &str) -> SharedCredentialsProvider {
    let imds = aws_config::imds::Client::builder()
        .connect_timeout(Duration::from_millis(300))
        .read_timeout(Duration::from_secs(1))
        .max_attempts(1)
        .build();
    let chain = aws_config::default_provider::credentials::DefaultCredentialsChain::builder()
        .imds_client(imds)
        .region(Region::new(region.to_owned()))
        .build()
        .await;
    SharedCredentialsProvider::new(chain)
}

/// How long the credentials at hand last, and which they are; nothing when they renew themselves.
/// `assumes`: whether a role is assumed with them.
pub fn session(vars: &Vars, assumes: bool) -> Option<(Duration, &'static str)> {
    const HOUR: Duration = Duration::from_secs(3600); // what STS gives when nobody asks for more
    let mints = vars.get("ACTIONS_ID_TOKEN_REQUEST_URL").is_some() && vars.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN").is_some();
    if mints && assumes {
        return None; // GitHub gives a new identity token whenever it is asked
    }
    if vars.get("AWS_SESSION_TOKEN").is_some() {
        return Some((HOUR, "the AWS session of this job (AWS_SESSION_TOKEN)"));
    }
    let fixed = assumes && matches!(Identity::of(vars), Ok(Some(Identity::Fixed(_))));
    fixed.then_some((HOUR, "the AWS session of this job (its id token is fixed when the job starts)"))
}

async fn assume(vars: &Vars, config: SdkConfig, role: &str, region: &str) -> Result<SdkConfig> {
    let session = format!("tidegate-{}", vars.get("GITHUB_RUN_ID").or_else(|| vars.get("CI_JOB_ID")).unwrap_or("by-hand"));
    let endpoint = vars.get("AWS_ENDPOINT_URL_STS").or_else(|| vars.get("AWS_ENDPOINT_URL"));
    let provider = match Identity::of(vars)? {
        Some(identity) => {
            let mut loader = base(vars, region)?.no_credentials();
            if let Some(url) = endpoint {
                loader = loader.endpoint_url(url);
            }
            let sts = aws_sdk_sts::Client::new(&loader.load().await);
            SharedCredentialsProvider::new(WebIdentity { sts, role: role.to_owned(), session, identity })
        }
        None => {
            let mut from = config.clone().into_builder();
            if let Some(url) = endpoint {
                from = from.endpoint_url(url);
            }
            let builder = aws_config::sts::AssumeRoleProvider::builder(role).session_name(session).region(Region::new(region.to_owned()));
            SharedCredentialsProvider::new(builder.configure(&from.build()).build().await)
        }
    };
    let cache = IdentityCache::lazy().load_timeout(Duration::from_secs(20)).buffer_time(Duration::from_secs(120)).build();
    Ok(config.into_builder().credentials_provider(provider).identity_cache(cache).build())
}

/// An AWS error in plain words. `what` is a phrase such as "the queue jobs in us-west-2 cannot be read".
pub fn failure<E>(what: &str, otherwise: Reason, error: &aws_sdk_sqs::error::SdkError<E>) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    use aws_sdk_sqs::error::SdkError;
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    let message = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default();
    let status = error.raw_response().map(|response| response.status().as_u16());
    let chain = http::chain(error);
    if let Some(error) = not_let_in(what, &chain) {
        return error;
    }
    if matches!(error, SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_)) && is_about_credentials(&chain) {
        return without_credentials(what);
    }
    let said = if message.is_empty() && code.is_empty() { chain } else { format!("{code}: {message}").trim_matches([':', ' ']).to_owned() };
    judged(format!("{what}: {said}"), otherwise, code, status)
}

/// The credentials of a configuration, for requests that are signed here. `what` is a phrase as in `failure`.
pub async fn credentials(config: &SdkConfig, what: &str) -> Result<Credentials> {
    let provider = config.credentials_provider().ok_or_else(|| without_credentials(what))?;
    provider.provide_credentials().await.map_err(|error| {
        let chain = http::chain(&error);
        let lost = || Error::new(Reason::TargetFailed, format!("{what}: {chain}"));
        let missing = || if is_about_credentials(&chain) { without_credentials(what) } else { lost() };
        not_let_in(what, &chain).unwrap_or_else(missing)
    })
}

/// STS said no, as our own identity has put it.
fn not_let_in(what: &str, chain: &str) -> Option<Error> {
    let (_, refusal) = chain.split_once(REFUSAL)?;
    let (said, hint) = refusal.split_once('\n').unwrap_or((refusal, ""));
    Some(Error::new(Reason::AuthDenied, format!("{what}: {REFUSAL}{said}")).hint(hint))
}

fn without_credentials(what: &str) -> Error {
    Error::new(Reason::AuthMissing, format!("{what}: there are no AWS credentials")).hint(
        "in GitHub: `permissions: id-token: write` and a role (`aws: {role: …}`, `role-to-assume`); on GitLab: the same role and \
         `id_tokens: {TIDEGATE_ID_TOKEN: {aud: sts.amazonaws.com}}`; by hand: AWS_PROFILE or AWS_ACCESS_KEY_ID",
    )
}

/// What an error code of AWS means for us.
pub fn judged(sentence: String, otherwise: Reason, code: &str, status: Option<u16>) -> Error {
    if code.contains("Expired") {
        return Error::new(Reason::AuthExpired, sentence)
            .hint("the session is over: sign in again, or let tidegate assume the role itself (`aws: {role: …}`)");
    }
    let denied = [
        "AccessDenied",
        "UnauthorizedOperation",
        "UnrecognizedClient",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "InvalidSignature",
        "InvalidSecurity",
    ];
    if denied.iter().any(|part| code.contains(part)) || status == Some(403) {
        return Error::new(Reason::AuthDenied, sentence).hint("allow this action for the role or user that the job runs as");
    }
    Error::new(otherwise, sentence)
}

/// The SDK found nobody to ask for credentials. Somebody who was asked and did not answer is another thing.
fn is_about_credentials(text: &str) -> bool {
    let text = text.to_lowercase();
    let lost = ["connect", "dns", "timeout", "timed out", "certificate", "refused"];
    (text.contains("credential") || text.contains("identity")) && !lost.iter().any(|word| text.contains(word))
}
