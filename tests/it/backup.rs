//! Databases saved before anything changes: what is proven gets its name, and whatever lies or breaks stops the delivery.
//!
//! The database's programs are scripts here, so that they can lie; the same with real servers stands in `tests/real`.

use crate::world::{Going, Ran, World, tidegate};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use tidegate::rehearse::heroku::{App, KEY};
use tidegate::rehearse::s3::Mood;
use tidegate::rehearse::sandbox::Fault;

const BUCKET: &str = "acme-backups";
/// A dump as pg_dump writes it.
const DUMP: &str = r"echo '--'; echo '-- PostgreSQL database dump'; echo '--'; echo 'CREATE TABLE a (t text);'; echo 'CREATE TABLE b (t text);'
echo 'COPY a (t) FROM stdin;'; i=0; while [ $i -lt 200 ]; do echo row $i; i=$((i+1)); done; printf '%s\n' '\.'
echo 'COPY b (t) FROM stdin;'; printf '%s\n' '\.'; echo '--'; echo '-- PostgreSQL database dump complete'; echo '--'";

/// A program of the pretend PostgreSQL.
fn program(world: &World, name: &str, script: &str) {
    let path = world.path("bin").join(name);
    std::fs::create_dir_all(world.path("bin")).unwrap();
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// pg_dump that writes by this script, of this version.
fn pg_dump(world: &World, script: &str) {
    program(world, "pg_dump", &format!("case \"$1\" in --version) echo 'pg_dump (PostgreSQL) 15.18'; exit 0;; esac\n{script}"));
}

/// A server that says this of itself: version, tables.
fn server(world: &World, version: u32, tables: u32) {
    let answer = format!("{}|{}.2|1000000|{tables}|{tables}", version * 10_000 + 2, version);
    let taken = world.path("taken");
    program(
        world,
        "psql",
        &format!(
            "case \"$*\" in *' -f -'*) cat > {0}; if tail -n 1 {0} | grep -q '^COMMIT;'; then mv {0} {0}.whole; fi; exit 0;; \
             *migrations*) echo 0042_users; exit 0;; *system_identifier*) echo 7001/shop; exit 0;; esac\necho '{answer}'",
            taken.display()
        ),
    );
}

/// A merge saves the database first, with these keys of `backup:`.
fn world(keys: &str) -> World {
    let mut world = World::new();
    let bin = world.path("bin").display().to_string();
    let backup = format!(
        "backup: {{postgres: {{url: {{env: DATABASE_URL}}, format: plain, bin: {bin}}}, to: \"s3://{BUCKET}/{{project}}/\"{keys}}}"
    );
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    {backup}\n"));
    world.commit("backup");
    world.var("DATABASE_URL", "postgres://app:story-password@db.internal:5432/shop");
    world.sandbox.with(|outside| outside.s3.buckets.push(BUCKET.into()));
    server(&world, 15, 2);
    pg_dump(&world, DUMP);
    world
}

/// Proven backups, and what is not proven.
fn stored(world: &World) -> (Vec<String>, Vec<String>) {
    world.sandbox.with(|outside| outside.s3.keys(BUCKET)).into_iter().partition(|key| !key.contains(".unproven/"))
}

/// Nothing was switched, and nothing is left in the bucket.
#[track_caller]
fn stopped(world: &World, ran: &Ran, code: i32, reason: &str, words: &str) {
    ran.must(code, reason);
    assert!(ran.err.contains(words), "{words:?} is not said:\n{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0, "nothing may be switched");
    let uploads = world.sandbox.with(|outside| outside.s3.uploads.len());
    assert_eq!((stored(world), uploads), ((vec![], vec![]), 0), "nothing may be left");
}

#[test]
fn what_is_proven_gets_its_name_before_anything_is_switched() {
    let mut world = world(", migration: {query: \"select name from migrations\"}");
    let ran = world.pushed().run(&["run", "--report", "report.json"]);
    ran.must(0, "deploy.done");
    let (keys, left) = stored(&world);
    let [key] = keys.as_slice() else { panic!("one backup: {keys:?}") };
    let head = world.head();
    let pattern = format!(r"^demo/demo-dev/demo-dev\.main\.\d{{4}}-\d\d-\d\d--\d\d-\d\d-\d\d\.{head}\.0042_users\.sql\.zst$");
    assert!(regex::Regex::new(&pattern).unwrap().is_match(key), "{key}");
    assert!(left.is_empty(), "{left:?}");
    // What stands there is the dump, and its metadata tells all about it.
    let object = world.sandbox.with(|outside| outside.s3.objects[&(BUCKET.to_owned(), key.clone())].clone());
    let text = String::from_utf8(zstd::stream::decode_all(object.body.as_ref()).unwrap()).unwrap();
    assert!(text.ends_with("-- PostgreSQL database dump complete\n--\n"));
    for (name, value) in [
        ("project", "demo"),
        ("environment", "dev"),
        ("commit", &head),
        ("migration", "0042_users"),
        ("tables", "2"),
        ("engine", "PostgreSQL 15.2"),
        ("tool", "pg_dump 15.18"),
        ("compress", "zstd"),
    ] {
        assert_eq!(object.metadata.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(object.metadata["raw-bytes"], text.len().to_string());
    let at = |text: &str| ran.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(at(&format!("PUT /aws/{BUCKET}/demo/demo-dev/")) < at("PATCH /kube"), "before the switch");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(world.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["backups"][0]["location"], json!(format!("s3://{BUCKET}/{key}")));
    assert_eq!(report["backups"][0]["sha256"], json!(object.metadata["sha256"]));
    assert!(world.comments()[0].contains("| backup | 2 tables,"), "{}", world.comments()[0]);
    assert!(!ran.err.lines().any(|line| line.contains("story-password") && !line.starts_with("::add-mask::")), "{}", ran.err);
}

/// Joplin's bug, and the usual pipe's: half a dump looked like a dump.
#[test]
fn a_dump_that_breaks_off_is_never_a_backup() {
    for (script, words) in [
        (format!("({DUMP}) | head -c 900; kill -9 $$"), "pg_dump was ended by signal 9 (after 900 B)"),
        (
            format!("{DUMP} | head -c 900; echo 'pg_dump: error: query failed: server closed the connection' >&2; exit 1"),
            "pg_dump ended with exit code 1: pg_dump: error: query failed: server closed the connection",
        ),
        // Lying twins: it ends well, and is not whole.
        (format!("({DUMP}) | head -c 900"), "\"-- PostgreSQL database dump complete\" does not stand at its end"),
        (format!("({DUMP}) | tail -n +3"), "it begins with"),
        ("exit 0".into(), "it begins with"),
        (format!("({DUMP}) | grep -v 'COPY b'"), "it holds 1 tables, and the database has 2"),
    ] {
        let mut world = world("");
        pg_dump(&world, &script);
        let ran = world.pushed().run(&["run"]);
        stopped(&world, &ran, 1, "backup.failed", words);
    }
}

#[test]
fn the_server_says_no_and_it_is_told_as_what_it_is() {
    for (complaint, code, reason, words) in [
        ("FATAL:  password authentication failed for user \"app\"", 5, "auth.denied", "look at the login in the address"),
        ("FATAL:  database \"shop\" does not exist", 1, "backup.failed", "the name at the end of the address"),
        ("could not connect to server: Connection refused", 1, "backup.failed", "is it private, or behind a firewall?"),
    ] {
        let mut world = world("");
        program(&world, "psql", &format!("echo 'psql: error: {complaint}' >&2; exit 2"));
        let ran = world.pushed().run(&["run"]);
        stopped(&world, &ran, code, reason, words);
        assert!(ran.err.contains("db.internal:5432/shop cannot be asked"), "{}", ran.err);
    }
    let mut world = world("");
    server(&world, 17, 2);
    let ran = world.pushed().run(&["run"]);
    stopped(&world, &ran, 2, "tool.version", "the server of db.internal:5432/shop is PostgreSQL 17.2, and pg_dump here");
    assert!(ran.err.contains("postgresql-client-17"), "{}", ran.err);
}

/// What can be known before anything is built costs no build.
#[test]
fn what_is_missing_here_is_told_before_the_build() {
    let mut world = world("");
    std::fs::remove_file(world.path("bin/pg_dump")).unwrap();
    let ran = world.pushed().run(&["run"]);
    stopped(&world, &ran, 2, "tool.missing", "there is no pg_dump in");
    assert_eq!(ran.count("POST /build"), 0);
    pg_dump(&world, DUMP);
    let ran = world.without("DATABASE_URL").run(&["run"]);
    stopped(&world, &ran, 5, "auth.missing", "DATABASE_URL");
    let ran = world.var("DATABASE_URL", "https://db.internal/shop").run(&["run"]);
    stopped(&world, &ran, 2, "input.invalid", "DATABASE_URL is no address of a PostgreSQL database: it begins with https:");
    assert_eq!(ran.count("POST /build"), 0);
}

/// A bucket that says yes and does no.
#[test]
fn what_the_bucket_has_must_be_what_was_sent() {
    for (mood, words) in [
        (Mood::Truncates, "bytes were sent, and"),
        (Mood::Garbles, "the server has another SHA-256 of it"),
        (Mood::GarblesSilently, "read back, it has another SHA-256 than was sent"),
        (Mood::NoCopy, "it got its final name, and is not there"),
    ] {
        let mut world = world("");
        world.sandbox.with(|outside| outside.s3.mood = mood);
        let ran = world.pushed().run(&["run"]);
        stopped(&world, &ran, 1, "backup.failed", words);
    }
    // An honest server that knows no checksums is read back, and believed.
    let mut old = world("");
    old.sandbox.with(|outside| outside.s3.mood = Mood::NoChecksums);
    let ran = old.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("read back, its SHA-256 is ours"), "{}", ran.err);
    let mut plain = world(", kms-key: alias/backups");
    let ran = plain.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let key = plain.sandbox.with(|outside| outside.s3.objects.values().next().unwrap().kms_key.clone());
    assert_eq!(key.as_deref(), Some("alias/backups"));
    let mut plain = world(", kms-key: alias/backups");
    plain.sandbox.with(|outside| outside.s3.mood = Mood::Plain);
    let ran = plain.pushed().run(&["run"]);
    stopped(&plain, &ran, 1, "backup.failed", "it was to be encrypted with a KMS key, and is not");
}

fn fault(on: &'static str, times: usize, status: u16) -> Fault {
    Fault { on, times, status, headers: vec![], body: json!("<Error><Code>InternalError</Code></Error>"), after_effect: false }
}

/// Three parts: a failure that passes is waited out, one that stays ends the delivery.
#[test]
fn a_part_that_fails_is_sent_again_or_ends_it() {
    let large = "echo '-- PostgreSQL database dump'; echo 'COPY a'; echo 'COPY b'; head -c 9000000 /dev/urandom | base64; echo '-- PostgreSQL database dump complete'";
    let mut passing = world(", compress: none");
    pg_dump(&passing, large);
    passing.sandbox.with(|outside| outside.faults.push(fault("partNumber=3", 2, 500)));
    let ran = passing.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("partNumber=3"), 3, "{}", ran.log.join("\n"));
    let mut staying = world(", compress: none");
    pg_dump(&staying, large);
    staying.sandbox.with(|outside| outside.faults.push(fault("partNumber=3", usize::MAX, 500)));
    let ran = staying.pushed().run(&["run"]);
    stopped(&staying, &ran, 1, "backup.failed", "cannot be used");
    assert_eq!(ran.count("DELETE /aws"), 2, "the upload and what may stand under its key: {}", ran.log.join("\n"));
    // The bucket is full, or gives out in the midst.
    let mut full = world("");
    full.sandbox.with(|outside| {
        outside.faults.push(Fault {
            body: json!("<Error><Code>QuotaExceeded</Code><Message>disk full</Message></Error>"),
            ..fault("partNumber=1", usize::MAX, 507)
        })
    });
    let ran = full.pushed().run(&["run"]);
    stopped(&full, &ran, 1, "backup.failed", "cannot be used");
    let mut denied = world("");
    denied.sandbox.with(|outside| {
        outside.faults.push(Fault {
            body: json!("<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
            ..fault("?uploads", usize::MAX, 403)
        })
    });
    let ran = denied.pushed().run(&["run"]);
    stopped(&denied, &ran, 5, "auth.denied", "needed: s3:ListBucket");
}

#[test]
fn a_bucket_that_is_not_there_is_told() {
    let mut world = world("");
    world.sandbox.with(|outside| outside.s3.buckets.clear());
    let ran = world.pushed().run(&["run"]);
    stopped(&world, &ran, 1, "backup.failed", "there is no bucket acme-backups");
}

#[test]
fn a_database_without_tables_is_the_wrong_one_unless_said_otherwise() {
    let mut empty = world("");
    server(&empty, 15, 0);
    let ran = empty.pushed().run(&["run"]);
    stopped(&empty, &ran, 1, "backup.failed", "has no tables: there is nothing to save");
    assert!(ran.err.contains("allow-empty: true"), "{}", ran.err);
    let mut first = world(", check: {allow-empty: true, min-bytes: 10}");
    server(&first, 15, 0);
    pg_dump(&first, "echo '-- PostgreSQL database dump'; echo '-- PostgreSQL database dump complete'");
    first.pushed().run(&["run"]).must(0, "deploy.done");
}

#[test]
fn a_dump_far_smaller_than_the_one_before_is_refused() {
    let mut world = world("");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    pg_dump(&world, &DUMP.replace("-lt 200", "-lt 60"));
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "backup.failed");
    assert!(ran.err.contains("% of the one before") && ran.count("PATCH /kube") == 0, "{}", ran.err);
    assert_eq!(stored(&world).0.len(), 1, "the good one stays alone");
    // Said once by hand, with a reason, the delivery goes on without a backup.
    let ran = world.run(&["deploy", "dev", &world.head(), "--override", "backup", "--reason", "the log table was emptied on purpose"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("lifted  backup: the log table was emptied on purpose"), "{}", ran.err);
    assert_eq!(stored(&world).0.len(), 1);
}

#[test]
fn old_ones_go_and_what_is_not_ours_stays() {
    let mut world = world(", keep: {last: 2}");
    let foreign = (BUCKET.to_owned(), "demo/demo-dev/demo-dev.main.2019-03-01--12-00-59.abc.none.sql.gz".to_owned());
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| {
        let mut like = outside.s3.objects.values().next().unwrap().clone();
        like.metadata.clear();
        like.modified -= 1_000_000;
        outside.s3.objects.insert(foreign.clone(), like);
        // Older ones of ours.
        for (index, mut older) in vec![outside.s3.objects.values().last().unwrap().clone(); 3].into_iter().enumerate() {
            older.modified -= 1000 * (index as i64 + 1);
            let key = format!("demo/demo-dev/demo-dev.main.2020-01-0{}--00-00-00.abc.none.sql.zst", 3 - index);
            outside.s3.objects.insert((BUCKET.to_owned(), key), older);
        }
    });
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let keys = stored(&world).0;
    assert!(keys.contains(&foreign.1) && keys.len() == 3, "two of ours and the foreign one: {keys:?}");
    assert!(ran.err.contains("older ones removed, as `keep:` says"), "{}", ran.err);
}

/// A run that is killed in the midst leaves an upload; the next one takes it away. One that was killed after its proof is gone on with.
#[test]
fn a_killed_run_leaves_nothing_and_nothing_is_saved_twice() {
    let mut killed = world("");
    pg_dump(&killed, "echo '-- PostgreSQL database dump'; head -c 6000000 /dev/urandom | base64; sleep 60");
    let run = Going::start(killed.pushed().command(&["run"]));
    killed.until("an upload", |outside| outside.s3.uploads.len() == 1);
    run.kill();
    pg_dump(&killed, DUMP);
    killed.write("app", "two\n");
    killed.commit("two");
    killed.var("TIDEGATE_LEASE_EXPIRY", "1s");
    let ran = killed.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("gave up what an earlier run left"), "{}", ran.err);
    let (keys, left) = stored(&killed);
    assert_eq!((keys.len(), left.len(), killed.sandbox.with(|outside| outside.s3.uploads.len())), (1, 0, 0));

    // One that was killed after its proof is gone on with, within the hour; people work on, so an old one is made again.
    for (age, made) in [(60, 1), (7200, 2)] {
        let mut after = world("");
        let time = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(age)).unwrap();
        after.sandbox.with(|outside| {
            outside.github.time = time.to_string();
            outside.holds.push("PATCH /kube".into());
        });
        let run = Going::start(after.pushed().command(&["run"]));
        after.until("the switch", |outside| outside.held > 0);
        run.kill();
        after.sandbox.open();
        after.var("TIDEGATE_LEASE_EXPIRY", "1s");
        let ran = after.run(&["run"]);
        ran.must(0, "deploy.done");
        assert_eq!(ran.err.contains("the run before made it: s3://acme-backups/demo/"), made == 1, "{}", ran.err);
        assert_eq!(stored(&after).0.len(), made);
    }
}

