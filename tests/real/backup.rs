//! Real databases with real data go to S3 by moto and by s3s-fs, and come back equal; and what breaks them on the way.

use crate::parts::{part, program};
use crate::world::{Ran, World};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tidegate::backup::bucket::{Bucket, Reach, Sent};

const PASSWORD: &str = "story-p@ss:w/rd";
/// The password as it stands in an address.
const ESCAPED: &str = "story-p%40ss%3Aw%2Frd";

/// Every world has databases and a bucket of its own.
static NEXT: AtomicU32 = AtomicU32::new(1);

fn own(name: &str) -> String {
    format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// SQL to the real PostgreSQL.
fn psql(database: &str, sql: &str) -> String {
    let server = part("TIDEGATE_REAL_POSTGRES");
    let (host, port) = server.split_once(':').unwrap();
    let mut child = Command::new("psql")
        .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", "tide", "-d", database, "-f", "-"])
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{sql}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// SQL to the real MariaDB.
fn mariadb(database: &str, sql: &str) -> String {
    let server = part("TIDEGATE_REAL_MARIADB");
    let (host, port) = server.split_once(':').unwrap();
    program(&[
        "mariadb",
        "-h",
        host,
        "-P",
        port,
        "-u",
        "tide",
        &format!("-p{PASSWORD}"),
        "--default-character-set=utf8mb4",
        "-N",
        "-B",
        "-e",
        sql,
        database,
    ])
}

fn address(scheme: &str, part_name: &str, database: &str) -> String {
    format!("{scheme}://tide:{ESCAPED}@{}/{database}", part(part_name))
}

/// A repository whose merges save `from`, and whose staging is restored from there into `into`.
struct Story {
    world: World,
    from: String,
    into: String,
    bucket: String,
    endpoint: String,
}

/// Where objects are kept.
fn endpoint(name: &str) -> String {
    part(name)
}

impl Story {
    fn new(kind: &str, endpoint: String, keys: &str, of_database: &str) -> Self {
        let (scheme, server) = if kind == "postgres" { ("postgres", "TIDEGATE_REAL_POSTGRES") } else { ("mysql", "TIDEGATE_REAL_MARIADB") };
        let (from, into) = (own("shop"), own("staging"));
        for name in [&from, &into] {
            match kind {
                "postgres" => psql("postgres", &format!("create database {name}")),
                _mariadb => mariadb("mysql", &format!("create database {name}")),
            };
        }
        let bucket = own("backups").replace('_', "-");
        let mut world = World::new();
        let backup = format!("backup: {{{kind}: {{url: {{env: DATABASE_URL}}{of_database}}}, to: \"s3://{bucket}/{{project}}/\"{keys}}}");
        world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    {backup}\n"));
        let restore = format!("restore: {{from: dev, into: {{{kind}: {{url: {{env: STAGING_URL}}}}}}, clean: [ownership, privileges]}}");
        world.configure("  staging:\n    when: release\n", &format!("  staging:\n    when: release\n    {restore}\n"));
        world.commit("databases");
        world.var("DATABASE_URL", address(scheme, server, &from)).var("STAGING_URL", address(scheme, server, &into));
        world.var("AWS_ENDPOINT_URL_S3", &endpoint);
        let story = Self { world, from, into, bucket, endpoint };
        story.world.runtime().block_on(async {
            story
                .client()
                .await
                .create_bucket()
                .bucket(&story.bucket)
                .create_bucket_configuration(
                    aws_sdk_s3::types::CreateBucketConfiguration::builder()
                        .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::UsWest2)
                        .build(),
                )
                .send()
                .await
                .unwrap();
        });
        story
    }

    async fn client(&self) -> aws_sdk_s3::Client {
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new("us-west-2"))
            .credentials_provider(aws_credential_types::Credentials::new("AKIASTORY", "storysecretstorysecret", None, None, "story"))
            .endpoint_url(&self.endpoint)
            .load()
            .await;
        aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build())
    }

    /// The keys in the bucket, and how many uploads were begun and not ended.
    fn stored(&self) -> (Vec<String>, usize) {
        self.world.runtime().block_on(async {
            let client = self.client().await;
            let listed = client.list_objects_v2().bucket(&self.bucket).send().await.unwrap();
            // s3s-fs cannot list them: there only the objects tell.
            let uploads = client.list_multipart_uploads().bucket(&self.bucket).send().await;
            let uploads = uploads.map(|uploads| uploads.uploads().len()).unwrap_or_default();
            assert!(uploads == 0 || self.endpoint == part("TIDEGATE_REAL_MOTO"));
            (listed.contents().iter().filter_map(|object| Some(object.key()?.to_owned())).collect(), uploads)
        })
    }

    fn object(&self, key: &str) -> Vec<u8> {
        self.world.runtime().block_on(async {
            let answer = self.client().await.get_object().bucket(&self.bucket).key(key).send().await.unwrap();
            answer.body.collect().await.unwrap().to_vec()
        })
    }

    fn metadata(&self, key: &str) -> BTreeMap<String, String> {
        self.world.runtime().block_on(async {
            let answer = self.client().await.head_object().bucket(&self.bucket).key(key).send().await.unwrap();
            answer.metadata().unwrap().clone().into_iter().collect()
        })
    }

    fn put(&self, key: &str, body: Vec<u8>) {
        self.world.runtime().block_on(async {
            self.client().await.put_object().bucket(&self.bucket).key(key).body(body.into()).send().await.unwrap();
        });
    }

    /// Nothing was switched, and nothing is left.
    #[track_caller]
    fn stopped(&self, ran: &Ran, code: i32, reason: &str) {
        ran.must(code, reason);
        assert_eq!(ran.count("PATCH /kube"), 0);
        assert_eq!(self.stored(), (vec![], 0), "nothing may be left: {}", ran.err);
        assert!(!ran.err.lines().any(|line| line.contains(PASSWORD) && !line.starts_with("::add-mask::")), "{}", ran.err);
    }
}

