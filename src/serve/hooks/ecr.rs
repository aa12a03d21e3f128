//! Pushes to ECR, as EventBridge puts them into an SQS queue. A message is deleted after its jobs are kept.

use super::payload::Said;
use super::{Taken, ecr_image_action, take_or_keep};
use crate::error::{Error, Reason, Result};
use crate::serve::config::{EcrQueue, Hook};
use crate::serve::server::Server;
use crate::tools::aws::{self, Access, failure};
use std::sync::Arc;
use std::time::Duration;

/// How long SQS waits for a message before it says that there is none, in seconds.
const LONG_POLL: i32 = 20;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(10);

/// Listens to every queue of the configuration until the server stops. Queues that a reload adds are found within a pause.
pub async fn listen(server: Arc<Server>) {
    let mut listening = std::collections::HashSet::new();
    loop {
        for (name, hook) in &server.config().serve.webhooks {
            if let Hook::Ecr(queue) = hook
                && listening.insert((name.clone(), queue.queue.clone(), queue.region.clone()))
            {
                tokio::spawn(one(server.clone(), name.clone(), queue.clone()));
            }
        }
        tokio::select! {
            () = server.world.clock.sleep(PAUSE) => {}
            () = server.world.cancel.cancelled() => return,
        }
    }
}

async fn one(server: Arc<Server>, name: String, queue: EcrQueue) {
    let mut was_fine = true;
    loop {
        let worked = tokio::select! {
            worked = receive(&server, &name, &queue) => worked,
            () = server.world.cancel.cancelled() => return,
        };
        match worked {
            Ok(()) => was_fine = true,
            Err(error) => {
                if was_fine {
                    server.say(&format!("webhook {name}: {}", error.lines().join(" ")));
                }
                was_fine = false;
                tokio::select! {
                    () = server.world.clock.sleep(PAUSE) => {}
                    () = server.world.cancel.cancelled() => return,
                }
            }
        }
        let config = server.config();
        let still = config
            .serve
            .webhooks
            .get(&name)
            .is_some_and(|hook| matches!(hook, Hook::Ecr(now) if now.queue == queue.queue && now.region == queue.region));
        if !still {
            return;
        }
    }
}

/// Takes messages until something fails or the configuration is another one.
async fn receive(server: &Server, name: &str, queue: &EcrQueue) -> Result<()> {
    let access = Access { region: Some(queue.region.clone()), role: queue.role.clone() };
    let sdk = aws::config(&server.world.vars, &access, "SQS").await?;
    let client = aws_sdk_sqs::Client::new(&sdk);
    let what = |doing: &str| format!("the queue {} in {} {doing}", queue.queue, queue.region);
    let found = client.get_queue_url().queue_name(&queue.queue).send().await;
    let found = found.map_err(|error| failure(&what("cannot be found"), Reason::DrainFailed, &error))?;
    let url = found.queue_url.unwrap_or_default();
    loop {
        let asked = client.receive_message().queue_url(&url).wait_time_seconds(LONG_POLL).max_number_of_messages(10).send().await;
        let messages = asked.map_err(|error| failure(&what("cannot be read"), Reason::DrainFailed, &error))?.messages.unwrap_or_default();
        for message in messages {
            let body = message.body.unwrap_or_default();
            let rules = match server.config().serve.webhooks.get(name) {
                Some(Hook::Ecr(now)) => now.rules.clone(),
                Some(_) | None => return Ok(()),
            };
            let taken = match ecr_image_action(body.as_bytes()) {
                // What cannot be kept is asked for again: the message stays.
                Said::Delivery(delivery) => take_or_keep(server, name, &rules, &delivery).await.or_else(unusable)?,
                Said::Nothing(why) => Taken::Ignored(why.into()),
                Said::Broken => Taken::Ignored("it is no event of EventBridge".into()),
            };
            server.say(&format!("webhook {name}: {}", crate::serve::http::hooks::words(&taken)));
            if let Some(receipt) = message.receipt_handle {
                let deleted = client.delete_message().queue_url(&url).receipt_handle(receipt).send().await;
                deleted.map_err(|error| failure(&what("does not delete a message"), Reason::DrainFailed, &error))?;
            }
        }
    }
}

/// A message that will never be usable is not asked for again.
fn unusable(error: Error) -> Result<Taken> {
    if error.reason == Reason::InputInvalid { Ok(Taken::Ignored(error.sentence)) } else { Err(error) }
}
