//! The pretend AWS: ECR and SQS in their JSON protocols, STS in its query protocol.

use super::registry::{PASSWORD, Repository};
use super::sandbox::{Asked, Shared, World, json_answer};
use crate::registry::oci::digest_of;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Value, json};

/// How far a signature's time may be from AWS's own, in seconds.
const SKEW: i64 = 300;

/// Answers a request below /aws, by AWS's own clock.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let now = jiff::Timestamp::now().as_second() + shared.world().aws_clock;
    let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", asked.header("x-amz-date"));
    let signed = signed.ok().and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok()).map(|time| time.timestamp().as_second());
    let mut response = match signed {
        Some(signed) if (signed - now).abs() > SKEW && super::s3::is_about(asked) => super::s3::too_skewed(),
        Some(signed) if (signed - now).abs() > SKEW => error(403, "InvalidSignatureException", "Signature expired: it is not of now"),
        Some(_) | None => timely(shared, asked),
    };
    let date = jiff::Timestamp::from_second(now).map(|now| now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    if let Some(date) = date.ok().and_then(|date| date.parse().ok()) {
        response.headers_mut().insert("date", date);
    }
    response
}

fn timely(shared: &Shared, asked: &Asked) -> Response {
    if let Some(name) = asked.path.strip_prefix("/aws/clusters/") {
        return eks(asked, name);
    }
    if super::s3::is_about(asked) {
        return super::s3::answer(shared, asked);
    }
    let target = asked.header("x-amz-target");
    let region = region(asked);
    let mut world = shared.world();
    match target.split_once('.') {
        Some(("AmazonEC2ContainerRegistry_V20150921", _)) if world.throttled.is_some_and(|nth| world.arrived.is_multiple_of(nth)) => {
            error(400, "ThrottlingException", "Rate exceeded")
        }
        Some(("AmazonEC2ContainerRegistry_V20150921", action)) => ecr(&mut world, action, &asked.json()),
        Some(("AmazonEC2ContainerServiceV20141113", action)) => super::ecs::answer(&mut world, action, &asked.json()),
        Some(("Logs_20140328", action)) => super::ecs::lines(&mut world, action, &asked.json()),
        Some(("AmazonSQS", action)) => sqs(&mut world, action, &region, &asked.json()),
        Some(_) => error(400, "UnknownOperationException", "unknown service"),
        None => sts(&mut world, asked),
    }
}

/// The region stands only in the signature: AKID/20260101/us-west-2/sqs/aws4_request.
fn region(asked: &Asked) -> String {
    let scope = asked.header("authorization").split("Credential=").nth(1).unwrap_or_default();
    scope.split('/').nth(2).unwrap_or("us-east-1").to_owned()
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
    let mut response = json_answer(status, &json!({"__type": code, "message": message}));
    if let Ok(value) = code.parse() {
        response.headers_mut().insert("x-amzn-errortype", value);
    }
    response
}

fn ecr(world: &mut World, action: &str, body: &Value) -> Response {
    let name = body.pointer("/repositoryName").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(answer) = ecr_registry(world, action, body, &name) {
        return answer;
    }
    let forgets = world.registry_forgets;
    if world.generous {
        world.repositories.entry(name.clone()).or_default();
    }
    let Some(repository) = world.repositories.get_mut(&name) else { return not_found(&name) };
    if let Some(answer) = super::scans::answer(&mut world.scans, world.generous, action, body) {
        return answer;
    }
    match action {
        "BatchGetImage" => batch_get_image(repository, body, &name),
        "PutImage" => put_image(repository, body, &name, forgets),
        "BatchCheckLayerAvailability" => {
            let missing = json!({"layerDigest": body.pointer("/layerDigests/0"), "failureCode": "MissingLayerDigest"});
            json_answer(200, &json!({"layers": [], "failures": [missing]}))
        }
        "ListImages" => {
            let ids: Vec<Value> = repository.tags.iter().map(|(tag, digest)| json!({"imageTag": tag, "imageDigest": digest})).collect();
            json_answer(200, &json!({"imageIds": ids}))
        }
        _other => error(400, "UnknownOperationException", action),
    }
}

