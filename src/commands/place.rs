//! Where a command that is no delivery finds the state: configuration, forge, store, and the environments there are.

use crate::cli::File;
use crate::config::{self, Loaded};
use crate::context::unknown_environment;
use crate::error::Result;
use crate::event::{self, Event, FactFlags};
use crate::forge::Forge;
use crate::inputs::Inputs;
use crate::state::{Key, Store};
use crate::world::World;

/// The surroundings of such a command.
pub struct Place {
    /// The configuration.
    pub loaded: Loaded,
    /// Who asks, in which repository.
    pub event: Event,
    /// The forge.
    pub forge: Forge,
    /// The store.
    pub store: Store,
}

impl Place {
    /// Reads the configuration; connects to nothing.
    pub fn of(world: &World, file: &File, facts: &FactFlags) -> Result<Self> {
        let provider = event::provider(&world.vars)?;
        // What happened does not matter here, only where: a payload that is missing is no reason to say nothing.
        let mut event = event::read(provider, &world.vars).or_else(|_error| event::laptop::read(&world.vars))?;
        let given = |name: &str| world.vars.get(name).map(str::to_owned);
        event.more.repository = event.more.repository.or_else(|| given("GITHUB_REPOSITORY"));
        event.actor = event.actor.or_else(|| given("GITHUB_ACTOR"));
        event.apply(facts)?;
        let inputs = Inputs::of(&world.vars);
        let mut loaded = config::load(file.config.clone().or_else(|| inputs.path("config")).as_deref())?;
        inputs.apply(&mut loaded.config)?;
        let forge = Forge::of(&world.vars, &event, &world.console, world.clock)?;
        let store = Store::of(world, &loaded.config, &loaded.folder, &forge)?;
        Ok(Self { loaded, event, forge, store })
    }

    /// The lease and the records of an environment. A preview has a name that is not in the file.
    pub fn key(&self, environment: &str) -> Result<Key> {
        let config = &self.loaded.config;
        let known = match config.environments.get(environment) {
            Some(rules) => !rules.is_preview(),
            None => {
                config.environments.values().any(|rules| rules.is_preview() && rules.preview_number(&config.project, environment).is_some())
            }
        };
        match known {
            true => Ok(Key::new(&config.project, environment)),
            false => Err(unknown_environment(config, environment)),
        }
    }

    /// Keys and own names of everything that may have records: what the file declares, then the previews that were made.
    pub async fn names(&self) -> Result<Vec<(String, String)>> {
        let config = &self.loaded.config;
        let declared = config.environments.iter().filter(|(_, rules)| !rules.is_preview());
        let mut names: Vec<(String, String)> = declared.map(|(name, _)| (name.clone(), name.clone())).collect();
        if let Some((preview, _)) = config.environments.iter().find(|(_, rules)| rules.is_preview()) {
            let made = self.store.places(&config.project, 1).await?;
            names.extend(made.into_iter().filter(|name| !config.environments.contains_key(name)).map(|name| (preview.clone(), name)));
        }
        Ok(names)
    }
}