#[test]
fn a_cancel_gives_the_upload_up() {
    let mut world = world("");
    pg_dump(&world, "echo '-- PostgreSQL database dump'; head -c 6000000 /dev/urandom | base64; sleep 60");
    let run = Going::start(world.pushed().command(&["run"]));
    world.until("an upload", |outside| outside.s3.uploads.len() == 1);
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("cancelled while the backup was made"), "{said}");
    assert_eq!((stored(&world), world.sandbox.with(|outside| outside.s3.uploads.len())), ((vec![], vec![]), 0));
    // And so does a time that is over.
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    world.write("tidegate.yml", &text.replace("to: \"s3://acme-backups/{project}/\"", "to: \"s3://acme-backups/{project}/\", timeout: 1s"));
    world.commit("hurry");
    let ran = world.pushed().run(&["run"]);
    stopped(&world, &ran, 3, "backup.timeout", "the backup did not end within 1.0s");
}

#[test]
fn a_backup_by_hand_and_the_list_of_them() {
    let mut world = world("");
    let ran = world.pushed().run(&["backup", "dev", "--format", "json"]);
    ran.must_say(0, "2 tables");
    let made: Value = serde_json::from_str(&ran.out).unwrap();
    let location = made["backups"][0]["location"].as_str().unwrap();
    let listed = world.run(&["backup", "dev", "--list"]);
    assert!(listed.code == 0 && listed.err.contains(location), "{}", listed.err);
    let listed: Value = serde_json::from_str(&world.run(&["backup", "dev", "--list", "--format", "json"]).out).unwrap();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1);
    let none = world.run(&["backup", "staging"]);
    assert!(none.code == 2 && none.err.contains("tidegate.yml gives it no `backup:`"), "{}", none.err);
    let looked = world.run(&["doctor", "dev"]);
    assert!(
        looked.err.contains("dev: PostgreSQL 15.2 at db.internal:5432/shop, 2 tables; pg_dump 15.18; s3://acme-backups/demo/ is there"),
        "{}",
        looked.err
    );
    let plan = world.pushed().run(&["plan"]);
    assert!(plan.err.contains("data    save the PostgreSQL database in DATABASE_URL to s3://acme-backups/demo/"), "{}", plan.err);
}

