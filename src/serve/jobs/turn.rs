//! Whose turn it is: jobs are begun, changed and ended here, each change only by the replica that looks after the job.

use super::list::job;
use super::{Entry, Job, Lane, RUNNING, Status, TRIES, Taken, job_key, lane_key, now, tell_key, too_busy};
use crate::error::Result;
use crate::serve::config::Limits;
use crate::serve::store::{Batch, Page, Store};

/// The machine of a replica, as the place of a job. It is known before anything of the job runs there.
pub fn place_of(replica: &str) -> String {
    format!("replica {replica}")
}

/// Whether a job is active, and this replica looks after it.
pub async fn is_mine(store: &Store, id: &str, replica: &str) -> Result<bool> {
    Ok(job(store, id).await?.is_some_and(|job| job.status.is_active() && job.holder.as_deref() == Some(replica)))
}

/// Takes the oldest job whose turn it is, if there is a place for it.
pub async fn claim(store: &Store, replica: &str, limits: &Limits) -> Result<Option<Job>> {
    for _try in 0..TRIES {
        let taken = store.read::<Vec<Taken>>(RUNNING).await?;
        let (mut taken, mark) = taken.map_or((Vec::new(), None), |(taken, mark)| (taken, Some(mark)));
        if taken.len() >= limits.running {
            return Ok(None);
        }
        let Some((lane_key, mut lane, lane_mark, mut job, job_mark)) = next(store, &taken).await? else { return Ok(None) };
        lane.queue.retain(|id| *id != job.id);
        lane.active = Some(job.id.clone());
        taken.push(Taken { job: job.id.clone(), runner: job.runner_name.clone() });
        (job.status, job.holder, job.attempt) = (Status::Starting, Some(replica.to_owned()), job.attempt + 1);
        job.place = Some(place_of(replica));
        let batch = Batch::new().when(RUNNING, mark.as_deref()).when(&lane_key, Some(&lane_mark)).when(job_key(&job.id), Some(&job_mark));
        if store.commit(batch.put(RUNNING, &taken).put(&lane_key, &lane).put(job_key(&job.id), &job)).await? {
            return Ok(Some(job));
        }
    }
    Err(too_busy())
}

type Next = (String, Lane, String, Job, String);

/// The oldest job at the head of a lane whose turn it is.
async fn next(store: &Store, taken: &[Taken]) -> Result<Option<Next>> {
    let mut waiting: Vec<(String, Lane, String)> = Vec::new();
    for doc in store.list(Page::all("lanes/")).await? {
        let lane: Lane = doc.parse()?;
        if lane.active.is_none() && !lane.queue.is_empty() {
            waiting.push((doc.key, lane, doc.mark));
        }
    }
    waiting.sort_by(|(_, one, _), (_, other, _)| one.queue.first().cmp(&other.queue.first()));
    for (key, lane, mark) in waiting {
        let Some(id) = lane.queue.first() else { continue };
        let Some((job, job_mark)) = store.read::<Job>(&job_key(id)).await? else { continue };
        let of_runner = taken.iter().filter(|taken| taken.runner == job.runner_name).count();
        if job.runner.running().is_none_or(|limit| of_runner < limit) {
            return Ok(Some((key, lane, mark, job, job_mark)));
        }
    }
    Ok(None)
}

/// Changes a job that this replica looks after. Nothing when it does not any more.
pub async fn change(store: &Store, id: &str, replica: &str, change: impl Fn(&mut Job)) -> Result<Option<Job>> {
    for _try in 0..TRIES {
        let Some((mut job, mark)) = store.read::<Job>(&job_key(id)).await? else { return Ok(None) };
        if job.holder.as_deref() != Some(replica) || !job.status.is_active() {
            return Ok(None);
        }
        change(&mut job);
        if store.commit(Batch::new().when(job_key(id), Some(&mark)).put(job_key(id), &job)).await? {
            return Ok(Some(job));
        }
    }
    Err(too_busy())
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Where it stands now: no longer active.
    pub status: Status,
    /// The return code.
    pub code: Option<i32>,
    /// Why, in a sentence.
    pub detail: String,
}