/// What needs no existing repository.
fn ecr_registry(world: &mut World, action: &str, body: &Value, name: &str) -> Option<Response> {
    Some(match action {
        "GetAuthorizationToken" => {
            let token = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{PASSWORD}"));
            let expires = jiff::Timestamp::now().as_second() + 12 * 3600;
            let data = json!({"authorizationToken": token, "expiresAt": expires, "proxyEndpoint": "https://sandbox"});
            json_answer(200, &json!({"authorizationData": [data]}))
        }
        "DescribeRepositories" => {
            let wanted = body.pointer("/repositoryNames/0").and_then(Value::as_str).unwrap_or_default();
            if world.generous {
                world.repositories.entry(wanted.to_owned()).or_default();
            }
            match world.repositories.contains_key(wanted) {
                true => json_answer(200, &json!({"repositories": [{"repositoryName": wanted}]})),
                false => not_found(wanted),
            }
        }
        "CreateRepository" => {
            let immutable = body.pointer("/imageTagMutability").and_then(Value::as_str).is_some_and(|mode| mode.starts_with("IMMUTABLE"));
            world.repositories.entry(name.to_owned()).or_default().immutable = immutable;
            json_answer(200, &json!({"repository": {"repositoryName": name}}))
        }
        "PutLifecyclePolicy" => json_answer(200, &json!({"repositoryName": name})),
        _needs_repository => return None,
    })
}

fn batch_get_image(repository: &Repository, body: &Value, name: &str) -> Response {
    let wanted = body.pointer("/imageIds").and_then(Value::as_array).cloned().unwrap_or_default();
    let (mut images, mut failures) = (Vec::new(), Vec::new());
    for id in wanted {
        let tag = id.get("imageTag").and_then(Value::as_str).unwrap_or_default();
        let found = repository.tags.get(tag).and_then(|digest| Some((digest, repository.manifests.get(digest)?)));
        match found {
            Some((digest, (bytes, media_type))) => images.push(json!({
                "repositoryName": name, "imageId": {"imageTag": tag, "imageDigest": digest},
                "imageManifest": String::from_utf8_lossy(bytes), "imageManifestMediaType": media_type,
            })),
            None => failures.push(json!({"imageId": id, "failureCode": "ImageNotFound", "failureReason": "Requested image not found"})),
        }
    }
    json_answer(200, &json!({"images": images, "failures": failures}))
}

fn put_image(repository: &mut Repository, body: &Value, name: &str, forgets: bool) -> Response {
    let text = body.pointer("/imageManifest").and_then(Value::as_str).unwrap_or_default().to_owned();
    let tag = body.pointer("/imageTag").and_then(Value::as_str).unwrap_or_default().to_owned();
    let digest = digest_of(text.as_bytes());
    match repository.tags.get(&tag) {
        Some(old) if *old == digest => return error(400, "ImageAlreadyExistsException", "the same image has this tag"),
        Some(_) if repository.immutable => return error(400, "ImageTagAlreadyExistsException", "the tag is immutable"),
        Some(_) | None => {}
    }
    if !forgets {
        let media_type = body.pointer("/imageManifestMediaType").and_then(Value::as_str).unwrap_or_default().to_owned();
        repository.manifests.insert(digest.clone(), (bytes::Bytes::from(text), media_type));
        repository.tags.insert(tag.clone(), digest.clone());
    }
    json_answer(200, &json!({"image": {"repositoryName": name, "imageId": {"imageTag": tag, "imageDigest": digest}}}))
}

fn not_found(name: &str) -> Response {
    let message = format!("The repository with name '{name}' does not exist in the registry with id '123456789012'");
    error(400, "RepositoryNotFoundException", &message)
}

/// A rehearsal has every queue that it asks for.
fn invent_queues(world: &mut World, action: &str, region: &str, body: &Value) {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = [text("QueueName"), text("QueueUrl").rsplit('/').next().unwrap_or_default().to_owned()];
    let prefixed = (action == "ListQueues").then(|| format!("{}rehearsal", text("QueueNamePrefix")));
    for name in named.into_iter().chain(prefixed).filter(|name| !name.is_empty()) {
        // A queue that drains: waiting, worked on, done.
        let script = [[3, 1, 0], [1, 2, 0], [0, 1, 0], [0, 0, 0]];
        world.queues.entry((region.to_owned(), name)).or_insert_with(|| script.into_iter().collect());
    }
}