/// Restores: `psql` gets the end of its input only when all was proven.
fn restoring() -> (World, Value) {
    let mut world = world("");
    let ran = world.pushed().run(&["backup", "dev", "--format", "json"]);
    let made: Value = serde_json::from_str(&ran.out).unwrap();
    (world, made["backups"][0].clone())
}

#[test]
fn a_backup_comes_back_whole() {
    let (world, made) = restoring();
    let plan = world.run(&["plan", "restore", "dev"]);
    assert!(
        plan.code == 0 && plan.err.contains(made["location"].as_str().unwrap()) && plan.err.contains("all of it is replaced"),
        "{}",
        plan.err
    );
    assert!(!world.path("taken.whole").exists(), "a plan changes nothing");
    let ran = world.run(&["restore", "dev", "--no-backup"]);
    ran.must_say(0, "db.internal:5432/shop is restored");
    let taken = std::fs::read_to_string(world.path("taken.whole")).unwrap();
    assert!(taken.contains("\nrow 199\n") && taken.ends_with("COMMIT;\n"), "{taken}");
    assert!(taken.find("DROP %s IF EXISTS").unwrap() < taken.find("CREATE TABLE a").unwrap(), "what was there goes first");
    assert_eq!(stored(&world).0.len(), 1);
    // Without the flag what is there is saved first.
    let ran = world.run(&["restore", "dev"]);
    ran.must_say(0, "saved   2 tables");
    assert_eq!(stored(&world).0.len(), 2);
}

