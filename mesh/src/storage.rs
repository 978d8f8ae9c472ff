//! What a node keeps on disk: where `stoq-node`'s `[cache]` becomes the tiers of a `stoq-cache`.

use std::{fmt, io, path::PathBuf, sync::Arc};

use prometheus_client::registry::Registry;
use stoq_cache::{
    content::ChunkKey,
    engine::{Cache, CacheConfig, Journal, JournalError},
    store::{
        S3FifoTier, Store,
        disk::{
            Disk, DiskTier, OpenError, VolumeConfig, device::Engine, directory::DirectoryError,
        },
    },
};
use stoq_node::{
    StateDir,
    config::{Config, ConfigError, DiskEngine},
};

/// The volumes of a node, opened and held, or none. Dropping the last handle closes them.
#[derive(Clone)]
pub struct Storage {
    disk: Option<Arc<Disk>>,
    marks: Option<PathBuf>,
    secret: [u8; 32],
}

impl fmt::Debug for Storage {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

impl Storage {
    /// What [`Storage::open`] would say of the directories of a configuration; makes and changes nothing. Volumes that the node whose `state_dir` this is
    /// has open are no fault: its file may be checked while it runs.
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        let node = StateDir::last_holder(&config.node.state_dir);
        for volume in volumes(config) {
            match Disk::check(&[volume]) {
                Err(OpenError::Directory(DirectoryError::Locked {
                    holder: Some(holder),
                    ..
                })) if Some(holder) == node => {}
                checked => {
                    checked.map_err(|error| config.error("cache.disk", error.to_string()))?;
                }
            }
        }
        Ok(())
    }

    /// Opens the volumes of a configuration, and logs what was found in each. `secret` is the one chunks are named under.
    ///
    /// Blocks for as long as their indexes take to load: about a second for ten million records. To be called before anything listens.
    ///
    /// # Errors
    /// The operator's: which volume cannot be used, why, and what to do.
    pub fn open(config: &Config, secret: [u8; 32]) -> Result<Self, ConfigError> {
        let cache = &config.cache;
        if cache.disk.is_empty() {
            return Ok(Self {
                disk: None,
                marks: None,
                secret,
            });
        }
        let disk = Disk::open(&volumes(config), key_id(&secret))
            .map_err(|error| config.error("cache.disk", error.to_string()))?;
        for (path, found) in disk.found() {
            tracing::info!(
                volume = path,
                records = found.records,
                engine = %found.device.engine,
                direct = found.device.direct,
                took = ?found.took,
                "disk opened"
            );
            for why in found.device.why.iter().chain(&found.emptied) {
                tracing::warn!(volume = path, "{why}");
            }
        }
        Ok(Self {
            marks: disk.marks(),
            disk: Some(Arc::new(disk)),
            secret,
        })
    }

    /// The cache over these volumes, with its tier in memory as `config` has it. Once: it owns the marks of what was invalidated.
    ///
    /// # Errors
    /// The file of marks cannot be used, or its thread cannot be started.
    pub fn cache(&self, config: CacheConfig) -> io::Result<Cache> {
        let (Some(disk), Some(marks)) = (&self.disk, &self.marks) else {
            return Ok(Cache::new(config));
        };
        let ram = Arc::new(S3FifoTier::new(config.ram_bytes as u64));
        let store = Store::with_disk(ram, Arc::clone(disk) as Arc<dyn DiskTier>);
        let config = CacheConfig {
            disk_bytes: disk.capacity(),
            ..config
        };
        let cache = match Journal::open(marks, &self.secret) {
            Ok(journal) => {
                if journal.began_anew() {
                    tracing::info!(marks = %marks.display(), "begins anew: what is stored is validated before it is used");
                }
                Cache::open(config, store, journal)?
            }
            Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                tracing::error!(marks = %marks.display(), "no room for the marks of what is invalidated; make room and start again: until then what is stored is validated once after each start");
                Cache::with_store(config, store)
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        disk.retain(&cache.retained());
        Ok(cache)
    }

    /// A cache over volumes that nobody serves from, to look at what is stored. It leaves the marks alone.
    pub(crate) fn look(disk: &Arc<Disk>, config: CacheConfig) -> Cache {
        let ram = Arc::new(S3FifoTier::new(1 << 20));
        Cache::with_store(
            config,
            Store::with_disk(ram, Arc::clone(disk) as Arc<dyn DiskTier>),
        )
    }

    /// The volumes, if there are any.
    #[must_use]
    pub const fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.as_ref()
    }

    /// Whether a volume takes no writes or answers no reads.
    #[must_use]
    pub fn is_ailing(&self) -> bool {
        let mut ailments = self.disk.iter().flat_map(|disk| disk.ailments());
        ailments.any(|(_, ailments)| ailments.writes.is_some() || ailments.reads.is_some())
    }

    /// Adds the counters of the volumes to a registry.
    pub fn register(&self, registry: &mut Registry) {
        if let Some(disk) = &self.disk {
            disk.register(registry);
        }
    }

    /// Writes what is in memory and closes the volumes; the cache stores nothing more. Blocks, at most 10 s a volume. Whether all was written.
    #[must_use]
    pub fn close(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.close())
    }
}

/// The volumes of a configuration.
pub(crate) fn volumes(config: &Config) -> Vec<VolumeConfig> {
    let cache = &config.cache;
    let volumes = cache.disk.iter().map(|volume| VolumeConfig {
        path: volume.path.clone(),
        bytes: volume.size,
        engine: match cache.disk_engine {
            DiskEngine::Auto => None,
            DiskEngine::IoUring => Some(Engine::IoUring),
            DiskEngine::Threads => Some(Engine::Threads),
        },
        bytes_a_day: cache.disk_writes_per_day,
        scrub_bytes_a_second: cache.disk_scrub,
    });
    volumes.collect()
}

/// Under which key chunks are named. All chunk keys come of the secret, so that of any domain tells it from others.
pub(crate) fn key_id(secret: &[u8; 32]) -> [u8; 16] {
    *ChunkKey::derive(secret, "").key_id().as_bytes()
}
