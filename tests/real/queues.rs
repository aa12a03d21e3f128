//! Real queues (moto) in two regions: visible, in flight, delayed, returning, and one that disappears.

use crate::parts::{moto, part};
use crate::world::World;
use aws_sdk_sqs::Client;
use std::time::Duration;

async fn queue(region: &str, name: &str) -> (Client, String) {
    let client = Client::new(&moto(region).await);
    let url = client.create_queue().queue_name(name).send().await.unwrap().queue_url().unwrap().to_owned();
    (client, url)
}

fn world() -> World {
    let mut world = World::new();
    world.var("AWS_ENDPOINT_URL_SQS", part("TIDEGATE_REAL_MOTO"));
    world
}

#[test]
fn every_kind_of_message_is_waited_for_in_both_regions() {
    let world = world();
    let runtime = world.runtime();
    let ((west, west_url), (east, east_url)) =
        runtime.block_on(async { (queue("us-west-2", "real-jobs").await, queue("us-east-2", "real-jobs").await) });
    runtime.block_on(async {
        west.send_message().queue_url(&west_url).message_body("visible").send().await.unwrap();
        east.send_message().queue_url(&east_url).message_body("delayed").delay_seconds(3).send().await.unwrap();
    });
    let run = world.start(&["drain", "real-jobs", "--region", "us-west-2,us-east-2", "--quiet", "3s", "--timeout", "60s"]);
    runtime.block_on(async {
        // It is taken for two seconds, not deleted, comes back, and is done the second time.
        let taken = west.receive_message().queue_url(&west_url).visibility_timeout(2).send().await.unwrap();
        assert_eq!(taken.messages().len(), 1);
        let again = loop {
            let taken = west.receive_message().queue_url(&west_url).visibility_timeout(30).send().await.unwrap();
            if let Some(message) = taken.messages().first() {
                break message.receipt_handle().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        west.delete_message().queue_url(&west_url).receipt_handle(again).send().await.unwrap();
        let late = loop {
            let taken = east.receive_message().queue_url(&east_url).send().await.unwrap();
            if let Some(message) = taken.messages().first() {
                break message.receipt_handle().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        east.delete_message().queue_url(&east_url).receipt_handle(late).send().await.unwrap();
    });
    let ran = world.ran(run.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    for words in
        ["us-west-2/real-jobs: 0 visible, 1 in flight", "us-east-2/real-jobs: 0 visible, 0 in flight, 1 delayed", "2 queues quiet for 3s"]
    {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
}

/// Lying twin: a queue that is gone must not pass for a quiet one.
#[test]
fn a_queue_that_disappears_while_it_is_watched_fails() {
    let world = world();
    let (client, url) = world.runtime().block_on(queue("us-west-2", "real-gone"));
    let mut run = world.start(&["drain", "real-gone", "--region", "us-west-2", "--quiet", "30s", "--timeout", "60s"]);
    use std::io::BufRead;
    let mut lines = std::io::BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.contains("at zero")), "the watch began");
    world.runtime().block_on(async { client.delete_queue().queue_url(&url).send().await.unwrap() });
    let said: Vec<String> = lines.collect();
    assert_eq!(run.wait().unwrap().code(), Some(1), "{said:?}");
    assert!(said.iter().any(|line| line.contains("there is no queue real-gone in us-west-2")), "{said:?}");
}

#[test]
fn a_queue_of_the_other_region_is_not_found_here() {
    let world = world();
    world.runtime().block_on(queue("us-east-2", "real-east-only"));
    let ran = world.run(&["drain", "real-east-only", "--region", "us-west-2", "--quiet", "1s", "--timeout", "5s"]);
    assert!(ran.code == 1 && ran.err.contains("there is no queue real-east-only in us-west-2"), "{}", ran.err);
}

#[test]
fn a_prefix_reads_every_page_of_real_queues() {
    let world = world();
    world.runtime().block_on(async {
        let client = Client::new(&moto("us-west-2").await);
        for number in 0..1_050 {
            client.create_queue().queue_name(format!("real-many-{number}")).send().await.unwrap();
        }
    });
    let ran = world.run(&["drain", "real-many-*", "--region", "us-west-2", "--quiet", "1s", "--timeout", "120s"]);
    assert!(ran.code == 0 && ran.err.contains("1050 queues quiet for 1s"), "{}", ran.err);
}