#[test]
fn a_backup_that_is_not_what_it_was_is_not_restored() {
    let (world, made) = restoring();
    let key = made["location"].as_str().unwrap().trim_start_matches("s3://acme-backups/").to_owned();
    let at = (BUCKET.to_owned(), key);
    let good = world.sandbox.with(|outside| outside.s3.objects[&at].clone());
    let other =
        zstd::stream::encode_all(&b"-- PostgreSQL database dump\nDROP DATABASE shop;\n-- PostgreSQL database dump complete\n"[..], 3)
            .unwrap();
    for (body, words) in [
        (other, "is not what was stored: its SHA-256 is"),
        (good.body[..good.body.len() - 9].to_vec(), "cannot be unpacked"),
        (
            zstd::stream::encode_all(&b"-- PostgreSQL database dump\n\\! touch /tmp/pwned\n-- PostgreSQL database dump complete\n"[..], 3)
                .unwrap(),
            "the backup holds a command of the client",
        ),
    ] {
        world.sandbox.with(|outside| outside.s3.objects.get_mut(&at).unwrap().body = body.into());
        let ran = world.run(&["restore", "dev", "--no-backup"]);
        ran.must(1, "restore.failed");
        assert!(ran.err.contains("nothing was changed: PostgreSQL took all of it back"), "{}", ran.err);
        assert!(
            ran.err.contains(words) || ran.err.contains("is not what was stored") || ran.err.contains("there is nothing to restore"),
            "{words}: {}",
            ran.err
        );
        assert!(!world.path("taken.whole").exists(), "psql was given the end of {words:?}");
    }
}