/// Tables of many kinds, with some megabytes that do not compress.
fn fill_postgres(database: &str, rows: u32) {
    psql(
        database,
        &format!(
            "create extension hstore; create extension pgcrypto; create schema other; create type other.mood as enum ('glad', 'sad');
             create table people (id serial primary key, name text not null, born date, mood other.mood default 'glad', tags hstore, raw bytea);
             insert into people (name, born, tags, raw) select 'ä ö '||g||E' OWNER TO x;\\n\\\\.\\tCOPY', '1970-01-01'::date + g % 9000, hstore('k', g::text), gen_random_bytes(600) from generate_series(1, {rows}) g;
             create table other.notes (person int references public.people on delete cascade, at timestamptz default now(), body jsonb) partition by range (person);
             create table other.notes_1 partition of other.notes for values from (0) to (5000000);
             insert into other.notes select g, now(), jsonb_build_object('n', g) from generate_series(1, {rows} / 2) g;
             create view adults as select * from people where born < '2000-01-01'; create materialized view counted as select count(*) from people;
             create index on people using gin (tags); create sequence other.numbers start 42;
             create function grow() returns trigger language plpgsql as $f$ begin
ALTER TABLE people OWNER TO nobody;
return new; end $f$;
             create table \"odd name; drop\" (\"a b\" int); comment on table people is E'two\\nlines;';
             create table parts (a int, b text) partition by range (a); create table parts_1 partition of parts for values from (0) to (10); insert into parts values (1, 'x');
             create schema extensions; create extension citext schema extensions; create aggregate cnt(*) (sfunc = int8inc, stype = int8, initcond = '0');
             create collation mine from \"C\"; create text search configuration german2 (copy = german); create type floats as range (subtype = float8); create domain positive as int check (value > 0);
             create table ids (id int generated always as identity, p positive); create unlogged table cache (x int); select lo_from_bytea(0, 'large'); create publication everything for table people;
             create role {database}_eve; grant select on people to {database}_eve; alter table other.notes owner to {database}_eve;"
        ),
    );
}

/// How many rows every table has, and a checksum over all of them.
fn sums_of_postgres(database: &str) -> String {
    psql(
        database,
        "select count(*), md5(string_agg(p::text, '|' order by id)) from people p; select count(*), md5(string_agg(n::text, '|' order by person)) from other.notes n;
         select count(*) from adults; select * from counted; select nextval('other.numbers'); select count(*) from \"odd name; drop\";
         select md5(prosrc) from pg_proc where proname = 'grow'; select obj_description('people'::regclass); select count(*) from pg_indexes where schemaname in ('public', 'other'); select count(*), max(b) from parts; select count(*) from pg_largeobject_metadata;
         select count(*) from pg_publication; select count(*) from pg_ts_config where cfgname = 'german2'; select extname, extnamespace::regnamespace from pg_extension where extname = 'citext';",
    )
}

