//! Who this job is, by the token that its CI system signs, and the AWS role that it assumes with that.
//!
//! <https://docs.github.com/actions/reference/security/oidc>, <https://docs.gitlab.com/ci/secrets/id_token_authentication/>

use super::http;
use super::secret::Secret;
use super::wait::Clock;
use crate::error::Result;
use crate::vars::Vars;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use base64::Engine;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::SystemTime;

/// A token is a few kilobytes long.
const TOKEN_LIMIT: usize = 1024 * 1024;

/// What AWS expects the token to be made for.
const AUDIENCE: &str = "sts.amazonaws.com";
/// How the sentence of a refusal begins, so that it is found in the SDK's chain of errors.
pub(super) const REFUSAL: &str = "STS does not let this job assume ";

/// Where the signed token comes from.
#[derive(Clone)]
pub enum Identity {
    /// GitHub mints one whenever it is asked, so that a wait may outlive the credentials.
    GitHub {
        /// Where to ask.
        client: reqwest::Client,
        /// The address, with a query already.
        url: String,
        /// Who asks.
        token: Secret,
    },
    /// GitLab puts one into a variable when the job starts (`id_tokens: TIDEGATE_ID_TOKEN`).
    Fixed(Secret),
    /// One in a file, which something else may renew.
    File(PathBuf),
}

impl Identity {
    /// The identity that this job has, if any. Where `AWS_ROLE_ARN` is set the SDK's own chain reads the file.
    pub fn of(vars: &Vars) -> Result<Option<Self>> {
        if let (Some(url), Some(token)) = (vars.get("ACTIONS_ID_TOKEN_REQUEST_URL"), vars.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")) {
            return Ok(Some(Self::GitHub { client: http::client(vars)?, url: url.to_owned(), token: Secret::new(token) }));
        }
        // A component makes the token in any case: who gives keys or a profile means those.
        let keys = vars.get("AWS_ACCESS_KEY_ID").is_some() && vars.get("AWS_SECRET_ACCESS_KEY").is_some();
        let has_keys = keys || vars.get("AWS_PROFILE").is_some();
        if let Some(token) = vars.get("TIDEGATE_ID_TOKEN").filter(|_| !has_keys) {
            return Ok(Some(Self::Fixed(Secret::new(token.trim()))));
        }
        let file = vars.get("AWS_WEB_IDENTITY_TOKEN_FILE").filter(|_| vars.get("AWS_ROLE_ARN").is_none());
        Ok(file.map(|path| Self::File(PathBuf::from(path))))
    }

    /// A token, minted or read now.
    pub async fn token(&self) -> std::result::Result<Secret, String> {
        match self {
            Self::GitHub { client, url, token } => mint(client, url, token).await,
            Self::Fixed(token) => Ok(token.clone()),
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| format!("{} (AWS_WEB_IDENTITY_TOKEN_FILE) cannot be read: {error}", path.display()))?;
                Ok(Secret::new(text.trim()))
            }
        }
    }
}

async fn mint(client: &reqwest::Client, url: &str, token: &Secret) -> std::result::Result<Secret, String> {
    let joint = if url.contains('?') { '&' } else { '?' };
    let request = client.get(format!("{url}{joint}audience={AUDIENCE}")).bearer_auth(token.expose());
    let answer = http::send(&Clock::real(), request).await?;
    if !answer.status().is_success() {
        return Err(format!("GitHub's identity service answers {}", answer.status()));
    }
    let body: Value = serde_json::from_slice(&http::limited(answer, TOKEN_LIMIT).await?).map_err(|error| http::chain(&error))?;
    let token = body.pointer("/value").and_then(Value::as_str);
    token.map(Secret::new).ok_or_else(|| "GitHub's identity service sends no token".into())
}

/// What a token says of its job. Nothing secret: the signature is what counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Who signed it.
    pub issuer: String,
    /// Whom it stands for.
    pub subject: String,
    /// For whom it was made; mostly one.
    pub audience: Vec<String>,
}

impl Claims {
    /// Reads a token without checking it: that is what AWS does.
    pub fn of(token: &Secret) -> Option<Self> {
        let middle = token.expose().split('.').nth(1)?;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(middle.trim_end_matches('=')).ok()?;
        let claims: Value = serde_json::from_slice(&bytes).ok()?;
        let several = |name: &str| match claims.get(name) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(_) | None => Vec::new(),
        };
        let text = |name: &str| several(name).join(", ");
        Some(Self { issuer: text("iss"), subject: text("sub"), audience: several("aud") })
    }

    /// The condition of a role's trust policy that fits this token.
    pub fn condition(&self) -> String {
        let host = self.provider();
        let subject = (format!("{host}:sub"), json!(self.subject));
        let audience = match self.audience.as_slice() {
            [one] => json!(one),
            several => json!(several), // any of them fits
        };
        let audience = (format!("{host}:aud"), audience);
        let fits: serde_json::Map<String, Value> = [audience, subject].into_iter().collect();
        json!({"StringEquals": fits}).to_string()
    }

    /// The name of the identity provider in AWS: the issuer without its scheme.
    pub fn provider(&self) -> &str {
        self.issuer.split("://").last().unwrap_or_default().trim_end_matches('/')
    }
}

