//! State on a Redis (or Valkey) server: every operation is one script, so it happens wholly or not at all.

use super::{Entry, unreadable};
use crate::error::{Error, Reason, Result};
use crate::tools::console::Console;
use crate::tools::http::chain;
use crate::tools::secret::Secret;
use crate::vars::Vars;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{IntoConnectionInfo, Script};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// How long the server may take for one script.
const PATIENCE: Duration = Duration::from_secs(10);

// A folder is one hash: the field is the object's name, its value "mark:seconds:json". Time is the server's.
const NOW: &str = "local t = redis.call('TIME'); local now = t[1] .. '.' .. string.format('%06d', t[2]);
                   local function pack(json) return ARGV[3] .. ':' .. now .. ':' .. json end ";
const LIST: &str = "return redis.call('HGETALL', KEYS[1])";
const READ: &str = "return redis.call('HGET', KEYS[1], ARGV[1])";
const CREATE: &str = "return redis.call('HSETNX', KEYS[1], ARGV[1], pack(ARGV[2]))";
const PUT: &str = "redis.call('HSET', KEYS[1], ARGV[1], pack(ARGV[2])); return 1";
const FOLDERS: &str = "local found, cursor = {}, '0';
                       repeat local page = redis.call('SCAN', cursor, 'MATCH', KEYS[1] .. '/*', 'COUNT', 1000); cursor = page[1];
                       for _, key in ipairs(page[2]) do found[#found + 1] = key end until cursor == '0'; return found";
const DELETE: &str = "return redis.call('HDEL', KEYS[1], ARGV[1])";

/// Keys as a script takes them.
pub fn named<const N: usize>(keys: &[String; N]) -> [&str; N] {
    keys.each_ref().map(String::as_str)
}

/// A server.
#[derive(Clone)]
pub struct Server {
    address: String,
    login: Option<(String, Secret)>,
    connection: Arc<OnceCell<ConnectionManager>>,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl Server {
    /// Connects when it is first used. The login comes from the environment.
    pub fn new(vars: &Vars, console: &Console, address: &str) -> Self {
        let login = vars.get("TIDEGATE_REDIS_PASSWORD").map(|password| {
            let password = Secret::new(password);
            console.mask(&password);
            (vars.get("TIDEGATE_REDIS_USERNAME").unwrap_or("default").to_owned(), password)
        });
        Self { address: address.to_owned(), login, connection: Arc::default() }
    }

    /// What is in a folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let fields: Vec<String> = self.run(LIST, folder, ["", ""]).await?;
        let mut entries = Vec::new();
        for pair in fields.chunks_exact(2) {
            let [name, packed] = pair else { continue };
            let mut parts = packed.splitn(3, ':');
            let (mark, stamp) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let stamp: f64 = stamp.parse().map_err(|_| unreadable(&self.place(folder, name), "it has no time"))?;
            entries.push(Entry { name: name.clone(), mark: mark.to_owned(), stamp: Some(stamp) });
        }
        Ok(entries)
    }

    /// What an object holds.
    pub async fn read(&self, folder: &str, name: &str) -> Result<Option<Value>> {
        let packed: Option<String> = self.run(READ, folder, [name, ""]).await?;
        let Some(packed) = packed else { return Ok(None) };
        let json = packed.splitn(3, ':').nth(2).unwrap_or_default();
        serde_json::from_str(json).map(Some).map_err(|error| unreadable(&self.place(folder, name), &error.to_string()))
    }

    /// Creates an object, unless it exists.
    pub async fn create(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        let mark = crate::report::outputs::random();
        let created: bool = self.pack(CREATE, folder, [name, &value.to_string(), &mark]).await?;
        Ok(created.then_some(mark))
    }

    /// Writes an object.
    pub async fn put(&self, folder: &str, name: &str, value: &Value) -> Result<String> {
        let mark = crate::report::outputs::random();
        let _one: i64 = self.pack(PUT, folder, [name, &value.to_string(), &mark]).await?;
        Ok(mark)
    }

    /// Removes an object.
    pub async fn delete(&self, folder: &str, name: &str) -> Result<()> {
        let _count: i64 = self.run(DELETE, folder, [name, ""]).await?;
        Ok(())
    }

    /// The folders in a folder.
    pub async fn folders(&self, parent: &str) -> Result<Vec<String>> {
        let keys: Vec<String> = self.run(FOLDERS, parent, ["", ""]).await?;
        let prefix = format!("tidegate:{parent}/");
        Ok(keys.iter().filter_map(|key| Some(key.strip_prefix(&prefix)?.split('/').next()?.to_owned())).collect())
    }

    fn place(&self, folder: &str, name: &str) -> String {
        format!("tidegate:{folder} {name} on {}", self.address)
    }

    async fn pack<T: redis::FromRedisValue>(&self, body: &str, folder: &str, args: [&str; 3]) -> Result<T> {
        self.script(&format!("{NOW}{body}"), folder, &args).await
    }

    async fn run<T: redis::FromRedisValue>(&self, body: &str, folder: &str, args: [&str; 2]) -> Result<T> {
        self.script(body, folder, &args).await
    }

    async fn script<T: redis::FromRedisValue>(&self, body: &str, folder: &str, args: &[&str]) -> Result<T> {
        self.call(body, &[&format!("tidegate:{folder}")], args).await
    }

    /// Runs a script. It is sent whole when the server has forgotten it, as after its restart.
    pub async fn call<T: redis::FromRedisValue>(&self, body: &str, keys: &[&str], args: &[&str]) -> Result<T> {
        let script = Script::new(body);
        let asked = async {
            let mut connection = self.connection.get_or_try_init(|| self.connect()).await?.clone();
            let mut call = script.prepare_invoke();
            keys.iter().for_each(|key| {
                call.key(*key);
            });
            args.iter().for_each(|arg| {
                call.arg(*arg);
            });
            call.invoke_async(&mut connection).await.map_err(|error| self.failed(&error))
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(self.unreachable("no answer within 10s")),
        }
    }

    async fn connect(&self) -> Result<ConnectionManager> {
        let mut info = self.address.as_str().into_connection_info().map_err(|error| self.failed(&error))?;
        if let Some((name, password)) = &self.login {
            let settings = info.redis_settings().clone().set_username(name).set_password(password.expose());
            info = info.set_redis_settings(settings);
        }
        let client = redis::Client::open(info).map_err(|error| self.failed(&error))?;
        // The crate's own limit for an answer is half a second, which a busy server passes.
        let config = ConnectionManagerConfig::new().set_number_of_retries(2).set_response_timeout(Some(PATIENCE));
        let config = config.set_connection_timeout(Some(Duration::from_secs(5)));
        ConnectionManager::new_with_config(client, config).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &redis::RedisError) -> Error {
        let refused = error.code().is_some_and(|code| matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM"));
        if refused || error.kind() == redis::ErrorKind::AuthenticationFailed {
            return self
                .unreachable(&chain(error))
                .hint("set TIDEGATE_REDIS_PASSWORD (and TIDEGATE_REDIS_USERNAME) for a user that may run scripts");
        }
        self.unreachable(&chain(error))
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::new(Reason::ForgeFailed, format!("the Redis server {} cannot be used: {why}", self.address))
    }
}
