//! What targets have of previews, by their own marks: where records are lost, these tell.

use super::{Site, System, Work, heroku, kubernetes};
use crate::error::{Error, Reason, Result};
use crate::world::World;
use jiff::Timestamp;

/// Something at a target that says of itself whose preview it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The environment's name: that of the preview.
    pub environment: String,
    /// The repository whose run made it, where that is written.
    pub repository: Option<String>,
    /// The app, or the namespace.
    pub place: String,
    /// When it was changed last, where the target says so.
    pub since: Option<Timestamp>,
}

impl Mark {
    /// Reads the owner that tidegate writes, as `project/environment`; nothing when it is another project's.
    pub(super) fn of(owner: &str, project: &str, repository: Option<&str>, place: &str, since: Option<Timestamp>) -> Option<Self> {
        let environment = owner.strip_prefix(project)?.strip_prefix('/')?.to_owned();
        Some(Self { environment, repository: repository.map(str::to_owned), place: place.to_owned(), since })
    }
}

/// Refuses what another repository's run made. Where no forge says which repository this is, the owner's mark has to do.
pub(super) fn check_repository(site: &Site<'_>, made_by: Option<&str>, what: &str) -> Result<()> {
    match (made_by, site.forge.repository()) {
        (Some(there), Some(here)) if !there.eq_ignore_ascii_case(here) => {
            let sentence = format!("{what} was made by {there}, not by {here}: it stays");
            let hint = "if the repository was renamed or moved, remove it by hand, or write the new name there";
            Err(Error { gone: true, ..Error::new(Reason::TargetInput, sentence) }.hint(hint))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// Every mark of this project that the target shows. Changes nothing.
pub async fn marks(world: &World, project: &str, work: &Work) -> Result<Vec<Mark>> {
    match &work.system {
        System::Kubernetes(cluster) => kubernetes::previews::marks(world, project, cluster).await,
        System::Heroku(app) => heroku::previews::marks(world, project, (app, &work.values)).await,
        System::Swarm(_) | System::Awx(_) | System::Ecs(_) | System::AppDeploy(_) | System::Command(_) | System::Webhook(_) => {
            Ok(Vec::new())
        }
    }
}

/// The same target at another place; nothing when it is there already.
pub fn at(work: &Work, place: &str) -> Option<Work> {
    let mut moved = work.clone();
    let there = match &mut moved.system {
        System::Kubernetes(cluster) => &mut cluster.namespace,
        System::Heroku(heroku) => &mut heroku.app,
        System::Swarm(_) | System::Awx(_) | System::Ecs(_) | System::AppDeploy(_) | System::Command(_) | System::Webhook(_) => return None,
    };
    if there == place {
        return None;
    }
    place.clone_into(there);
    Some(moved)
}
