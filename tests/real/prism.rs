//! Prism: a forge's own description as a proxy that checks our requests and the sandbox's answers.

use crate::parts::part;
use crate::world::World;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

pub struct Prism {
    child: Child,
    /// Where it listens.
    pub address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Prism {
    /// Starts on a free port in front of the sandbox's GitHub, and waits until it listens.
    pub fn before(world: &mut World) -> Self {
        let prism = Self::between(world, "github.openapi.json", &world.sandbox.url("github"));
        world.var("GITHUB_API_URL", prism.address.clone());
        prism
    }

    /// The same for any description of `tests/real` and any part of the sandbox.
    pub fn between(_world: &World, description: &str, inner: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let description = format!("{}/tests/real/{description}", env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(part("TIDEGATE_REAL_PRISM"))
            .args(["proxy", "--errors", "--host", "127.0.0.1", "--port", &port.to_string(), &description, inner])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("is listening")), "Prism did not start");
        let kept = log.clone();
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line)));
        Self { child, address: format!("http://127.0.0.1:{port}"), log }
    }

    pub fn said(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// These requests reached the sandbox, and no request or answer was against the description.
    #[track_caller]
    pub fn must_have_seen(&self, wanted: &[&str], world: &World) {
        let log = world.sandbox.with(|outside| outside.log.clone());
        let bad: Vec<String> = self.said().into_iter().filter(|line| line.to_lowercase().contains("violation")).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
        for text in wanted {
            assert!(
                log.iter().any(|line| line.contains(text)) || self.said().iter().any(|line| line.contains(text)),
                "{text} was not asked"
            );
        }
    }
}

impl Drop for Prism {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
