//! A webhook that deploys: one signed POST per delivery, and a proof, since a receiver that accepts has done nothing yet.
//!
//! The signature is that of <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use super::{Life, Settled, Site, Work, live, proof};
use crate::config::{Proof, Rollback, TextOrSecret, Webhook, WebhookAuth, template::Values};
use crate::error::{Error, Reason, Result};
use crate::tools::http::{self, chain, retry_after};
use crate::tools::secret::Secret;
use crate::tools::wait::Backoff;
use crate::world::World;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const ANSWER_LIMIT: usize = 1024 * 1024;
const TRIES: u32 = 5;
/// The longest pause that a receiver may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Refuses a secret that is not there, before anything is built.
pub fn check(world: &World, folder: &std::path::Path, webhook: &Webhook) -> Result<()> {
    for name in crate::config::Target::Webhook(Box::new(webhook.clone())).secret_names() {
        super::secret(world, name, "a secret of the webhook")?;
    }
    super::command::check_proof(world, folder, &webhook.proof)
}

/// Sends the webhook, and waits for its proof.
pub async fn deploy(site: &Site<'_>, work: &Work, webhook: &Webhook) -> Result<Settled> {
    let call = Call { site, values: site.values(&work.values), webhook };
    live(&call, Rollback::Never, site.world).await
}

/// What the proof says now; where only the answer could say, what the journal says.
pub async fn runs(site: &Site<'_>, work: &Work, webhook: &Webhook) -> Result<Option<Settled>> {
    let said = match &webhook.proof {
        Proof::Answer(_) => site.memory.is_done().await.then(|| "its receiver said so".to_owned()),
        proof @ (Proof::Http(_) | Proof::Command(_)) => proof::holds(site, &site.values(&work.values), proof).await?,
    };
    Ok(said.map(|said| Settled::deployed(said, None)))
}

struct Call<'a> {
    site: &'a Site<'a>,
    values: Values,
    webhook: &'a Webhook,
}

/// What is sent.
struct Message {
    url: String,
    id: String,
    body: String,
}

/// What came of a request.
enum Sent {
    /// The receiver said yes, with these words.
    Taken(String),
    /// It may have taken it; nobody knows.
    Unknown(String),
}

impl Life for Call<'_> {
    type Before = Message;
    type Started = Option<Sent>;

    async fn read(&self) -> Result<Message> {
        let id = format!("tidegate-{}-{}", self.site.memory.delivery().await, self.site.step);
        let body = match &self.webhook.body {
            Some(body) => self.site.fill_json(&self.values, body)?,
            None => self.described(&id),
        };
        Ok(Message { url: self.url()?, id, body: body.to_string() })
    }

    async fn start(&self, message: &mut Message, started: &mut Option<Sent>) -> Result<()> {
        let place = self.place(&message.url);
        if self.site.world.rehearsal {
            self.site.say(&format!("would POST {} bytes to {place}", message.body.len()));
            *started = Some(Sent::Taken(String::new()));
            return Ok(());
        }
        if self.site.memory.is_done().await {
            self.site.say("the run before sent it");
            *started = Some(Sent::Unknown("it was sent by the run before".into()));
            return Ok(());
        }
        if self.site.memory.started().await.is_some() && !self.knows_ids() {
            self.site.say("the run before may have sent it, and this receiver knows no ids");
            *started = Some(Sent::Unknown("it may have been sent by the run before".into()));
            return Ok(());
        }
        self.site.memory.note_started("request").await?; // nothing is sent yet: without a journal it is not
        self.site.say(&format!("POST {place}"));
        let sent = tokio::select! {
            sent = self.send(message, &place) => sent?,
            () = self.site.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, format!("cancelled while {place} was asked"))),
        };
        *started = Some(sent);
        self.site.note_done().await
    }

    async fn settle(&self, message: &Message, started: &Option<Sent>) -> Result<Settled> {
        let place = self.place(&message.url);
        if let (Proof::Answer(wanted), false) = (&self.webhook.proof, self.site.world.rehearsal) {
            let wanted = self.site.fill(&self.values, &wanted.contains)?;
            return match started {
                Some(Sent::Taken(answer)) if proof::says(answer, &wanted) => {
                    Ok(Settled::deployed(format!("{place} answers {wanted}"), None))
                }
                Some(Sent::Taken(answer)) => {
                    let sentence = format!("{place} said yes, but its answer does not say {wanted}: {:?}", proof::beginning(answer));
                    Err(Error::new(Reason::TargetWrongDigest, sentence))
                }
                Some(Sent::Unknown(why)) => {
                    let sentence = format!("{place} may have done it: {why}");
                    Err(Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }
                        .hint("look there; with `proof: {http: …}` the outcome is known without the answer"))
                }
                None => Err(Error::new(Reason::Internal, "a webhook that was not sent")),
            };
        }
        if let Some(Sent::Unknown(why)) = started {
            self.site.say(&format!("{why}: the proof decides"));
        }
        let deadline = self.site.world.clock.now().saturating_add(self.webhook.timeout.0);
        Ok(Settled::deployed(proof::wait(self.site, &self.values, &self.webhook.proof, deadline).await?, None))
    }

    fn has_changed(&self, _started: &Option<Sent>) -> bool {
        false // what a receiver did is its own
    }

    async fn back(&self, _before: &Message, _started: &Option<Sent>) -> Result<String> {
        Err(Error::new(Reason::Internal, "a webhook cannot be taken back"))
    }

    async fn stop(&self, started: &Option<Sent>) -> Option<String> {
        started.as_ref().map(|_sent| "what the receiver began goes on there".to_owned())
    }
}