/// Ends a job that this replica looks after, and lets the next one of its inventory go. Nothing when it has ended before.
pub async fn finish(store: &Store, id: &str, replica: &str, outcome: &Outcome) -> Result<Option<Job>> {
    for _try in 0..TRIES {
        let Some((mut job, mark)) = store.read::<Job>(&job_key(id)).await? else { return Ok(None) };
        if job.holder.as_deref() != Some(replica) || !job.status.is_active() {
            return Ok(None);
        }
        (job.status, job.code, job.detail, job.ended) = (outcome.status, outcome.code, outcome.detail.clone(), Some(now()));
        let batch = Batch::new().when(job_key(id), Some(&mark)).put(job_key(id), &job);
        let batch = let_go(store, &job, batch).await?;
        let batch = batch.put(tell_key(id), &now());
        let said = format!("{}: {}", job.status.name(), job.detail);
        if store.commit(Entry::new("tidegate", "ended").about(&job, said).add_to(batch)).await? {
            return Ok(Some(job));
        }
    }
    Err(too_busy())
}

/// Adds to changes that a job gives its lane and its place back.
async fn let_go(store: &Store, job: &Job, mut batch: Batch) -> Result<Batch> {
    let key = lane_key(&job.inventory);
    if let Some((mut lane, mark)) = store.read::<Lane>(&key).await? {
        lane.queue.retain(|id| *id != job.id);
        lane.active = lane.active.filter(|id| *id != job.id);
        batch = batch.when(&key, Some(&mark));
        let is_empty = lane.active.is_none() && lane.queue.is_empty();
        batch = if is_empty { batch.delete(&key) } else { batch.put(&key, &lane) };
    }
    if let Some((mut taken, mark)) = store.read::<Vec<Taken>>(RUNNING).await? {
        taken.retain(|taken| taken.job != job.id);
        batch = batch.when(RUNNING, Some(&mark)).put(RUNNING, &taken);
    }
    Ok(batch)
}

/// Puts a job back to the head of its lane: nothing of it has run.
pub async fn put_back(store: &Store, id: &str, replica: &str) -> Result<Option<Job>> {
    for _try in 0..TRIES {
        let Some((mut job, mark)) = store.read::<Job>(&job_key(id)).await? else { return Ok(None) };
        if job.holder.as_deref() != Some(replica) || !job.status.is_active() {
            return Ok(None);
        }
        (job.status, job.holder, job.place) = (Status::Queued, None, None);
        let key = lane_key(&job.inventory);
        let Some((mut lane, lane_mark)) = store.read::<Lane>(&key).await? else { return Ok(None) };
        lane.active = lane.active.filter(|active| active != id);
        lane.queue.retain(|queued| queued != id);
        lane.queue.insert(0, id.to_owned());
        let taken = store.read::<Vec<Taken>>(RUNNING).await?;
        let (mut taken, taken_mark) = taken.map_or((Vec::new(), None), |(taken, mark)| (taken, Some(mark)));
        taken.retain(|taken| taken.job != id);
        let batch = Batch::new().when(job_key(id), Some(&mark)).when(&key, Some(&lane_mark)).when(RUNNING, taken_mark.as_deref());
        if store.commit(batch.put(job_key(id), &job).put(&key, &lane).put(RUNNING, &taken)).await? {
            return Ok(Some(job));
        }
    }
    Err(too_busy())
}

/// Asks for the end of a job. One that waits ends at once; one that runs is ended by the replica that looks after it.
pub async fn cancel(store: &Store, id: &str, by: &str) -> Result<Option<Job>> {
    for _try in 0..TRIES {
        let Some((mut job, mark)) = store.read::<Job>(&job_key(id)).await? else { return Ok(None) };
        if !job.status.is_active() || job.cancelled_by.is_some() {
            return Ok(Some(job));
        }
        job.cancelled_by = Some(by.to_owned());
        let mut batch = Batch::new().when(job_key(id), Some(&mark));
        if job.status == Status::Queued {
            (job.status, job.ended, job.detail) = (Status::Cancelled, Some(now()), format!("cancelled by {by} before it began"));
            batch = let_go(store, &job, batch).await?.put(tell_key(id), &now());
        }
        batch = Entry::new(by, "cancelled").about(&job, "").add_to(batch.put(job_key(id), &job));
        if store.commit(batch).await? {
            return Ok(Some(job));
        }
    }
    Err(too_busy())
}

/// Makes this replica look after a job whose holder is gone. Nothing when somebody else did.
pub async fn take_over(store: &Store, id: &str, from: Option<&str>, replica: &str) -> Result<Option<Job>> {
    let Some((mut job, mark)) = store.read::<Job>(&job_key(id)).await? else { return Ok(None) };
    // One that waits is nobody's: it may have been put back a moment ago.
    if job.holder.as_deref() != from || !matches!(job.status, Status::Starting | Status::Running) {
        return Ok(None);
    }
    job.holder = Some(replica.to_owned());
    let taken = store.commit(Batch::new().when(job_key(id), Some(&mark)).put(job_key(id), &job)).await?;
    Ok(taken.then_some(job))
}
