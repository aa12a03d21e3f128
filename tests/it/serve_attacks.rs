//! What strangers send: floods, half requests, guesses, requests that two parsers read differently.

use crate::cd::{Cd, OTHER, PASSWORD, PATIENCE, SECRET, answer_to};
use crate::serve::wait_for;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// The memory of a process, in KiB: what it has now.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_body_that_is_too_long_is_not_read() {
    let cd = Cd::new("");
    cd.ended("my-app", &cd.deploy());
    let before = memory(cd.pid());
    let said = cd.raw(b"POST /app-deploy/ HTTP/1.1\r\nHost: cd\r\nContent-Length: 314572800\r\n\r\n{");
    assert_eq!((said.status, said.header("connection").as_deref()), (413, Some("close")), "{said:?}");
    // Chunks without end: it is ended at its limit. What is still sent then is not read.
    let mut stream = TcpStream::connect(&cd.address).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"POST /app-deploy/ HTTP/1.1\r\nHost: cd\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    while sent < 300 && stream.write_all(&chunk).is_ok() {
        sent += 1;
    }
    let mut answer = String::new();
    let _reset = stream.read_to_string(&mut answer);
    assert!((answer.is_empty() || answer.starts_with("HTTP/1.1 413")) && sent < 300, "{sent} chunks were taken: {answer}");
    let packed = cd.ask("POST", "/app-deploy/", &[("content-encoding", "gzip")], "x").must(415);
    assert!(packed.body.contains("is not read"));
    let many: Vec<(String, String)> = (0..2000).map(|n| (format!("x-{n}"), "y".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let said = cd.ask("GET", "/", &many, "");
    assert_eq!(said.status, 431, "{said:?}");
    let long = format!("GET / HTTP/1.1\r\nHost: cd\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(cd.raw(long.as_bytes()).status, 431);
    let after = memory(cd.pid());
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after");
    assert_eq!(cd.ask("GET", "/health/", &[], "").status, 200);
}

#[test]
fn slow_connections_are_closed_and_keep_nobody_waiting() {
    let cd = Cd::new("");
    let open: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = TcpStream::connect(&cd.address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    for _healthy in 0..50 {
        cd.ask("GET", "/health/", &[], "").must(200);
    }
    let since = Instant::now();
    for mut stream in open {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "it is still open");
    }
    assert!(since.elapsed() < PATIENCE);
}

#[test]
fn requests_that_may_be_read_in_two_ways_are_refused() {
    let cd = Cd::new("");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: cd\r\n\r\n";
    for head in [
        "POST / HTTP/1.1\r\nHost: cd\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: cd\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: cd\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: cd\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\nHost: cd\nContent-Length: 0\n\n",
        "GET / HTTP/1.1\r\nHost: cd\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : cd\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: cd\r\nX: a\n\r\n",
    ] {
        let said = answer_to(&cd.address, format!("{head}{smuggled}").as_bytes()).unwrap();
        assert_eq!(said.status, 400, "{head:?}: {said:?}");
        assert!(!said.body.contains("HTTP/1.1"), "a second answer: {said:?}");
    }
    // After a chunked body nothing more of the connection is read.
    let chunked = "POST /nothing HTTP/1.1\r\nHost: cd\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let said = cd.raw(format!("{chunked}{smuggled}").as_bytes());
    assert!(said.status == 404 && !said.body.contains("HTTP/1.1"), "{said:?}");
    // Two good ones on one connection are two answers.
    let said = cd
        .raw(format!("GET / HTTP/1.1\r\nHost: cd\r\n\r\n{}", "GET /health/ HTTP/1.1\r\nHost: cd\r\nConnection: close\r\n\r\n").as_bytes());
    assert!(said.status == 200 && said.body.matches("HTTP/1.1 200").count() == 1, "{said:?}");
}

#[test]
fn guesses_end_and_friends_go_on() {
    let cd = Cd::new("limits: {wrong-secrets: 5}\nproxies: [127.0.0.1]\n");
    let from = |source: &str, secret: &str| {
        let body = serde_json::json!({"deployment_id": "my-app", "deployment_secret": secret}).to_string();
        cd.ask("POST", "/app-deploy/", &[("x-forwarded-for", source)], &body)
    };
    assert!(from("198.51.100.1", SECRET).must(200).body.contains("job_id"));
    for guess in 0..5 {
        from("203.0.113.9", &format!("guess-{guess}")).must(200);
    }
    let limited = from("203.0.113.9", SECRET).must(429);
    assert!(limited.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    // One stranger locks nobody out: not with wrong secrets, tokens or signatures.
    assert!(from("203.0.113.10", SECRET).must(200).body.contains("job_id"));
    for _guess in 0..40 {
        for (path, header) in [("/api/v1/jobs", ("authorization", "Bearer wrong")), ("/hooks/none", ("x-gitlab-token", "wrong"))] {
            let method = if path == "/hooks/none" { "POST" } else { "GET" };
            let status = cd.ask(method, path, &[("x-forwarded-for", "203.0.113.66"), header], "").status;
            assert!(matches!(status, 401 | 429), "{status}");
        }
    }
    let token = format!("Bearer {}", crate::cd::OPERATOR);
    cd.ask("GET", "/api/v1/jobs", &[("x-forwarded-for", "203.0.113.12"), ("authorization", &token)], "").must(200);
    // Many sources that guess at one app make those wait that never knew its secret.
    for source in 100..130 {
        (0..5).for_each(|guess| _ = from(&format!("203.0.113.{source}"), &format!("guess-{guess}")));
    }
    from("203.0.113.13", SECRET).must(429);
    assert!(from("198.51.100.1", SECRET).must(200).body.contains("job_id"), "who knew it before goes on");
    let bearer = format!("Bearer {OTHER}");
    let other = [("x-forwarded-for", "203.0.113.11"), ("authorization", bearer.as_str())];
    cd.ask("GET", "/api/v1/apps/other-app/jobs", &other, "").must(200);
    let token = format!("Bearer {}", crate::cd::VIEWER);
    let metrics = cd.ask("GET", "/metrics", &[("authorization", &token)], "").must(200);
    let refused: u64 = metrics.body.lines().find_map(|line| line.strip_prefix("tidegate_refused_total ")).unwrap().parse().unwrap();
    assert!((50..200).contains(&refused), "{refused}");
}

#[test]
fn a_flood_is_answered_with_little() {
    let cd = Cd::new("limits: {requests: 20}\n");
    let statuses: Vec<u16> = (0..200).map(|_| cd.ask("GET", "/", &[], "").status).collect();
    assert!(statuses.contains(&429) && statuses.contains(&200), "{statuses:?}");
}

/// How long answers take to one secret and to another, in turn; medians in nanoseconds.
fn medians(cd: &Cd, ask: [&dyn Fn(&Cd); 2]) -> [u128; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _round in 0..1000 {
        for (which, ask) in ask.iter().enumerate() {
            let since = Instant::now();
            ask(cd);
            times[which].push(since.elapsed().as_nanos());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

#[test]
fn an_unknown_app_and_a_wrong_secret_are_one() {
    let cd = Cd::new("limits: {wrong-secrets: 100000, requests: 100000}\n");
    let id = cd.deploy();
    cd.ended("my-app", &id);
    let get = |path: String, token: &str| cd.api("GET", &path, token);
    let same = |one: crate::cd::Answer, other: crate::cd::Answer| {
        let head = |answer: &crate::cd::Answer| {
            answer.head.lines().filter(|line| !line.starts_with("date")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((one.status, head(&one), &one.body), (other.status, head(&other), &other.body));
    };
    same(get(format!("/apps/my-app/jobs/{id}"), OTHER), get(format!("/apps/none/jobs/{id}"), OTHER));
    same(get(format!("/apps/other-app/jobs/{id}"), OTHER), get("/apps/other-app/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), OTHER));
    let [unknown, wrong] = medians(
        &cd,
        [&|cd| assert_eq!(cd.enac("/app-deploy/", "none", "a-secret-that-is-none", None).status, 200), &|cd| {
            assert_eq!(cd.enac("/app-deploy/", "my-app", "a-secret-that-is-none", None).status, 200)
        }],
    );
    // Shown, not judged: a loaded machine has noise of its own.
    println!("unknown app: median {unknown} ns; wrong secret: median {wrong} ns");
}

#[test]
fn secrets_stand_nowhere() {
    let mut cd = Cd::new("");
    cd.job("echo \"$JOB_SECRET\" | base64; echo \"x$JOB_SECRET\" | base64; printf 'hunter2'; sleep 0.1; echo 'hunter2'; until [ -e go ]; do sleep 0.02; done");
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    let mut seen = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let argv = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let argv = String::from_utf8_lossy(&argv).into_owned();
        if [SECRET, OTHER, PASSWORD, "hunter2hunter2"].iter().any(|secret| argv.contains(secret)) {
            seen.push(argv);
        }
    }
    assert!(seen.is_empty(), "on an argument list: {seen:?}");
    cd.write("go", "");
    cd.ended("my-app", &id);
    cd.enac("/app-deploy/", "my-app", "wrong-guess-hunter3", None);
    cd.stop();
    let mut all = cd.said();
    let mut folders = vec![cd.path("data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => all.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    assert!(all.contains("deploying my-inventory"), "the output is among what was looked at");
    for secret in [SECRET, OTHER, PASSWORD, "hunter2hunter2", "aHVudGVyMmh1bnRlcj", "h1bnRlcjJodW50ZX", "wrong-guess-hunter3"] {
        assert!(!all.contains(secret), "{secret} stands in the log or in the store");
    }
}

#[test]
fn one_server_has_a_folder_alone() {
    let cd = Cd::new("");
    let (code, err) = cd.refused(&[]);
    assert!(code == 4 && err.contains("another server uses the folder") && err.contains("store: redis://"), "{code}: {err}");
}

#[test]
fn a_configuration_that_does_not_hold_changes_nothing() {
    let cd = Cd::new("");
    for (from, to, words) in [
        ("runner: script}", "runner: skript}", "did you mean script?"),
        ("runner: skript}", "runer: script}", "runer"),
        ("runer: script}", "runner: script", "this is not YAML"),
    ] {
        cd.configure(from, to);
        wait_for(&cd, words);
    }
    assert!(cd.said().contains("the configuration stays as it was"));
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    // What holds again is read once, with both changes: asking with the new secret meanwhile would be guessing.
    cd.configure("my-app: {secret: {env: MY_APP}", "my-app: {secret: {env: OTHER_APP}");
    assert!(!cd.said().contains("was read again"), "{}", cd.said());
    cd.configure("runner: script\n", "runner: script}\n");
    wait_for(&cd, "was read again");
    cd.api("GET", "/apps/my-app/jobs", OTHER).must(200);
    cd.api("GET", "/apps/my-app/jobs", SECRET).must(401);
}

/// The process that is the parent of another one.
fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The most memory that a process ever had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_program_that_floods_half_lines_and_bad_bytes_takes_little_memory() {
    let cd = Cd::new("limits: {output: 1}\n");
    let job = |count: &str| {
        format!(
            "head -c {count} /dev/zero | tr '\\0' '\\377'; printf 'half a line'; echo $$ > program.new; mv program.new program; until [ -e go ]; do sleep 0.02; done"
        )
    };
    let mut peaks = Vec::new();
    for count in ["1000000", "100000000"] {
        cd.job(&job(count));
        let id = cd.deploy();
        let since = Instant::now();
        while !cd.path("program").exists() {
            assert!(since.elapsed() < PATIENCE);
        }
        let program = std::fs::read_to_string(cd.path("program")).unwrap().trim().parse().unwrap();
        peaks.push(peak(parent(program)));
        cd.write("go", "");
        assert_eq!(cd.ended("my-app", &id)["status"], "success");
        let told = cd.enac("/job-status/", "my-app", SECRET, Some(&id)).text("/output");
        assert!(told.contains("\u{fffd}") && told.ends_with("half a line\nProcess terminated with return code: 0\n"));
        std::fs::remove_file(cd.path("program")).unwrap();
        std::fs::remove_file(cd.path("go")).unwrap();
    }
    println!("the supervisor's peak: {} KiB after 1 MB, {} KiB after 100 MB", peaks[0], peaks[1]);
    // A debug build alone has some 40 MB; `benches/serve` shows the build that ships.
    assert!(peaks[1] < 64 * 1024 && peaks[1] < peaks[0] + 5 * 1024, "{peaks:?}");
}