impl Call<'_> {
    fn url(&self) -> Result<String> {
        match &self.webhook.url {
            TextOrSecret::Text(url) => {
                let url = self.site.fill(&self.values, url)?;
                proof::safe(&url, &proof::shown(&url))?;
                Ok(url)
            }
            TextOrSecret::Secret(secret) => {
                let url = super::secret(self.site.world, &secret.env, "the webhook's address")?.expose().to_owned();
                proof::safe(&url, &secret.env)?;
                Ok(url)
            }
        }
    }

    /// The address as it may be shown.
    fn place(&self, url: &str) -> String {
        match &self.webhook.url {
            TextOrSecret::Text(_) => proof::shown(url),
            TextOrSecret::Secret(secret) => format!("the address in {}", secret.env),
        }
    }

    /// Whether the receiver is known to take each id once: signatures come with that rule.
    fn knows_ids(&self) -> bool {
        matches!(self.webhook.auth, Some(WebhookAuth::Hmac(_)))
    }

    /// What a receiver of ours is told.
    fn described(&self, id: &str) -> Value {
        let images: Vec<Value> =
            self.site.images.iter().map(|(name, image)| json!({"name": name, "ref": image.reference(), "digest": image.digest})).collect();
        let value = |name: &str| self.values.get(name);
        json!({
            "schema": 1, "type": "deploy", "delivery": id, "project": value("project"), "environment": value("environment"),
            "version": value("version"), "commit": value("sha"), "images": images,
        })
    }

    /// Sent again only where that cannot do it twice: nothing had arrived, the receiver said so, or it knows the id.
    async fn send(&self, message: &Message, place: &str) -> Result<Sent> {
        let client = http::patient_client(&self.site.world.vars)?;
        let clock = &self.site.world.clock;
        let deadline = clock.now().saturating_add(self.webhook.timeout.0);
        let knows_ids = self.knows_ids();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        let mut last = String::new();
        for attempt in 1..=TRIES {
            let left = clock.real_length(deadline.saturating_sub(clock.now())).max(Duration::from_millis(1));
            let request = client.post(&message.url).header("content-type", "application/json").body(message.body.clone()).timeout(left);
            let request = self.signed(request, message)?;
            let mut pause = backoff.pause();
            match request.send().await {
                Ok(answer) if self.webhook.expect.contains(&answer.status().as_u16()) => {
                    let body = http::limited(answer, ANSWER_LIMIT).await;
                    return Ok(body.map_or_else(Sent::Unknown, |body| Sent::Taken(String::from_utf8_lossy(&body).into_owned())));
                }
                Ok(answer) => {
                    let (status, asked) = (answer.status(), retry_after(&answer));
                    let body = http::limited(answer, ANSWER_LIMIT).await.unwrap_or_default();
                    let words = proof::beginning(&String::from_utf8_lossy(&body));
                    last = format!("{place} answers {status}: {words:?}");
                    match kind(status) {
                        Answered::No => return Err(self.refused(status, &last)),
                        Answered::NotNow => {}
                        Answered::Unclear if knows_ids => {}
                        Answered::Unclear => return Ok(Sent::Unknown(last)),
                    }
                    pause = asked.unwrap_or(pause).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    let sure = error.is_connect() || error.is_builder();
                    last = format!("{place}: {}", chain(&error.without_url()));
                    if !sure && !knows_ids {
                        return Ok(Sent::Unknown(format!("the answer was lost ({last})")));
                    }
                }
            }
            if clock.now().saturating_add(pause) >= deadline {
                let limit = self.webhook.timeout;
                return Err(Error::new(Reason::TargetTimeout, format!("the webhook was not taken within {limit}: {last}")));
            }
            if attempt < TRIES {
                self.site.say(&format!("{last}; again in {}", crate::tools::wait::spoken(pause)));
                self.site.world.clock.sleep(pause).await;
            }
        }
        Err(Error::new(Reason::TargetFailed, last).hint("is the address right, and the receiver up?"))
    }

    fn refused(&self, status: StatusCode, last: &str) -> Error {
        let names = crate::config::Target::Webhook(Box::new(self.webhook.clone()));
        let names = names.secret_names().join(", ");
        match status.as_u16() {
            401 if names.is_empty() => Error::new(Reason::AuthMissing, last).hint("add `auth:` to the webhook"),
            401 => Error::new(Reason::AuthMissing, last).hint(format!("look at {names}")),
            403 => Error::new(Reason::AuthDenied, last).hint(format!("look at {names}, and at who may call there")),
            _other => {
                let expected: Vec<String> = self.webhook.expect.iter().map(u16::to_string).collect();
                Error::new(Reason::TargetFailed, last).hint(format!("`expect:` takes {}", expected.join(", ")))
            }
        }
    }

    fn signed(&self, request: RequestBuilder, message: &Message) -> Result<RequestBuilder> {
        let secret = |name: &str| super::secret(self.site.world, name, "a secret of the webhook");
        let request = request.header("webhook-id", &message.id);
        Ok(match &self.webhook.auth {
            None => request,
            Some(WebhookAuth::Bearer(token)) => request.bearer_auth(secret(&token.env)?.expose()),
            Some(WebhookAuth::Basic(login)) => {
                request.basic_auth(secret(&login.username.env)?.expose(), Some(secret(&login.password.env)?.expose()))
            }
            Some(WebhookAuth::Hmac(key)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()).to_string();
                let signature = signature(&secret(&key.env)?, &message.id, &now, &message.body);
                request.header("webhook-timestamp", now).header("webhook-signature", signature)
            }
        })
    }
}

/// `v1,` and the base64 of HMAC-SHA256 over id, timestamp and body. A secret that begins with `whsec_` is base64.
pub fn signature(secret: &Secret, id: &str, timestamp: &str, body: &str) -> String {
    let text = secret.expose().trim();
    let decoded = text.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &decoded.unwrap_or_else(|| text.as_bytes().to_vec()));
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag.as_ref()))
}

/// What a status that was not expected says.
enum Answered {
    /// It will not do it.
    No,
    /// It has not done it, and may later.
    NotNow,
    /// A gateway lost the answer, or the receiver broke half-way.
    Unclear,
}

fn kind(status: StatusCode) -> Answered {
    match status.as_u16() {
        429 | 503 => Answered::NotNow,
        500 | 502 | 504 => Answered::Unclear,
        _other => Answered::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries:
    /// <https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/python/tests/test_webhooks.py>
    #[test]
    fn signs_as_the_specification_does() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
