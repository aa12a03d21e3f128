//! ECS's JSON protocol, signed here: a typed client would drop the fields of a task definition that it does not know.
//!
//! <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/Welcome.html>

use crate::config::Aws;
use crate::error::{Error, Reason, Result};
use crate::tools::aws::{self, Access};
use crate::tools::http::{self, chain};
use crate::tools::wait::{Backoff, Clock};
use crate::world::World;
use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use serde_json::Value;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// How often a request is tried in all.
const TRIES: u32 = 5;
/// How much of an answer is read.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// Credentials that end sooner are fetched again.
const RENEWAL: Duration = Duration::from_secs(120);
const CONTENT: &str = "application/x-amz-json-1.1";

/// A client for ECS in one region.
pub struct Api {
    client: reqwest::Client,
    clock: Clock,
    config: SdkConfig,
    credentials: Mutex<Option<Credentials>>,
    /// The region.
    pub region: String,
    url: String,
    service: &'static Service,
}

/// One of the services that speak this protocol.
struct Service {
    /// For people.
    name: &'static str,
    /// As it is signed, and as permissions begin.
    id: &'static str,
    /// What actions begin with.
    target: &'static str,
    /// Its name among the SDK's variables.
    variable: &'static str,
}

static ECS: Service = Service { name: "ECS", id: "ecs", target: "AmazonEC2ContainerServiceV20141113", variable: "ECS" };
static LOGS: Service = Service { name: "CloudWatch Logs", id: "logs", target: "Logs_20140328", variable: "CLOUDWATCH_LOGS" };

/// What a request that is sent again may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Nothing that it has not done already.
    Freely,
    /// Only what was certainly not taken is sent again.
    Once,
}

/// Why a request has no answer that can be used.
enum Failed {
    /// It is refused, and will be.
    Refused(Error),
    /// It was not taken, and may be later.
    NotNow(Error),
    /// Nobody knows whether it was taken.
    Lost(Error),
}

impl Api {
    pub async fn open(world: &World, own: &Aws) -> Result<Self> {
        Self::of(world, own, &ECS).await
    }

    /// A client for the lines of tasks.
    pub async fn of_logs(world: &World, own: &Aws) -> Result<Self> {
        Self::of(world, own, &LOGS).await
    }

    async fn of(world: &World, own: &Aws, service: &'static Service) -> Result<Self> {
        let access = Access { region: own.region.clone(), role: own.role.clone() };
        let region = access.region(&world.vars)?;
        let config = aws::config(&world.vars, &access, service.variable).await?;
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let url = config.endpoint_url().map_or_else(|| format!("https://{}.{region}.{domain}", service.id), str::to_owned);
        let url = format!("{}/", url.trim_end_matches('/'));
        Ok(Self { client: http::client(&world.vars)?, clock: world.clock, config, credentials: Mutex::new(None), region, url, service })
    }

    /// A request that does no harm when it is sent again.
    pub async fn call(&self, action: &str, body: &Value) -> Result<Value> {
        self.send(action, body, Repeat::Freely).await
    }

    /// A request that is not sent again when its answer is lost: that error says so.
    pub async fn once(&self, action: &str, body: &Value) -> Result<Value> {
        self.send(action, body, Repeat::Once).await
    }