fn postgres_comes_back_equal(endpoint: String, keys: &str, of_database: &str, ending: &str) {
    let mut story = Story::new("postgres", endpoint, keys, of_database);
    fill_postgres(&story.from, 18_000); // some 15 MB: several parts
    let before = sums_of_postgres(&story.from);
    let ran = story.world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let (keys, uploads) = story.stored();
    let [key] = keys.as_slice() else { panic!("one backup: {keys:?}") };
    assert!(key.ends_with(ending) && uploads == 0, "{key}");
    let metadata = story.metadata(key);
    assert_eq!((metadata["tables"].as_str(), metadata["bytes"].as_str()), ("6", story.object(key).len().to_string().as_str()));
    // What is in the way is replaced, and an extension that is there already stays.
    psql(
        &story.into,
        "create extension hstore; create table people (x int); create table stale (y int); create schema old; create view old.v as select * from public.stale; create function grow() returns int language sql as 'select 1'; create type left_over as (a int);",
    );
    let ran = story.world.run(&["restore", "staging"]);
    ran.must_say(0, "is restored from the backup of");
    // The sequence was asked once before.
    psql(&story.into, "select setval('other.numbers', 42, false)");
    assert_eq!(sums_of_postgres(&story.into), before, "{}", ran.err);
    let left = psql(
        &story.into,
        "select count(*) from pg_class where relname in ('stale', 'v', 'left_over'); select count(*) from pg_namespace where nspname = 'old'",
    );
    assert_eq!(left, "0\n0");
    assert_eq!(psql(&story.into, "select tableowner from pg_tables where tablename = 'notes'"), "tide", "ownership was left out");
    // Every night again, over the copy of the night before.
    story.world.run(&["restore", "staging"]).must_say(0, "is restored from the backup of");
    psql(&story.into, "select setval('other.numbers', 42, false)");
    assert_eq!(sums_of_postgres(&story.into), before);
}

#[test]
fn postgres_by_moto_as_an_archive() {
    postgres_comes_back_equal(endpoint("TIDEGATE_REAL_MOTO"), "", "", ".dump.zst");
}

#[test]
fn postgres_by_s3s_as_sql_with_gzip() {
    postgres_comes_back_equal(endpoint("TIDEGATE_REAL_S3S"), ", compress: gzip", ", format: plain", ".sql.gz");
}

#[test]
fn postgres_by_s3s_as_an_archive_uncompressed() {
    postgres_comes_back_equal(endpoint("TIDEGATE_REAL_S3S"), ", compress: none", "", ".dump");
}

fn mariadb_comes_back_equal(endpoint: String) {
    let mut story = Story::new("mysql", endpoint, "", "");
    let rows = 20_000;
    mariadb(
        &story.from,
        &format!(
            "create table people (id int primary key auto_increment, name varchar(100) character set utf8mb4, raw varbinary(600), at timestamp default current_timestamp);
             insert into people (name, raw) select concat('ä 😀 ', seq, '\\n-- Dump completed\\n'), random_bytes(500) from seq_1_to_{rows};
             create table notes (person int, body text, foreign key (person) references people(id)); insert into notes select seq, repeat('x', seq % 50) from seq_1_to_{rows};
             create view short as select id from people where id < 100; create trigger caps before insert on notes for each row set new.body = upper(new.body);
             create procedure nothing() select 1; create event later on schedule every 1 year do delete from notes where person < 0;"
        ),
    );
    let sums = |database: &str| {
        mariadb(
            database,
            "set group_concat_max_len = 100000000; select count(*), md5(group_concat(concat(id, name, hex(raw), at) order by id)) from people;
             select count(*), md5(group_concat(concat(person, body) order by person)) from notes; select count(*) from short;
             select count(*) from information_schema.triggers where trigger_schema = database(); select count(*) from information_schema.routines where routine_schema = database();
             select count(*) from information_schema.events where event_schema = database()",
        )
    };
    let before = sums(&story.from);
    story.world.pushed().run(&["run"]).must(0, "deploy.done");
    let (keys, uploads) = story.stored();
    assert!(keys.len() == 1 && keys[0].ends_with(".sql.zst") && uploads == 0, "{keys:?}");
    mariadb(&story.into, "create table people (x int); create table stale (y int); create view short as select 1");
    story.world.run(&["restore", "staging"]).must_say(0, "is restored from the backup of");
    assert_eq!(sums(&story.into), before);
    assert_eq!(mariadb(&story.into, "show tables like 'stale'"), "");
}

