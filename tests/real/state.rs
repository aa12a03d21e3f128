//! The stories of `never_twice` on real stores: Redis, S3 by moto and by s3s-fs, and GitHub's description before the forge.

use crate::parts::{part, program};
use crate::prism::Prism;
use crate::world::World;
use aws_sdk_s3::primitives::ByteStream;
use std::sync::atomic::{AtomicU32, Ordering};

/// Every world has a database or bucket of its own.
static NEXT: AtomicU32 = AtomicU32::new(1);

fn own() -> u32 {
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// redis-cli on one database.
fn redis(number: u32, args: &[&str]) -> String {
    let (server, password, number) = (part("TIDEGATE_REAL_REDIS"), part("TIDEGATE_REAL_REDIS_PASSWORD"), number.to_string());
    let port = server.split(':').nth(1).unwrap();
    program(&[&["redis-cli", "--no-auth-warning", "-a", &password, "-p", port, "-n", &number], args].concat())
}

fn in_redis(world: &mut World) {
    let (server, number) = (part("TIDEGATE_REAL_REDIS"), own());
    redis(number, &["FLUSHDB"]);
    world.configure("images:", &format!("state: \"redis://{server}/{number}\"\nimages:"));
    world.var("TIDEGATE_REDIS_PASSWORD", part("TIDEGATE_REAL_REDIS_PASSWORD"));
    world.damage = Some(Box::new(move || {
        for lease in redis(number, &["HKEYS", "tidegate:demo/dev/lock"]).lines() {
            redis(number, &["HSET", "tidegate:demo/dev/lock", lease, "m:1:{\"schema\""]);
        }
    }));
}

async fn client(endpoint: &str) -> aws_sdk_s3::Client {
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("us-west-2"))
        .credentials_provider(aws_credential_types::Credentials::new("AKIASTORY", "storysecretstorysecret", None, None, "story"))
        .endpoint_url(endpoint)
        .load()
        .await;
    aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build())
}

fn in_bucket(world: &mut World, endpoint: String) {
    let bucket = format!("tidegate-state-{}-{}", std::process::id(), own());
    world.configure("images:", &format!("state: s3://{bucket}/tide\nimages:"));
    world.var("AWS_ENDPOINT_URL_S3", &endpoint);
    let place = aws_sdk_s3::types::BucketLocationConstraint::UsWest2;
    let place = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(place).build();
    world.runtime().block_on(async {
        client(&endpoint).await.create_bucket().bucket(&bucket).create_bucket_configuration(place).send().await.unwrap();
    });
    let handle = world.runtime().handle().clone();
    world.damage = Some(Box::new(move || {
        handle.block_on(async {
            let client = client(&endpoint).await;
            let listed = client.list_objects_v2().bucket(&bucket).prefix("tide/demo/dev/lock/").send().await.unwrap();
            assert!(!listed.contents().is_empty());
            for object in listed.contents() {
                let body = ByteStream::from_static(b"{\"schema\"");
                client.put_object().bucket(&bucket).key(object.key().unwrap()).body(body).send().await.unwrap();
            }
        });
    }));
}

fn in_moto(world: &mut World) {
    in_bucket(world, part("TIDEGATE_REAL_MOTO"));
}

fn in_s3s(world: &mut World) {
    in_bucket(world, part("TIDEGATE_REAL_S3S"));
}

/// A wrong password is told as what it is, and never shown.
#[test]
fn a_login_that_redis_refuses_is_told() {
    let mut world = World::new();
    in_redis(&mut world);
    world.commit("state");
    world.var("TIDEGATE_REDIS_PASSWORD", "wrong-password");
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "lock.unreachable");
    assert!(ran.err.contains("set TIDEGATE_REDIS_PASSWORD"), "{}", ran.err);
    let leaked = ran.err.lines().filter(|line| line.contains("wrong-password") && !line.starts_with("::add-mask::")).count();
    assert_eq!(leaked, 0, "{}", ran.err);
}

/// The scripts are forgotten, as after a restart of the server: they are sent again.
#[test]
fn redis_may_forget_its_scripts() {
    let mut world = World::new();
    in_redis(&mut world);
    world.commit("state");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    redis(0, &["SCRIPT", "FLUSH"]);
    world.write("app", "two\n");
    world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
}

crate::never_twice::stories!(redis, super::in_redis);
crate::never_twice::stories!(moto, super::in_moto);
crate::never_twice::stories!(s3s, super::in_s3s);

fn behind_prism(world: &mut World) {
    let prism = Prism::before(world);
    world.beside.push(Box::new(prism));
}

/// The forge again, but GitHub's own description judges every request and answer: a wrong one is an error there.
/// (Prism takes seconds to start, so the stories that need hundreds of worlds are told without it.)
mod prism {
    use super::behind_prism;
    use crate::never_twice as story;

    #[test]
    fn the_older_run_ends_last() {
        story::the_older_run_ends_last(behind_prism);
    }

    #[test]
    fn a_stalled_holder_wakes_up_too_late() {
        story::a_stalled_holder_wakes_up_too_late(behind_prism);
    }

    #[test]
    fn the_second_run_waits_for_the_first() {
        story::the_second_run_waits_for_the_first(behind_prism);
    }

    #[test]
    fn a_finished_run_again_changes_nothing() {
        story::a_finished_run_again_changes_nothing(behind_prism);
    }

    #[test]
    fn leases_are_seen_taken_and_released_by_hand() {
        story::leases_are_seen_taken_and_released_by_hand(behind_prism);
    }
}