/// Credentials of a role, by such a token.
pub(super) struct WebIdentity {
    pub sts: aws_sdk_sts::Client,
    pub role: String,
    pub session: String,
    pub identity: Identity,
}

impl std::fmt::Debug for WebIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebIdentity({})", self.role)
    }
}

impl WebIdentity {
    async fn credentials(&self) -> provider::Result {
        let token = self.identity.token().await.map_err(CredentialsError::provider_error)?;
        let request = self.sts.assume_role_with_web_identity().role_arn(&self.role).role_session_name(&self.session);
        let answer = request.web_identity_token(token.expose()).send().await;
        let answer = answer.map_err(|error| match error.as_service_error() {
            Some(said) if matches!(said.code(), Some("AccessDenied" | "InvalidIdentityToken" | "IDPRejectedClaim")) => {
                let (code, message) = (said.code().unwrap_or("refused"), said.message().unwrap_or_default());
                CredentialsError::provider_error(refusal(&self.role, &format!("{code}: {message}"), &token))
            }
            Some(_) | None => CredentialsError::provider_error(error),
        })?;
        let given = answer.credentials().ok_or_else(|| CredentialsError::unhandled("STS sends no credentials"))?;
        let expires = SystemTime::try_from(*given.expiration()).map_err(CredentialsError::unhandled)?;
        let session = Some(given.session_token().to_owned());
        Ok(Credentials::new(given.access_key_id(), given.secret_access_key(), session, Some(expires), "web-identity"))
    }
}

/// What STS said, and on the next lines what the token says and what would fit it.
fn refusal(role: &str, said: &str, token: &Secret) -> String {
    let sentence = format!("{REFUSAL}{role}: {said}");
    let Some(claims) = Claims::of(token) else { return format!("{sentence}\nthe identity token cannot be read") };
    let account = role.split(':').nth(4).unwrap_or("ACCOUNT");
    format!(
        "{sentence}\nthe token of this job says: sub = {}, aud = {}, iss = {}\n\
         it fits a trust policy of the role with the principal arn:aws:iam::{account}:oidc-provider/{} and this line:\n\
         \"Condition\": {}",
        claims.subject,
        claims.audience.join(", "),
        claims.issuer,
        claims.provider(),
        claims.condition()
    )
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &Value) -> Secret {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        Secret::new(format!("{}.{}.signature", encode("{}"), encode(&claims.to_string())))
    }

    #[test]
    fn a_refusal_shows_what_would_fit() {
        let github = token(&json!({"iss": "https://token.actions.githubusercontent.com", "aud": "sts.amazonaws.com",
            "sub": "repo:acme@7/demo@9:environment:prod%3Aeu"}));
        let text = refusal("arn:aws:iam::123456789012:role/ci", "AccessDenied: no", &github);
        assert!(text.starts_with("STS does not let this job assume arn:aws:iam::123456789012:role/ci: AccessDenied: no\n"), "{text}");
        assert!(text.contains("sub = repo:acme@7/demo@9:environment:prod%3Aeu, aud = sts.amazonaws.com"), "{text}");
        assert!(text.contains("arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com "), "{text}");
        let line = r#"{"StringEquals":{"token.actions.githubusercontent.com:aud":"sts.amazonaws.com","token.actions.githubusercontent.com:sub":"repo:acme@7/demo@9:environment:prod%3Aeu"}}"#;
        assert!(text.ends_with(line), "{text}");
        assert!(!text.contains("signature"), "the token itself is secret");
    }

    #[test]
    fn several_audiences_and_a_path_in_the_issuer_are_shown() {
        let gitlab =
            token(&json!({"iss": "https://git.acme.io/gitlab", "aud": ["a", "b"], "sub": "project_path:g/p:ref_type:branch:ref:main"}));
        let claims = Claims::of(&gitlab).unwrap();
        assert_eq!((claims.provider(), claims.audience.join("+").as_str()), ("git.acme.io/gitlab", "a+b"));
        assert_eq!(Claims::of(&Secret::new("no token")), None);
    }
}