    async fn send(&self, action: &str, body: &Value, repeat: Repeat) -> Result<Value> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(8));
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.attempt(action, body).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Lost(error)) if repeat == Repeat::Once => return Err(Error { lost: true, ..error }),
                Err(Failed::NotNow(error) | Failed::Lost(error)) => error,
            };
            if tries == TRIES {
                return Err(error);
            }
            self.clock.sleep(backoff.pause()).await;
        }
    }

    async fn attempt(&self, action: &str, body: &Value) -> std::result::Result<Value, Failed> {
        let request = self.signed(action, body).await.map_err(Failed::Refused)?;
        let silent = |why: String| {
            Error::new(Reason::TargetFailed, format!("{} in {} did not answer {action}: {why}", self.service.name, self.region))
                .hint("is the region right, and is it reachable from here?")
        };
        let answer = match tokio::time::timeout(REQUEST_LIMIT, self.client.execute(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => return Err(Failed::NotNow(silent(chain(&error.without_url())))),
            Ok(Err(error)) => return Err(Failed::Lost(silent(chain(&error.without_url())))),
            Err(_elapsed) => {
                return Err(Failed::Lost(silent(format!("nothing within {}", humantime::format_duration(REQUEST_LIMIT)))));
            }
        };
        let status = answer.status().as_u16();
        let kind = answer.headers().get("x-amzn-errortype").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let bytes = http::limited(answer, ANSWER_LIMIT).await.map_err(|why| Failed::Lost(silent(why)))?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        match status {
            200..=299 if body.is_object() => Ok(body),
            200..=299 => Err(Failed::Lost(silent("it answers something else than JSON".into()))),
            _other => Err(self.judge(action, &Said::of(status, &kind, &body))),
        }
    }

    /// An error of ECS in words.
    fn judge(&self, action: &str, said: &Said) -> Failed {
        let Said { status, code, message } = said;
        let sentence = format!("{} in {} answers {action} with {status}: {code}: {message}", self.service.name, self.region);
        let sentence = sentence.trim_end_matches([':', ' ']).to_owned();
        if *status == 429 || ["Throttling", "TooManyRequests", "RequestLimitExceeded"].iter().any(|part| code.contains(part)) {
            return Failed::NotNow(Error::new(Reason::TargetFailed, sentence).hint("others ask it as well: run this again later"));
        }
        if *status >= 500 {
            return Failed::Lost(Error::new(Reason::TargetFailed, sentence));
        }
        let reason = match code.as_str() {
            "ResourceNotFoundException" | "ClusterNotFoundException" | "ServiceNotFoundException" | "ServiceNotActiveException" => {
                Reason::TargetMissing
            }
            "LimitExceededException" => Reason::TargetQuota,
            "InvalidParameterException" | "ClientException" | "UnsupportedFeatureException" | "ConflictException" => Reason::TargetInput,
            "PlatformUnknownException" | "PlatformTaskDefinitionIncompatibilityException" | "BlockedException" => Reason::TargetInput,
            _other => Reason::TargetFailed,
        };
        let error = aws::judged(sentence, reason, code, Some(*status));
        Failed::Refused(if error.reason == Reason::AuthDenied {
            error.hint(format!("allow {} for the role or user that the job runs as", said.permission(self.service.id, action)))
        } else if error.reason == Reason::TargetMissing {
            Error { gone: true, ..error }.hint("look at `cluster:`, `service:` and the region (`aws: {region: …}`)")
        } else {
            error
        })
    }

    /// The request with its signature. The credentials stand in headers only.
    async fn signed(&self, action: &str, body: &Value) -> Result<reqwest::Request> {
        let fail = |why: String| Error::new(Reason::Internal, format!("{action} of {} cannot be signed: {why}", self.service.name));
        let target = format!("{}.{action}", self.service.target);
        let body = body.to_string();
        let identity = self.credentials().await?.into();
        let signing = aws_sigv4::sign::v4::SigningParams::builder().identity(&identity).region(&self.region).name(self.service.id);
        let signing = signing.time(SystemTime::now()).settings(SigningSettings::default());
        let signing = signing.build().map_err(|error| fail(error.to_string()))?.into();
        let headers = [("content-type", CONTENT), ("x-amz-target", target.as_str())];
        let signable = SignableRequest::new("POST", self.url.as_str(), headers.into_iter(), SignableBody::Bytes(body.as_bytes()));
        let signed = sign(signable.map_err(|error| fail(error.to_string()))?, &signing).map_err(|error| fail(error.to_string()))?;
        let (instructions, _signature) = signed.into_parts();
        let request = ::http::Request::builder().method("POST").uri(&self.url);
        let request = request.header("content-type", CONTENT).header("x-amz-target", &target).body(body);
        let mut request = request.map_err(|error| fail(error.to_string()))?;
        instructions.apply_to_request_http1x(&mut request);
        reqwest::Request::try_from(request).map_err(|error| fail(chain(&error.without_url())))
    }

    async fn credentials(&self) -> Result<Credentials> {
        let mut kept = self.credentials.lock().await;
        let soon = SystemTime::now() + RENEWAL;
        let good = kept.as_ref().filter(|kept| kept.expiry().is_none_or(|end| end > soon));
        if let Some(good) = good {
            return Ok(good.clone());
        }
        let fresh = aws::credentials(&self.config, &format!("{} in {} cannot be asked", self.service.name, self.region)).await?;
        *kept = Some(fresh.clone());
        Ok(fresh)
    }
}

/// What ECS says about a request that it does not take.
struct Said {
    status: u16,
    code: String,
    message: String,
}

impl Said {
    fn of(status: u16, header: &str, body: &Value) -> Self {
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let kind = text("__type").unwrap_or(header);
        let kind = kind.rsplit('#').next().unwrap_or(kind);
        let code = kind.split(':').next().unwrap_or(kind).to_owned();
        let message = text("message").or_else(|| text("Message")).unwrap_or_default();
        Self { status, code, message: crate::tools::console::cut(message, 500) }
    }

    /// The permission that is missing: named by AWS (it may be `iam:PassRole`), or that of the action.
    fn permission(&self, service: &str, action: &str) -> String {
        let named = self.message.split_once("to perform: ").and_then(|(_, rest)| rest.split_whitespace().next());
        named.map_or_else(|| format!("{service}:{action}"), str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_are_read_wherever_they_stand() {
        let said = Said::of(400, "", &json!({"__type": "com.amazonaws.ecs#ClusterNotFoundException", "message": "Cluster not found."}));
        assert_eq!((said.code.as_str(), said.message.as_str()), ("ClusterNotFoundException", "Cluster not found."));
        let said = Said::of(
            400,
            "AccessDeniedException:http://internal/",
            &json!({"Message": "User x is not authorized to perform: iam:PassRole on y"}),
        );
        assert_eq!((said.code.as_str(), said.permission("ecs", "UpdateService").as_str()), ("AccessDeniedException", "iam:PassRole"));
    }
}
