//! Documents on a Redis (or Valkey) server, for several replicas: every change is one script.

use super::{Batch, Doc, Page, Place};
use crate::error::Result;
use crate::serve::output::Keep;
use crate::state::redis::{Server as Connection, named};
use crate::tools::console::Console;
use crate::vars::Vars;
use std::time::Duration;

// One hash holds the documents as "mark:json", one sorted set their keys in order.

const GET: &str = "return redis.call('HGET', KEYS[1], ARGV[1])";
const LIST: &str = "local keys
    if ARGV[3] == 'newest' then keys = redis.call('ZREVRANGEBYLEX', KEYS[2], '(' .. ARGV[2], '[' .. ARGV[1], 'LIMIT', 0, ARGV[4])
    else keys = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[1], '(' .. ARGV[2], 'LIMIT', 0, ARGV[4]) end
    local found = {}
    for _, key in ipairs(keys) do found[#found + 1] = key; found[#found + 1] = redis.call('HGET', KEYS[1], key) or '' end
    return found";
// ARGV: how many checks, puts and deletes; then the checks' keys and marks, the puts' keys, marks and texts, the deletes' keys.
const COMMIT: &str = "local checks, puts, deletes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    local at = 4
    for _ = 1, checks do
        local packed = redis.call('HGET', KEYS[1], ARGV[at])
        local mark = packed and string.match(packed, '^([^:]*):') or ''
        if mark ~= ARGV[at + 1] then return 0 end
        at = at + 2
    end
    for _ = 1, puts do
        redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1] .. ':' .. ARGV[at + 2])
        redis.call('ZADD', KEYS[2], 0, ARGV[at])
        at = at + 3
    end
    for _ = 1, deletes do
        redis.call('HDEL', KEYS[1], ARGV[at])
        redis.call('ZREM', KEYS[2], ARGV[at])
        at = at + 1
    end
    return 1";
const LIVE: &str = "redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]); return 1";
const ALIVE: &str = "return redis.call('EXISTS', KEYS[1])";
// What jobs say: the text, and a hash with who writes it, where its kept end begins, and how long all of it was.
const APPEND: &str = "local holder, total = redis.call('HGET', KEYS[1], 'holder'), tonumber(redis.call('HGET', KEYS[1], 'total') or '0')
    if holder and holder ~= ARGV[1] then return -2 end
    if total ~= tonumber(ARGV[2]) then return -1 end
    redis.call('HSET', KEYS[1], 'holder', ARGV[1])
    local head, text = tonumber(ARGV[3]), ARGV[5]
    local room = redis.call('HGET', KEYS[1], 'full') and 0 or head - redis.call('STRLEN', KEYS[2])
    if room < #text then
        -- The beginning ends between two characters, and then for good.
        while room > 0 and string.byte(text, room + 1) >= 128 and string.byte(text, room + 1) < 192 do room = room - 1 end
        redis.call('HSET', KEYS[1], 'full', '1')
    end
    if room > 0 then redis.call('APPEND', KEYS[2], string.sub(text, 1, room)); text = string.sub(text, room + 1) end
    if #text > 0 then
        local length, keep = redis.call('APPEND', KEYS[3], text), tonumber(ARGV[4])
        if length > 2 * keep then
            local tail = redis.call('GETRANGE', KEYS[3], length - keep, -1)
            redis.call('SET', KEYS[3], tail)
        end
    end
    redis.call('HSET', KEYS[1], 'total', total + #ARGV[5])
    return 1";
// Only the replica that looks after the job becomes its writer.
const HOLD: &str = "local packed = redis.call('HGET', KEYS[2], ARGV[2])
    if not packed or cjson.decode(string.sub(packed, string.find(packed, ':') + 1)).holder ~= ARGV[1] then return -1 end
    redis.call('HSET', KEYS[1], 'holder', ARGV[1]); return tonumber(redis.call('HGET', KEYS[1], 'total') or '0')";
// Whatever was to come up to ARGV[3] never will: the kept end begins anew there.
const SKIP: &str = "local holder, total = redis.call('HGET', KEYS[1], 'holder'), tonumber(redis.call('HGET', KEYS[1], 'total') or '0')
    if holder ~= ARGV[1] or total ~= tonumber(ARGV[2]) then return -1 end
    redis.call('DEL', KEYS[3]); redis.call('HSET', KEYS[1], 'full', '1', 'total', ARGV[3])
    return 1";
// How long all of it was, where the piece begins, and the piece.
const READ: &str = "local total = tonumber(redis.call('HGET', KEYS[1], 'total') or '0')
    local head, tail, from, limit = redis.call('STRLEN', KEYS[2]), redis.call('STRLEN', KEYS[3]), tonumber(ARGV[1]), tonumber(ARGV[2])
    if from < head then return {total, from, redis.call('GETRANGE', KEYS[2], from, from + limit - 1)} end
    local first = total - tail
    if from < first then from = first end
    if from >= total then return {total, total, ''} end
    return {total, from, redis.call('GETRANGE', KEYS[3], from - first, from - first + limit - 1)}";
const TOTAL: &str = "return tonumber(redis.call('HGET', KEYS[1], 'total') or '0')";
const FORGET: &str = "return redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])";

/// What the writer of a job's words knows of them.
pub struct Said<'a> {
    /// Who writes.
    pub holder: &'a str,
    /// How long they are so far.
    pub total: u64,
    /// How much of them is kept.
    pub keep: Keep,
}