#[test]
fn mariadb_by_moto() {
    mariadb_comes_back_equal(endpoint("TIDEGATE_REAL_MOTO"));
}

#[test]
fn mariadb_by_s3s() {
    mariadb_comes_back_equal(endpoint("TIDEGATE_REAL_S3S"));
}

/// F35 of the scorecard: the usual pipe ends with 0 here, and leaves a part of the dump.
#[test]
fn a_dump_that_the_server_ends_is_no_backup() {
    for (name, keys) in [("TIDEGATE_REAL_S3S", ""), ("TIDEGATE_REAL_MOTO", ", compress: none")] {
        let mut story = Story::new("postgres", endpoint(name), keys, "");
        psql(&story.from, "create table big as select g, md5(g::text) || md5((g + 1)::text) as t from generate_series(1, 1500000) g");
        let database = story.from.clone();
        // Its work is ended as soon as it copies rows.
        let killer = std::thread::spawn(move || {
            psql(
                "postgres",
                &format!(
                    "do $$ begin for i in 1..6000 loop perform pg_stat_clear_snapshot();
                     if exists (select 1 from pg_stat_activity where datname = '{database}' and application_name = 'pg_dump' and query like 'COPY%') then
                       perform pg_sleep(0.05); perform pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and application_name = 'pg_dump'; return;
                     end if; perform pg_sleep(0.005); end loop; raise 'it never copied'; end $$"
                ),
            )
        });
        let ran = story.world.pushed().run(&["run"]);
        killer.join().unwrap();
        story.stopped(&ran, 1, "backup.failed");
        assert!(ran.err.contains("pg_dump ended with exit code 1: pg_dump: error:"), "{}", ran.err);
    }
}

#[test]
fn a_wrong_password_and_a_database_that_is_not_there() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S"), "", "");
    let server = part("TIDEGATE_REAL_POSTGRES");
    story.world.var("DATABASE_URL", format!("postgres://tide:wrong@{server}/{}", story.from));
    let ran = story.world.pushed().run(&["run"]);
    story.stopped(&ran, 5, "auth.denied");
    story.world.var("DATABASE_URL", address("postgres", "TIDEGATE_REAL_POSTGRES", "nothing"));
    let ran = story.world.run(&["run"]);
    story.stopped(&ran, 1, "backup.failed");
    assert!(ran.err.contains("database \"nothing\" does not exist"), "{}", ran.err);
    story.world.var("DATABASE_URL", address("postgres", "TIDEGATE_REAL_POSTGRES", &story.from));
    let ran = story.world.run(&["run"]);
    story.stopped(&ran, 1, "backup.failed");
    assert!(ran.err.contains("has no tables: there is nothing to save"), "{}", ran.err);
    let mut maria = Story::new("mysql", endpoint("TIDEGATE_REAL_S3S"), "", "");
    let url = format!("mysql://tide:wrong@{}/{}", part("TIDEGATE_REAL_MARIADB"), maria.from);
    maria.world.var("DATABASE_URL", url);
    let ran = maria.world.pushed().run(&["run"]);
    maria.stopped(&ran, 5, "auth.denied");
}

/// A table that the login may not read: pg_dump says so, and nothing is a backup.
#[test]
fn a_table_that_may_not_be_read() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S"), "", "");
    let role = own("reader");
    psql(
        &story.from,
        &format!(
            "create table open (x int); create table closed (x int); create role {role} login password 'p'; grant select on open to {role}"
        ),
    );
    story.world.var("DATABASE_URL", format!("postgres://{role}:p@{}/{}", part("TIDEGATE_REAL_POSTGRES"), story.from));
    let ran = story.world.pushed().run(&["run"]);
    story.stopped(&ran, 5, "auth.denied");
    assert!(ran.err.contains("permission denied for table closed") && ran.err.contains("pg_read_all_data"), "{}", ran.err);
}

