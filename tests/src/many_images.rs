//! A store of thousands of images, which a node's agent uses instead of the cluster's.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::clean::{note_layers_of, wait_for_steps};
use crate::cluster::Cluster;
use crate::synthetic;

/// Where nodes see the store.
pub const STORE: &str = "/shared/many-images";

/// The store, as long as this value lives. The login node's configuration stays as it is: names are resolved there to the ids that
/// the images have in both stores.
#[derive(Debug)]
pub struct ManyImages<'a> {
    cluster: &'a Cluster,
    node: &'static str,
    store: PathBuf,
    config: PathBuf,
    /// What the node's configuration was.
    before: Vec<u8>,
}

impl<'a> ManyImages<'a> {
    /// Makes the store, of test images (name, source) and so many others, and starts a node's agent anew with it.
    ///
    /// # Errors
    /// What could not be made.
    pub fn install(
        cluster: &'a Cluster,
        node: &'static str,
        images: &[(&str, &str)],
        count: usize,
    ) -> anyhow::Result<Self> {
        let config = cluster.path_on(node, "/etc/parallax/parallax.toml")?;
        let before = fs::read(&config).with_context(|| format!("{}", config.display()))?;
        let store = cluster.shared().join("many-images");
        let many = Self { cluster, node, store, config, before };
        for (name, source) in images {
            cluster.shell(node, &format!("parallax --quiet --store {STORE} migrate {source} --name {name}"))?;
        }
        let (base, _) = images.first().context("no images")?;
        synthetic::add_images(&many.store, base, count)?;
        synthetic::check(&many.store, count)?;
        note_layers_of(cluster, &many.store)?;
        fs::write(&many.config, format!("stores = [\"{STORE}\"]\n"))?;
        many.restart_agent()?;
        Ok(many)
    }

    fn restart_agent(&self) -> anyhow::Result<()> {
        self.cluster.service(self.node, "stop", "agent")?;
        self.cluster.service(self.node, "start", "agent")
    }
}

impl Drop for ManyImages<'_> {
    fn drop(&mut self) {
        let restored = wait_for_steps(self.cluster, self.node)
            .and_then(|()| Ok(fs::write(&self.config, &self.before)?))
            .and_then(|()| self.restart_agent())
            .and_then(|()| Ok(fs::remove_dir_all(&self.store)?));
        if let Err(error) = restored {
            eprintln!("{} can't be put back: {error:#}", self.store.display());
        }
    }
}
