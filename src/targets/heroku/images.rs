//! The images of an app: copied to Heroku's registry under the name of each process type.

use super::Deploy;
use crate::error::{Error, Reason, Result};
use crate::registry::copy::{self, Destination};
use crate::registry::oci::{Login, Oci};
use crate::registry::store::Store;
use crate::registry::{Pushed, Repository};
use crate::report::size;

const HOST: &str = "registry.heroku.com";
/// The tag that a release takes.
const TAG: &str = "latest";

impl Deploy<'_> {
    /// Copies every process type's image; the configurations' digests, which releases are made of.
    pub(super) async fn copy(&self) -> Result<Vec<(String, String)>> {
        let mut copied: Vec<(String, String)> = Vec::new();
        for (process, image) in &self.work.processes {
            let image = self.image(image)?;
            let near = copied.first().map(|(first, _)| self.repository(first));
            let oci = self.registry(process)?;
            let from = Store::open(self.site.world, &image.repository, self.work.aws.role.clone()).await?;
            let to = Destination { oci: &oci, tag: TAG, near: near.as_ref() };
            let done = copy::copy(&self.site.world.clock, &from, &image.digest, &to).await?;
            if !image.identities.contains(&done.config) {
                let sentence = format!("{HOST} has {} for {process}, which is no part of {}", done.config, image.reference());
                return Err(Error::new(Reason::TargetWrongDigest, sentence));
            }
            let (layers, bytes) = done.sent;
            self.site.say(&format!(
                "{HOST}/{}/{process}: {layers} blobs sent ({}), {} there already",
                self.work.app,
                size(bytes),
                done.there
            ));
            copied.push((process.clone(), done.config));
        }
        Ok(copied)
    }

    /// Whether Heroku's registry still has the very images.
    pub(super) async fn has_images(&self) -> Result<bool> {
        for (process, image) in &self.work.processes {
            let there = copy::config_of(&self.registry(process)?, TAG).await?;
            if there.is_none_or(|config| self.image(image).is_ok_and(|image| !image.identities.contains(&config))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn image(&self, name: &str) -> Result<&Pushed> {
        self.site.images.get(name).ok_or_else(|| Error::new(Reason::Internal, format!("the image {name} is not there yet")))
    }

    fn repository(&self, process: &str) -> Repository {
        Repository { host: HOST.into(), path: format!("{}/{process}", self.work.app) }
    }

    /// The user is of no matter, the password is the API key. <https://devcenter.heroku.com/articles/container-registry-and-runtime>
    fn registry(&self, process: &str) -> Result<Oci> {
        let login = Login { user: "_".into(), password: self.api.token.clone() };
        Oci::new(&self.site.world.vars, self.site.world.clock, &self.repository(process), Some(login))
    }
}