#[test]
fn a_bucket_that_is_not_there() {
    for name in ["TIDEGATE_REAL_S3S", "TIDEGATE_REAL_MOTO"] {
        let mut story = Story::new("postgres", endpoint(name), "", "");
        psql(&story.from, "create table a (x int)");
        let bucket = story.bucket.clone();
        story.world.configure(&bucket, "no-such-bucket-here");
        story.world.commit("another bucket");
        let ran = story.world.pushed().run(&["run"]);
        story.stopped(&ran, 1, "backup.failed");
        assert!(ran.err.contains("there is no bucket no-such-bucket-here"), "{}", ran.err);
    }
}

/// The server of the bucket has no room left.
#[test]
fn a_disk_that_is_full() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S_SMALL"), ", compress: none", "");
    psql(&story.from, "create extension pgcrypto; create table big as select gen_random_bytes(1000) as raw from generate_series(1, 20000)");
    let ran = story.world.pushed().run(&["run"]);
    ran.must(1, "backup.failed");
    assert_eq!((ran.count("PATCH /kube"), story.stored()), (0, (vec![], 0)), "{}", ran.err);
}

/// One transaction: whatever fails on the way, what was there is there.
#[test]
fn a_restore_is_whole_or_not_at_all() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S"), "", "");
    fill_postgres(&story.from, 2000);
    story.world.pushed().run(&["run"]).must(0, "deploy.done");
    psql(&story.into, "create table precious (x int); insert into precious values (1), (2)");
    let precious = |story: &Story| assert_eq!(psql(&story.into, "select count(*) from precious"), "2");
    let key = story.stored().0[0].clone();
    let good = story.object(&key);
    let metadata = story.metadata(&key);
    // Its last byte is another one: of the archive all is readable, and its SHA-256 is not what it was.
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    story.world.runtime().block_on(async {
        let request = story.client().await.put_object().bucket(&story.bucket).key(&key).body(bad.into());
        request.set_metadata(Some(metadata.clone().into_iter().collect())).send().await.unwrap();
    });
    let ran = story.world.run(&["restore", "staging"]);
    ran.must(1, "restore.failed");
    precious(&story);
    // The same, unpacked and packed again: only the SHA-256 tells.
    let other = zstd::stream::encode_all(zstd::stream::decode_all(good.as_slice()).unwrap().as_slice(), 1).unwrap();
    story.world.runtime().block_on(async {
        let request = story.client().await.put_object().bucket(&story.bucket).key(&key).body(other.into());
        request.set_metadata(Some(metadata.into_iter().collect())).send().await.unwrap();
    });
    let ran = story.world.run(&["restore", "staging"]);
    ran.must(1, "restore.failed");
    assert!(ran.err.contains("is not what was stored") && ran.err.contains("nothing was changed"), "{}", ran.err);
    precious(&story);
    // A scrub that fails takes the data with it.
    story.put("demo/plain.psql.gz", good_pipe(&story.from));
    story.world.configure("clean: [ownership, privileges]}", "clean: [ownership, privileges], scrub: [{sql: scrub.sql}]}");
    story.world.write("scrub.sql", "update people set name = nobody;");
    let backup = format!("s3://{}/demo/plain.psql.gz", story.bucket);
    let ran = story.world.run(&["restore", "staging", "--backup", &backup]);
    ran.must(1, "restore.failed");
    assert!(ran.err.contains("column \"nobody\" does not exist"), "{}", ran.err);
    precious(&story);
    // What the usual pipe made, and nobody knows anything of, comes back as well.
    story.world.write("scrub.sql", "update people set name = 'nobody';");
    let ran = story.world.run(&["restore", "staging", "--backup", &backup]);
    ran.must_say(0, "is restored");
    assert_eq!(psql(&story.into, "select count(*), max(name) from people; select to_regclass('precious') is null"), "2000|nobody\nt");
}

