//! Sessions of people: a cookie that only this server reads, kept in the store so that logging out ends it everywhere.

use super::Asked;
use crate::error::Result;
use crate::serve::config::Role;
use crate::serve::jobs::now;
use crate::serve::server::Server;
use crate::serve::store::{Batch, Page};
use crate::version::hex;
use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Serialize};

/// How long a session lasts, in milliseconds.
const LENGTH: u64 = 12 * 3600 * 1000;

/// Somebody who has logged in.
pub struct Person {
    /// Their name.
    pub name: String,
    /// What they may do now.
    pub role: Role,
    /// What their forms carry, so that no other site can send them.
    pub token: String,
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Session {
    user: String,
    /// The mark of the password that they logged in with.
    mark: String,
    until: u64,
}

/// The cookie's name. With HTTPS no other site of the domain can set it: <https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Set-Cookie#cookie_prefixes>
fn cookie_name(asked: &Asked) -> &'static str {
    if asked.secure { "__Host-tidegate" } else { "tidegate" }
}

fn key(id: &str) -> String {
    // Who reads the store cannot take a session over.
    format!("sessions/{}", hex(digest::digest(&digest::SHA256, id.as_bytes()).as_ref()))
}

fn form_token(server: &Server, id: &str) -> String {
    hex(hmac::sign(server.apps.session_key(), id.as_bytes()).as_ref())
}

/// Who sends a request.
pub async fn person(server: &Server, asked: &Asked) -> Result<Option<Person>> {
    let cookies = asked.headers.get_all("cookie").iter().filter_map(|value| value.to_str().ok()).flat_map(|line| line.split(';'));
    let wanted = cookie_name(asked);
    let id = cookies.filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    let Some(id) = id.filter(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())) else { return Ok(None) };
    let Some((session, _mark)) = server.store.read::<Session>(&key(&id)).await? else { return Ok(None) };
    let role = server.apps.role_of(&session.user).filter(|(_, mark)| session.until > now() && *mark == session.mark);
    Ok(role.map(|(role, _mark)| Person { name: session.user, role, token: form_token(server, &id), id }))
}

/// Begins a session; the cookie.
pub async fn begin(server: &Server, asked: &Asked, user: &str) -> Result<String> {
    let id = format!("{}{}", crate::report::outputs::random(), crate::report::outputs::random());
    let mark = server.apps.role_of(user).map(|(_role, mark)| mark).unwrap_or_default();
    let mut batch = Batch::new().put(key(&id), &Session { user: user.to_owned(), mark, until: now() + LENGTH });
    for doc in server.store.list(Page::all("sessions/")).await? {
        if doc.parse::<Session>().map_or(true, |session| session.until <= now()) {
            batch = batch.delete(doc.key);
        }
    }
    server.store.commit(batch).await?;
    Ok(cookie(asked, &id, LENGTH / 1000))
}

/// Ends a session; the cookie that takes it away.
pub async fn end(server: &Server, asked: &Asked, person: &Person) -> Result<String> {
    server.store.commit(Batch::new().delete(key(&person.id))).await?;
    Ok(cookie(asked, "", 0))
}

fn cookie(asked: &Asked, id: &str, age: u64) -> String {
    let secure = if asked.secure { "; Secure" } else { "" };
    format!("{}={id}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}", cookie_name(asked))
}