fn sqs(world: &mut World, action: &str, region: &str, body: &Value) -> Response {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let url = |name: &str| format!("https://sqs.{region}.amazonaws.com/123456789012/{name}");
    let missing = || {
        let mut response = error(400, "com.amazonaws.sqs#QueueDoesNotExist", "The specified queue does not exist.");
        if let Ok(value) = "AWS.SimpleQueueService.NonExistentQueue;Sender".parse() {
            response.headers_mut().insert("x-amzn-query-error", value);
        }
        response
    };
    if world.generous {
        invent_queues(world, action, region, body);
    }
    match action {
        "GetQueueUrl" => match world.queues.contains_key(&(region.to_owned(), text("QueueName"))) {
            true => json_answer(200, &json!({"QueueUrl": url(&text("QueueName"))})),
            false => missing(),
        },
        "ListQueues" => {
            let prefix = text("QueueNamePrefix");
            let all: Vec<String> =
                world.queues.keys().filter(|(r, name)| r == region && name.starts_with(&prefix)).map(|(_, name)| url(name)).collect();
            let start: usize = text("NextToken").parse().unwrap_or(0);
            let size = body.get("MaxResults").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            let page: Vec<&String> = all.iter().skip(start).take(size.unwrap_or(1000)).collect();
            let end = start + page.len();
            // As AWS: without MaxResults there is no token, and everything after 1,000 is not shown.
            let next = (size.is_some() && end < all.len()).then(|| end.to_string());
            json_answer(200, &json!({"QueueUrls": page, "NextToken": next}))
        }
        "GetQueueAttributes" => {
            let name = text("QueueUrl").rsplit('/').next().unwrap_or_default().to_owned();
            if world.denied_queues.contains(&name) {
                return error(403, "AccessDeniedException", "User is not authorized to perform: sqs:getqueueattributes");
            }
            let Some(script) = world.queues.get_mut(&(region.to_owned(), name)) else { return missing() };
            let [visible, in_flight, delayed] = script.front().copied().unwrap_or_default();
            if script.len() > 1 {
                script.pop_front();
            }
            json_answer(
                200,
                &json!({"Attributes": {
                    "ApproximateNumberOfMessages": visible.to_string(),
                    "ApproximateNumberOfMessagesNotVisible": in_flight.to_string(),
                    "ApproximateNumberOfMessagesDelayed": delayed.to_string(),
                }}),
            )
        }
        _other => error(400, "UnknownOperationException", action),
    }
}

/// The pretend cluster as EKS describes it.
fn eks(asked: &Asked, name: &str) -> Response {
    let endpoint = format!("http://{}/kube", asked.header("host"));
    let cluster = json!({"name": name, "status": "ACTIVE", "endpoint": endpoint});
    json_answer(200, &json!({"cluster": cluster}))
}

/// The action of a request in the query protocol.
pub fn query_action(asked: &Asked) -> Option<String> {
    let is_form = asked.header("content-type").starts_with("application/x-www-form-urlencoded");
    let mut fields = url::form_urlencoded::parse(&asked.body);
    fields.find(|(name, _)| is_form && name == "Action").map(|(_, value)| value.into_owned())
}

/// Roles are given to whoever asks.
fn sts(world: &mut World, asked: &Asked) -> Response {
    let action = query_action(asked).unwrap_or_default();
    let seconds = world.session_seconds.unwrap_or(3600);
    if action == "GetCallerIdentity" {
        let identity = "<Arn>arn:aws:iam::123456789012:user/sandbox</Arn><UserId>AIDASANDBOX</UserId><Account>123456789012</Account>";
        return xml_answer(200, &format!("<{action}Response><{action}Result>{identity}</{action}Result></{action}Response>"));
    }
    if world.refuses_roles {
        let message = format!("Not authorized to perform sts:{action}");
        let error = format!("<Type>Sender</Type><Code>AccessDenied</Code><Message>{message}</Message>");
        return xml_answer(403, &format!("<ErrorResponse><Error>{error}</Error><RequestId>1</RequestId></ErrorResponse>"));
    }
    world.assumed.extend(asked.form().remove("RoleArn"));
    let expires =
        jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or_else(|_never| jiff::Timestamp::now());
    let credentials = format!(
        "<Credentials><AccessKeyId>ASIASANDBOX</AccessKeyId><SecretAccessKey>sandbox</SecretAccessKey>\
         <SessionToken>sandbox</SessionToken><Expiration>{expires}</Expiration></Credentials>"
    );
    xml_answer(
        200,
        &format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>{credentials}</{action}Result></{action}Response>"
        ),
    )
}

fn xml_answer(status: u16, xml: &str) -> Response {
    let status = axum::http::StatusCode::from_u16(status).unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "text/xml")], xml.to_owned()).into_response()
}