/// `pg_dump | gzip`, as before tidegate.
fn good_pipe(database: &str) -> Vec<u8> {
    let server = part("TIDEGATE_REAL_POSTGRES");
    let (host, port) = server.split_once(':').unwrap();
    let output =
        Command::new("pg_dump").args(["-h", host, "-p", port, "-U", "tide", database]).env("PGPASSWORD", PASSWORD).output().unwrap();
    assert!(output.status.success());
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&output.stdout).unwrap();
    packed.finish().unwrap()
}

/// Whoever kills the run kills no half of a transaction into the database.
#[test]
fn a_killed_restore_changes_nothing() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S"), ", compress: none", "");
    psql(
        &story.from,
        "create extension pgcrypto; create table big as select g, gen_random_bytes(1000) as raw from generate_series(1, 60000) g",
    );
    story.world.pushed().run(&["run"]).must(0, "deploy.done");
    for round in 0..5 {
        psql(
            &story.into,
            "drop schema public cascade; create schema public; create table precious (x int); insert into precious values (1), (2)",
        );
        let run = crate::world::Going::start(story.world.command(&["restore", "staging"]));
        // As soon as rows arrive.
        let sql = format!(
            "do $$ begin for i in 1..3000 loop perform pg_stat_clear_snapshot(); exit when exists (select 1 from pg_stat_activity where datname = '{}' and query like 'COPY%'); perform pg_sleep(0.005); end loop; end $$",
            story.into
        );
        psql("postgres", &sql);
        run.kill();
        let sql = format!(
            "do $$ begin for i in 1..3000 loop perform pg_stat_clear_snapshot(); exit when not exists (select 1 from pg_stat_activity where datname = '{}'); perform pg_sleep(0.005); end loop; end $$",
            story.into
        );
        psql("postgres", &sql);
        assert_eq!(psql(&story.into, "select count(*) from precious; select to_regclass('big') is null"), "2\nt", "round {round}");
    }
}

/// What is empty, or nobody knows, never empties a database.
#[test]
fn nothing_is_restored_from_nothing() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S"), "", "");
    psql(&story.from, "create table a (x int)");
    story.world.pushed().run(&["run"]).must(0, "deploy.done");
    psql(&story.into, "create table precious (x int)");
    let mut empty = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    empty.write_all(b"").unwrap();
    // The 20 bytes that the usual pipe leaves when pg_dump fails at once; no bytes at all; something else; half a dump.
    let half = b"--\n-- PostgreSQL database dump\n--\nCREATE TABLE other (x int);\n".to_vec();
    for (name, body) in [
        ("pipe.sql.gz", empty.finish().unwrap()),
        ("nothing.sql", vec![]),
        ("page.sql", b"<html>not found</html>".to_vec()),
        ("half.sql", half),
    ] {
        story.put(name, body);
        let ran = story.world.run(&["restore", "staging", "--backup", &format!("s3://{}/{name}", story.bucket)]);
        ran.must(1, "restore.failed");
        assert_eq!(psql(&story.into, "select to_regclass('precious') is not null"), "t", "{name}: {}", ran.err);
    }
    // The same database by another address: the server knows which one it is.
    let url = address("postgres", "TIDEGATE_REAL_POSTGRES", &story.into).replace("127.0.0.1", "localhost");
    story.world.configure("  staging:\n    when: release\n", "  staging:\n    when: manual\n");
    story.world.configure(
        "when: manual\n    restore: {from: dev,",
        "when: manual\n    backup: {postgres: {url: {env: STAGING_URL}}, to: \"s3://x-y-z/\"}\n    restore: {from: dev,",
    );
    story.world.var("SAME_URL", url);
    let ran = story.world.run(&["restore", "dev", "--into", "env:SAME_URL"]);
    ran.must(4, "restore.refused");
    assert!(ran.err.contains("is the database of staging"), "{}", ran.err);
}