/// A Redis server.
#[derive(Clone)]
pub struct Server {
    connection: Connection,
    prefix: String,
    lease: Duration,
}

impl Server {
    /// Connects when it is first used.
    pub fn new(vars: &Vars, console: &Console, place: &Place) -> Self {
        let connection = Connection::new(vars, console, &place.address);
        Self { connection, prefix: place.prefix.clone(), lease: place.lease }
    }

    /// A key of ours. The braces keep all of them in one slot of a cluster.
    fn key(&self, kind: &str, name: &str) -> String {
        format!("{{{}}}:{kind}:{name}", self.prefix)
    }

    fn documents(&self) -> [String; 2] {
        [self.key("docs", "all"), self.key("keys", "all")]
    }

    fn output(&self, job: &str) -> [String; 3] {
        [self.key("said", job), self.key("said-head", job), self.key("said-tail", job)]
    }

    /// One document.
    pub async fn get(&self, key: &str) -> Result<Option<Doc>> {
        let packed: Option<String> = self.connection.call(GET, &[&self.key("docs", "all")], &[key]).await?;
        Ok(packed.and_then(|packed| unpack(key, &packed)))
    }

    /// The documents of a kind.
    pub async fn list(&self, page: &Page) -> Result<Vec<Doc>> {
        let (low, high) = page.bounds();
        let limit = if page.limit == usize::MAX { "-1".to_owned() } else { page.limit.to_string() };
        let order = if page.newest_first { "newest" } else { "oldest" };
        let found: Vec<String> = self.connection.call(LIST, &named(&self.documents()), &[&low, &high, order, &limit]).await?;
        Ok(found.chunks_exact(2).filter_map(|pair| unpack(pair.first()?, pair.get(1)?)).collect())
    }

    /// Makes changes, in one script.
    pub async fn commit(&self, batch: &Batch) -> Result<bool> {
        let mut args = vec![batch.checks.len().to_string(), batch.puts.len().to_string(), batch.deletes.len().to_string()];
        for (key, mark) in &batch.checks {
            args.extend([key.clone(), mark.clone().unwrap_or_default()]);
        }
        for (key, json) in &batch.puts {
            args.extend([key.clone(), crate::report::outputs::random(), json.clone()]);
        }
        args.extend(batch.deletes.iter().cloned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let made: i64 = self.connection.call(COMMIT, &named(&self.documents()), &args).await?;
        Ok(made == 1)
    }

    /// How long a silent replica is believed to live.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Says that a replica lives for this long.
    pub async fn live(&self, replica: &str, length: Duration) -> Result<()> {
        let length = length.as_millis().to_string();
        self.connection.call::<i64>(LIVE, &[&self.key("replica", replica)], &[&length]).await.map(|_one| ())
    }

    /// Whether a replica lives.
    pub async fn is_alive(&self, replica: &str) -> Result<bool> {
        self.connection.call::<i64>(ALIVE, &[&self.key("replica", replica)], &[]).await.map(|count| count == 1)
    }

    /// Appends to what a job says. Says no when another replica writes it now, or it is longer than the writer thinks.
    pub async fn append(&self, job: &str, said: &Said<'_>, text: &str) -> Result<bool> {
        let Said { holder, total, keep } = said;
        let (total, head, tail) = (total.to_string(), keep.head.to_string(), keep.tail.to_string());
        let keys = self.output(job);
        let appended: i64 = self.connection.call(APPEND, &named(&keys), &[holder, &total, &head, &tail, text]).await?;
        Ok(appended == 1)
    }

    /// Makes this replica the one that writes what a job says; how long that is so far. Nothing when the job is another one's.
    pub async fn hold(&self, job: &str, holder: &str) -> Result<Option<u64>> {
        let (said, documents) = (self.key("said", job), self.key("docs", "all"));
        let total: i64 = self.connection.call(HOLD, &[&said, &documents], &[holder, &crate::serve::jobs::job_key(job)]).await?;
        Ok(u64::try_from(total).ok())
    }

    /// Leaves out what can never be brought here, up to this offset.
    pub async fn skip(&self, job: &str, said: &Said<'_>, to: u64) -> Result<bool> {
        let (total, to) = (said.total.to_string(), to.to_string());
        let skipped: i64 = self.connection.call(SKIP, &named(&self.output(job)), &[said.holder, &total, &to]).await?;
        Ok(skipped == 1)
    }

    /// How long what a job said was in all.
    pub async fn total(&self, job: &str) -> Result<u64> {
        self.connection.call(TOTAL, &[&self.key("said", job)], &[]).await
    }

    /// A piece of what a job said: how long all of it was, where the piece begins, and the piece.
    pub async fn read(&self, job: &str, from: u64, limit: u64) -> Result<(u64, u64, Vec<u8>)> {
        let (from, limit) = (from.to_string(), limit.to_string());
        self.connection.call(READ, &named(&self.output(job)), &[&from, &limit]).await
    }

    /// Forgets what a job said.
    pub async fn forget(&self, job: &str) -> Result<()> {
        let keys = self.output(job);
        self.connection.call::<i64>(FORGET, &named(&keys), &[]).await.map(|_count| ())
    }
}

fn unpack(key: &str, packed: &str) -> Option<Doc> {
    let (mark, json) = packed.split_once(':')?;
    Some(Doc { key: key.to_owned(), mark: mark.to_owned(), json: json.to_owned() })
}