#[test]
fn the_server_takes_no_half_of_it() {
    let (world, _) = restoring();
    let survey = std::fs::read_to_string(world.path("bin/psql")).unwrap();
    let survey = survey.lines().last().unwrap().to_owned();
    program(
        &world,
        "psql",
        &format!(
            "case \"$*\" in *' -f -'*) head -c 200 >/dev/null; echo 'psql:<stdin>:9: ERROR:  must be owner of extension plpgsql' >&2; exit 3;; esac\n{survey}"
        ),
    );
    let ran = world.run(&["restore", "dev", "--no-backup"]);
    ran.must(1, "restore.failed");
    assert!(ran.err.contains("must be owner of extension") && ran.err.contains("--clean ownership,privileges,extensions"), "{}", ran.err);
}

#[test]
fn production_is_replaced_only_by_its_name() {
    let mut world = world("");
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let backup = text.lines().find(|line| line.contains("backup: {postgres")).unwrap().to_owned();
    world.configure("  production:\n    when: manual\n", &format!("  production:\n    when: manual\n{backup}\n"));
    world.commit("guarded");
    world.var("DATABASE_URL", "postgres://app:story-password@db.internal:5432/shop");
    assert_eq!(world.run(&["backup", "production"]).code, 0);
    for args in [vec!["restore", "production"], vec!["restore", "production", "--yes-restore", "dev"]] {
        let ran = world.run(&args);
        ran.must(4, "restore.refused");
        assert!(ran.err.contains("db.internal:5432/shop is the database of production, and all of it would be replaced"), "{}", ran.err);
    }
    // Under another name it is the same database all the same.
    let ran = world.run(&["restore", "dev", "--from", "production"]);
    ran.must(4, "restore.refused");
    assert!(!world.path("taken.whole").exists());
    let ran = world.run(&["restore", "production", "--into", "postgres://me:secret-word@localhost/x"]);
    ran.must(2, "input.invalid");
    let leaks = ran.err.lines().any(|line| line.contains("secret-word") && !line.starts_with("::add-mask::"));
    assert!(ran.err.contains("a password stands in --into") && !leaks, "{}", ran.err);
    world.run(&["restore", "production", "--yes-restore", "production", "--no-backup"]).must_say(0, "is restored");
    assert!(world.path("taken.whole").exists());
}

