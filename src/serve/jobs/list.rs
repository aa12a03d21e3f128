//! What is known of jobs, and what is forgotten.

use super::{Entry, Job, Lane, RUNNING, Seen, Taken, job_key, lane_key, of_app, tell_key};
use crate::error::Result;
use crate::serve::store::{Batch, Doc, Page, Store};

/// The jobs whose ends were not told since then, with the marks of their notes.
pub async fn untold(store: &Store, before: u64) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for doc in store.list(Page { limit: 100, ..Page::all("tell/") }).await? {
        if doc.parse::<u64>()? < before {
            found.push((doc.key.trim_start_matches("tell/").to_owned(), doc.mark));
        }
    }
    Ok(found)
}

async fn waiting_ids(store: &Store) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for doc in store.list(Page::all("lanes/")).await? {
        ids.extend(doc.parse::<Lane>()?.queue);
    }
    Ok(ids)
}

/// The first jobs that wait, first come first, and how many wait in all.
pub async fn queued(store: &Store, limit: usize) -> Result<(Vec<Job>, usize)> {
    let mut ids = waiting_ids(store).await?;
    ids.sort();
    let mut jobs = Vec::new();
    for id in ids.iter().take(limit) {
        jobs.extend(store.read::<Job>(&job_key(id)).await?.map(|(job, _mark)| job));
    }
    Ok((jobs, ids.len()))
}

/// The jobs that take a place.
pub async fn running(store: &Store) -> Result<Vec<Job>> {
    let taken = store.read::<Vec<Taken>>(RUNNING).await?.map(|(taken, _mark)| taken).unwrap_or_default();
    let mut jobs = Vec::with_capacity(taken.len());
    for taken in taken {
        jobs.extend(store.read::<Job>(&job_key(&taken.job)).await?.map(|(job, _mark)| job));
    }
    Ok(jobs)
}

/// A job.
pub async fn job(store: &Store, id: &str) -> Result<Option<Job>> {
    if !crate::tools::ulid::is_ulid(id) {
        return Ok(None);
    }
    Ok(store.read::<Job>(&job_key(id)).await?.map(|(job, _mark)| job))
}

/// How many jobs are before a job that waits.
pub async fn position(store: &Store, job: &Job) -> Result<Option<usize>> {
    let Some((lane, _mark)) = store.read::<Lane>(&lane_key(&job.inventory)).await? else { return Ok(None) };
    let at = lane.queue.iter().position(|id| *id == job.id);
    Ok(at.map(|at| at + usize::from(lane.active.is_some())))
}

/// How many jobs wait.
pub async fn waiting(store: &Store) -> Result<usize> {
    waiting_ids(store).await.map(|ids| ids.len())
}

/// The newest jobs, of one app or of all, before this one.
pub async fn newest(store: &Store, app: Option<&str>, before: Option<&str>, limit: usize) -> Result<Vec<Job>> {
    let Some(app) = app else {
        let page = Page { from: before.map(job_key), ..Page::newest("jobs/", limit) };
        return store.list(page).await?.iter().map(Doc::parse).collect();
    };
    let page = Page { from: before.map(|id| of_app(app, id)), ..Page::newest(&of_app(app, ""), limit) };
    let mut found = Vec::new();
    for doc in store.list(page).await? {
        let id = doc.key.rsplit('/').next().unwrap_or_default();
        found.extend(store.read::<Job>(&job_key(id)).await?.map(|(job, _mark)| job));
    }
    Ok(found)
}

/// The jobs that were accepted since then.
pub async fn since(store: &Store, millis: u64) -> Result<Vec<Job>> {
    let mut found = Vec::new();
    let mut from = None;
    loop {
        let page = store.list(Page { from: from.clone(), ..Page::newest("jobs/", 500) }).await?;
        from = page.last().map(|doc| doc.key.clone());
        let count = page.len();
        for doc in page {
            let job: Job = doc.parse()?;
            if job.accepted < millis {
                return Ok(found);
            }
            found.push(job);
        }
        if count < 500 {
            return Ok(found);
        }
    }
}

/// How many documents are forgotten at a time.
const SOME: usize = 500;

/// Forgets jobs and audit that are older than this; the ids of the jobs that were forgotten.
pub async fn forget(store: &Store, before: u64) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    let mut from = None;
    loop {
        let page = store.list(Page { limit: SOME, from: from.clone(), ..Page::all("jobs/") }).await?;
        let mut batch = Batch::new();
        let mut is_young = page.len() < SOME;
        for doc in &page {
            let job: Job = doc.parse()?;
            if job.accepted >= before {
                is_young = true;
                break;
            }
            if !job.status.is_active() && job.ended.is_some_and(|ended| ended < before) {
                batch =
                    batch.delete(&doc.key).delete(format!("told/{}", job.id)).delete(tell_key(&job.id)).delete(of_app(&job.app, &job.id));
                gone.push(job.id);
            }
        }
        store.commit(batch).await?;
        from = page.last().map(|doc| doc.key.clone());
        if is_young {
            break;
        }
    }
    while forget_audit(store, before).await? == SOME {}
    Ok(gone)
}

async fn forget_audit(store: &Store, before: u64) -> Result<usize> {
    let old = store.list(Page { limit: SOME, ..Page::all("audit/") }).await?;
    let old: Vec<_> = old.into_iter().take_while(|doc| doc.parse::<Entry>().map_or(true, |entry| entry.at < before)).collect();
    store.commit(old.iter().fold(Batch::new(), |batch, doc| batch.delete(&doc.key))).await?;
    Ok(old.len())
}

/// Forgets the names of requests that are older than this.
pub async fn forget_seen(store: &Store, before: u64) -> Result<()> {
    let mut from = None;
    loop {
        let page = store.list(Page { limit: SOME, from: from.clone(), ..Page::all("seen/") }).await?;
        let old = page.iter().filter(|doc| doc.parse::<Seen>().map_or(true, |seen| seen.at < before));
        store.commit(old.fold(Batch::new(), |batch, doc| batch.delete(&doc.key))).await?;
        from = page.last().map(|doc| doc.key.clone());
        if page.len() < SOME {
            return Ok(());
        }
    }
}