/// mariadb-dump ends with 0, without the rows of a table that it may not read.
#[test]
fn a_table_that_mariadb_leaves_out() {
    let mut story = Story::new("mysql", endpoint("TIDEGATE_REAL_S3S"), "", "");
    let (user, database) = (format!("r{}", std::process::id()), story.from.clone());
    mariadb(
        &database,
        &format!(
            "create table open (x int); create table hidden (x int); insert into hidden values (1); create or replace user {user}@'%' identified by 'p'; grant lock tables, show view, trigger, event on {database}.* to {user}@'%'; grant select on {database}.open to {user}@'%'; grant insert on {database}.hidden to {user}@'%'"
        ),
    );
    story.world.var("DATABASE_URL", format!("mysql://{user}:p@{}/{database}", part("TIDEGATE_REAL_MARIADB")));
    let ran = story.world.pushed().run(&["run"]);
    assert!(ran.code != 0 && ran.count("PATCH /kube") == 0 && story.stored().0.is_empty(), "{}", ran.err);
}

/// What is too large for one copy is copied part by part, with the same proof.
#[test]
fn a_copy_in_parts_is_proven_too() {
    for name in ["TIDEGATE_REAL_S3S", "TIDEGATE_REAL_MOTO"] {
        let story = Story::new("postgres", endpoint(name), "", "");
        story.world.runtime().block_on(async {
            let vars =
                tidegate::vars::Vars::from([("AWS_ACCESS_KEY_ID", "AKIASTORY"), ("AWS_SECRET_ACCESS_KEY", "storysecretstorysecret")]);
            let access = tidegate::tools::aws::Access { region: Some("us-west-2".into()), role: None };
            let reach = Reach { access, endpoint: Some(&story.endpoint), kms_key: None };
            let mut bucket = Bucket::open(&vars, &story.bucket, &reach).await.unwrap();
            bucket.copy_limit = 1;
            let upload = bucket.begin("a b/unproven").await.unwrap();
            let mut sent = Sent::default();
            let mut whole = Vec::new();
            for number in 1..=2 {
                let body = vec![u8::try_from(number).unwrap(); 5 * 1024 * 1024];
                whole.extend_from_slice(&body);
                sent.parts.push(bucket.part(&upload, number, body.into()).await.unwrap());
            }
            sent.bytes = whole.len() as u64;
            sent.sha256 = <sha2::Sha256 as sha2::Digest>::digest(&whole).into();
            bucket.complete(&upload, &sent.parts).await.unwrap();
            bucket.prove("a b/unproven", &sent).await.unwrap();
            let metadata = BTreeMap::from([("sha256".to_owned(), "x".to_owned())]);
            let there = bucket.rename("a b/unproven", "final/ü+name", &sent, &metadata).await.unwrap();
            assert_eq!(there.bytes, sent.bytes);
            bucket.prove("final/ü+name", &sent).await.unwrap();
            // The lying twin: another SHA-256 than that of what is there.
            let mut other = sent.clone();
            other.sha256 = [0; 32];
            other.parts.iter_mut().for_each(|part| part.sha256 = [0; 32]);
            assert!(bucket.prove("final/ü+name", &other).await.is_err());
        });
        assert_eq!(story.stored(), (vec!["final/ü+name".to_owned()], 0));
    }
}

/// The peak of a run's memory, in kB.
fn peak(mut command: Command) -> (u64, Value) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(peak).max(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    (peak, serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn memory_stays_flat_while_the_database_grows() {
    let mut story = Story::new("postgres", endpoint("TIDEGATE_REAL_S3S"), ", check: {min-share: 0}", "");
    psql(&story.from, "create extension pgcrypto; create table big as select gen_random_bytes(1000) as raw from generate_series(1, 20000)");
    story.world.pushed();
    let (small, first) = peak(story.world.command(&["backup", "dev", "--format", "json"]));
    psql(&story.from, "insert into big select gen_random_bytes(1000) from generate_series(1, 160000)");
    let (large, second) = peak(story.world.command(&["backup", "dev", "--format", "json"]));
    let bytes = |made: &Value| made["backups"][0]["bytes"].as_u64().unwrap();
    assert!(bytes(&second) > 8 * bytes(&first), "{first} {second}");
    // 140 MB more went through: what is kept of them would show.
    assert!(large < small + 30_000, "{small} kB, then {large} kB for eight times as much");
    println!("memory: {small} kB for {} bytes stored, {large} kB for {}", bytes(&first), bytes(&second));
    let (restore, _) = peak(story.world.command(&["restore", "staging", "--format", "json"]));
    assert!(restore < small + 60_000, "{restore} kB for the restore");
}