#[test]
fn which_backup_is_said_by_name_or_by_time() {
    let (world, made) = restoring();
    let location = made["location"].as_str().unwrap();
    let name = location.rsplit('/').next().unwrap();
    for which in ["latest", location, name, "2099-01-01", "2099-01-01T12:00:00Z"] {
        let ran = world.run(&["plan", "restore", "dev", "--backup", which]);
        assert!(ran.code == 0 && ran.err.contains(location), "{which}: {}", ran.err);
    }
    for which in ["2001-01-01", "nothing.sql", "s3://other/x"] {
        let ran = world.run(&["plan", "restore", "dev", "--backup", which]);
        ran.must(2, "input.backup");
    }
}

#[test]
fn an_empty_database_is_filled_and_a_full_one_stays() {
    let mut world = world("");
    let bin = world.path("bin").display().to_string();
    let restore = format!(
        "restore: {{from: dev, into: {{postgres: {{url: {{env: PREVIEW_URL}}, bin: {bin}}}}}, clean: [ownership], scrub: [{{sql: scrub.sql}}], seed: before}}"
    );
    world.configure("  preview:\n    when: pull-request\n", &format!("  preview:\n    when: pull-request\n    {restore}\n"));
    world.write("scrub.sql", "UPDATE a SET t = 'nobody';");
    world.commit("seeded");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    server(&world, 15, 0);
    world.var("PREVIEW_URL", "postgres://app@db.internal/preview");
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    let taken = std::fs::read_to_string(world.path("taken.whole")).unwrap();
    assert!(taken.contains("row 199") && taken.ends_with("UPDATE a SET t = 'nobody';\nCOMMIT;\n"), "{taken}");
    std::fs::remove_file(world.path("taken.whole")).unwrap();
    server(&world, 15, 2);
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pull_request("synchronize", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("it is not empty, and stays as it is") && !world.path("taken.whole").exists(), "{}", ran.err);
}

#[test]
fn files_of_the_repository_are_kept_once() {
    let mut world = World::new();
    world.configure(
        "  dev:\n    when: merge\n",
        "  dev:\n    when: merge\n    archive: {folder: db/points, to: \"s3://acme-backups/archive/{project}\", clean: [ownership]}\n",
    );
    world.write("db/points/a.sql", "CREATE TABLE a (t text);\nALTER TABLE a OWNER TO bob;\n");
    world.write("db/points/deep/b.bin", "bytes\n");
    world.commit("points");
    world.sandbox.with(|outside| outside.s3.buckets.push(BUCKET.into()));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(stored(&world).0, ["archive/demo/a.sql", "archive/demo/deep/b.bin"]);
    let text = world.sandbox.with(|outside| outside.s3.objects[&(BUCKET.to_owned(), "archive/demo/a.sql".to_owned())].body.clone());
    assert_eq!(text.as_ref(), b"CREATE TABLE a (t text);\n");
    world.write("app", "two\n");
    world.write("db/points/deep/b.bin", "other\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("1 stored (6 B), 1 there already"), "{}", ran.err);
    std::os::unix::fs::symlink("/etc/passwd", world.path("db/points/link")).unwrap();
    let ran = world.run(&["run", "--sha", &world.commit("three")]);
    assert!(ran.code == 2 && ran.err.contains("is a link or a device"), "{}", ran.err);
}

#[test]
fn a_program_writes_the_backup_and_takes_it_back() {
    let mut world = World::new();
    let backup = "backup: {command: {run: [sh, -c, 'cat app; echo END'], restore: [./load], ext: txt, ends-with: END}, to: \"s3://acme-backups/x\", check: {min-bytes: 1}, compress: gzip}";
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    {backup}\n"));
    world.write("load", "#!/bin/sh\ncat > loaded\n");
    std::fs::set_permissions(world.path("load"), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.commit("program");
    world.sandbox.with(|outside| outside.s3.buckets.push(BUCKET.into()));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    assert!(stored(&world).0[0].ends_with(".none.txt.gz"), "{:?}", stored(&world));
    world.run(&["restore", "dev"]).must_say(0, "its program ended with exit code 0");
    assert_eq!(std::fs::read_to_string(world.path("loaded")).unwrap(), "one\nEND\n");
    world.write("app", "");
    world.configure("echo END", "exit 7");
    world.commit("broken");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "backup.failed");
    assert!(ran.err.contains("sh ended with exit code 7"), "{}", ran.err);
}

#[test]
fn a_rehearsal_saves_without_a_database() {
    let world = world("");
    let (code, _, said) = tidegate(world.folder.path(), &["rehearse", "merge"], &[]);
    assert!(code == 0 && said.contains("would dump the PostgreSQL database in DATABASE_URL"), "{said}");
    assert!(stored(&world).0.is_empty());
}

/// An app on Heroku whose database is saved by Heroku's own backups.
fn heroku(keys: &str) -> World {
    let mut world = World::new();
    let backup = format!(
        "backup: {{heroku-postgres: {{app: \"demo-staging\"{keys}}}, to: \"s3://acme-backups/deployment-backups/database\", name: \"{{app}}/{{app}}.{{time}}.{{short_sha}}.{{migration}}.{{ext}}\", migration: {{folder: migrations}}, check: {{min-bytes: 10}}}}"
    );
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    {backup}\n"));
    world.write("migrations/0001_initial.py", "");
    world.write("migrations/0010_more.py", "");
    world.write("migrations/__init__.py", "");
    world.commit("heroku");
    let url = world.sandbox.url("heroku");
    world.var("HEROKU_API_URL", &url).var("HEROKU_DATA_URL", &url).var("HEROKU_API_KEY", KEY);
    // Newer programs than any that this machine has: those are asked.
    program(&world, "pg_dump", "echo 'pg_dump (PostgreSQL) 99.1'");
    program(&world, "pg_restore", "cat > /dev/null; echo '; TOC Entries: 1'; echo '1; 0 16385 TABLE DATA public a app'");
    world.var("PATH", format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap()));
    world.sandbox.with(|outside| {
        outside.s3.buckets.push(BUCKET.into());
        let mut app = App::running();
        app.addons.push(("heroku-postgresql:essential-0".into(), 9));
        outside.heroku.apps.insert("demo-staging".into(), app);
        outside.heroku.data.dump = archive();
    });
    world
}

/// An archive as pg_dump writes it: its beginning is enough where nothing lists it.
fn archive() -> Vec<u8> {
    let mut archive = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
    archive.extend(vec![7; 40_000]);
    archive
}

#[test]
fn heroku_captures_its_own_backup_and_it_is_kept_elsewhere() {
    let mut world = heroku("");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let (keys, _) = stored(&world);
    let short: String = world.head().chars().take(7).collect();
    let pattern =
        format!(r"^deployment-backups/database/demo-staging/demo-staging\.\d{{4}}-\d\d-\d\d--\d\d-\d\d-\d\d\.{short}\.0010_more\.dump$");
    assert!(keys.len() == 1 && regex::Regex::new(&pattern).unwrap().is_match(&keys[0]), "{keys:?}");
    let object = world.sandbox.with(|outside| outside.s3.objects.values().next().unwrap().clone());
    assert!(object.body == archive() && object.metadata["tool"] == "Heroku b001", "{:?}", object.metadata);
    assert!(!ran.err.lines().any(|line| line.contains("download-secret") && !line.starts_with("::add-mask::")), "{}", ran.err);
    assert!(ran.err.contains("1 tables"), "{}", ran.err);
    // Lying twins: less comes than Heroku has, and what comes cannot be listed.
    let mut cut = heroku("");
    cut.sandbox.with(|outside| outside.heroku.data.cuts = 1);
    let ran = cut.pushed().run(&["run"]);
    stopped(&cut, &ran, 1, "backup.failed", "Heroku's backup b001 has");
    let mut odd = heroku("");
    program(&odd, "pg_restore", "cat > /dev/null; echo 'pg_restore: error: input file does not appear to be a valid archive' >&2; exit 1");
    let ran = odd.pushed().run(&["run"]);
    stopped(&odd, &ran, 1, "backup.failed", "it cannot be listed: pg_restore ended with exit code 1: pg_restore: error: input file");
}

/// Heroku's lies and silences.
#[test]
fn a_backup_of_heroku_that_is_none() {
    let mut fails = heroku("");
    fails.sandbox.with(|outside| outside.heroku.data.fails = true);
    let ran = fails.pushed().run(&["run"]);
    stopped(&fails, &ran, 1, "backup.failed", "Heroku's backup of DATABASE_URL of demo-staging on Heroku failed");
    assert!(ran.err.contains("dumping contents of table"), "{}", ran.err);
    let mut none = heroku("");
    none.sandbox.with(|outside| outside.heroku.apps.get_mut("demo-staging").unwrap().addons.clear());
    let ran = none.pushed().run(&["run"]);
    stopped(&none, &ran, 1, "backup.failed", "is not there, or has no database DATABASE_URL");
    let mut fine = heroku(", on-missing: skip");
    fine.sandbox.with(|outside| outside.heroku.apps.clear());
    let ran = fine.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("there is nothing to save"), "{}", ran.err);
    let mut hangs = heroku("");
    hangs.sandbox.with(|outside| outside.heroku.data.hangs = true);
    let run = Going::start(hangs.pushed().command(&["run"]));
    hangs.until("a capture", |outside| !outside.heroku.data.transfers.is_empty());
    run.signal("-TERM");
    run.ends(143);
    assert!(hangs.sandbox.with(|outside| outside.heroku.data.transfers[0].1), "the capture is stopped there too");
}

/// What the page shows is taken as it stands, one block after another.
#[test]
fn the_blocks_of_the_page_are_good_configuration() {
    let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backups.md")).unwrap();
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let environments = blocks.iter().filter(|block| block.starts_with("environments:") || block.starts_with("  "));
    let whole: String = environments.map(|block| (*block).to_owned()).collect();
    assert!(whole.contains("production:") && whole.contains("staging:") && whole.contains("preview:"), "{whole}");
    let folder = tempfile::tempdir().unwrap();
    let head = "schema: 1\nproject: shop\nimages: {web: {repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/shop}}\n";
    std::fs::write(folder.path().join("tidegate.yml"), format!("{head}{whole}")).unwrap();
    let (code, _, said) = tidegate(folder.path(), &["check"], &[]);
    assert_eq!(code, 0, "{said}\n{whole}");
}
