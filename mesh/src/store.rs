//! What an operator asks of what a node keeps on disk, whether the node runs or not: `store stats`, `store verify`, `store gc`.
//!
//! A node that runs holds its volumes and is asked over its admin listener ([`Storage::calls`]); of one that does not, the volumes are opened here, for as long as it
//! takes. Either way the same figures come out ([`report`](super::store_report)). What would begin empty when opened is refused: a look must not cost what is stored.

use std::{io, sync::Arc};

use http::Method;
use serde::{Serialize, de::DeserializeOwned};
use stoq_cache::{
    engine::{Cache, CacheConfig, CensusError},
    store::disk::{Disk, OpenError, directory::DirectoryError},
};
use stoq_node::{
    AskError, CallError, Calls, ask,
    config::{AdminAddr, Config},
};
use tokio::sync::Mutex;

use crate::{
    storage::{Storage, key_id, volumes},
    store_report::{Freed, Node, Report, Stats, Verified},
};

const STATS: &str = "/v1/store";
const CENSUS: &str = "/v1/store/census";
const VERIFY: &str = "/v1/store/verify";
const GC: &str = "/v1/store/gc";

/// What nothing names stays for so long, in seconds: it may be part of something that is still arriving.
const GC_AGE_SECONDS: u64 = 3_600;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreVerb {
    /// What there is. With `census` also what it is worth, for which every record of a response is read.
    Stats {
        /// Whether to count it.
        census: bool,
    },
    /// Whether all of it is what was written.
    Verify,
    /// Drop what nothing names.
    Gc,
}

/// Why there is no answer. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is kept on disk.
    #[error("cache.disk is not set: this node keeps nothing on disk")]
    NoDisk,
    /// The node runs and did not answer as hoped.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A process holds the volumes that cannot be asked.
    #[error("{source}; a running node is asked through its admin listener, and {why}")]
    Held {
        /// Who holds what.
        source: OpenError,
        /// Why it was not.
        why: String,
    },
    /// A volume cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// The secret under which things are stored cannot be had.
    #[error("{0}")]
    Secret(String),
    /// Looking failed.
    #[error(transparent)]
    Census(#[from] CensusError),
    /// The volumes failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
    /// Another version runs than this command is of.
    #[error("the node's answer is not understood, it may be of another version: {0}")]
    Answer(serde_json::Error),
}

/// Asks the node of a configuration, or looks itself where none runs. `secret` is called for in that case alone.
///
/// # Errors
/// [`StoreError`].
pub async fn store(
    verb: StoreVerb,
    config: &Config,
    secret: impl FnOnce() -> Result<[u8; 32], String>,
) -> Result<Report, StoreError> {
    if config.cache.disk.is_empty() {
        return Err(StoreError::NoDisk);
    }
    let why = match &config.listen.admin {
        None => "listen.admin is not set".to_owned(),
        Some(addr) => match asked(verb, addr).await {
            Err(StoreError::Ask(AskError::NotRunning { addr })) => {
                format!("nobody listens on {addr}, which is listen.admin of this file")
            }
            answered => return answered,
        },
    };
    let secret = secret().map_err(StoreError::Secret)?;
    let mut wanted = volumes(config);
    for volume in &mut wanted {
        volume.scrub_bytes_a_second = None;
    }
    let key_id = key_id(&secret);
    let opened = Disk::inspect(&wanted, key_id).and_then(|()| Disk::open(&wanted, key_id));
    let disk = Arc::new(opened.map_err(|source| match source {
        OpenError::Directory(DirectoryError::Locked { .. }) => StoreError::Held { source, why },
        source => StoreError::Open(source),
    })?);
    let cache = Storage::look(&disk, CacheConfig::new(secret));
    let looked = looked(verb, &cache, &disk).await;
    // What a sweep dropped is known to the saved index once this is through.
    if !disk.close() {
        return Err(io::Error::other("a volume's last writes take too long").into());
    }
    looked
}

/// Asks the node.
async fn asked(verb: StoreVerb, addr: &AdminAddr) -> Result<Report, StoreError> {
    async fn get<T: DeserializeOwned>(
        addr: &AdminAddr,
        method: Method,
        path: &str,
    ) -> Result<T, StoreError> {
        serde_json::from_value(ask(addr, method, path).await?).map_err(StoreError::Answer)
    }
    Ok(match verb {
        StoreVerb::Stats { census } => {
            // The census first: it has everything written that was put before, and the volumes' figures are from after that.
            let census = match census {
                true => Some(get(addr, Method::POST, CENSUS).await?),
                false => None,
            };
            let stats: Stats = get(addr, Method::GET, STATS).await?;
            Report::Stats(Stats { census, ..stats })
        }
        StoreVerb::Verify => Report::Verified(get(addr, Method::POST, VERIFY).await?),
        StoreVerb::Gc => Report::Freed(get(addr, Method::POST, GC).await?),
    })
}

/// Looks at open volumes of a node that does not run.
async fn looked(verb: StoreVerb, cache: &Cache, disk: &Disk) -> Result<Report, StoreError> {
    let node = Node::Stopped;
    Ok(match verb {
        StoreVerb::Stats { census } => {
            let census = match census {
                true => Some(cache.census(disk).await?.into()),
                false => None,
            };
            let stats = Stats::new(node, disk.stats().await?);
            Report::Stats(Stats { census, ..stats })
        }
        StoreVerb::Verify => Report::Verified(Verified::new(node, &cache.verify(disk).await?)),
        StoreVerb::Gc => {
            let swept = cache.sweep(disk, GC_AGE_SECONDS).await?;
            Report::Freed(Freed::new(node, swept))
        }
    })
}

impl Storage {
    /// What the admin listener of a node with these volumes answers. Walks through the volumes are made one at a time.
    #[must_use]
    pub fn calls(&self, cache: &Cache) -> Calls {
        let Some(disk) = self.disk() else {
            return Calls::default();
        };
        let held = Arc::new(Held {
            cache: cache.clone(),
            disk: Arc::clone(disk),
            walk: Mutex::new(()),
        });
        let call = |verb| {
            let held = Arc::clone(&held);
            move || {
                let held = Arc::clone(&held);
                async move { held.answer(verb).await }
            }
        };
        Calls::default()
            .get(STATS, call(Asked::Stats))
            .post(CENSUS, call(Asked::Census))
            .post(VERIFY, call(Asked::Verify))
            .post(GC, call(Asked::Gc))
    }
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Stats,
    Census,
    Verify,
    Gc,
}

/// What calls are answered from.
struct Held {
    cache: Cache,
    disk: Arc<Disk>,
    walk: Mutex<()>,
}

impl Held {
    async fn answer(&self, asked: Asked) -> Result<serde_json::Value, CallError> {
        let node = Node::Running;
        let failed = |error: CensusError| match error {
            CensusError::Busy => CallError::Busy(error.to_string()),
            error => CallError::Failed(error.to_string()),
        };
        if let Asked::Stats = asked {
            let stats = self.disk.stats().await;
            let stats = stats.map_err(|error| CallError::Failed(error.to_string()))?;
            return json(&Stats::new(node, stats));
        }
        let _turn = self.walk.try_lock().map_err(|_| {
            CallError::Busy("another walk through its volumes is under way".to_owned())
        })?;
        let (cache, disk) = (&self.cache, &*self.disk);
        match asked {
            Asked::Stats | Asked::Census => json(&crate::store_report::Census::from(
                cache.census(disk).await.map_err(failed)?,
            )),
            Asked::Verify => json(&Verified::new(
                node,
                &cache.verify(disk).await.map_err(failed)?,
            )),
            Asked::Gc => {
                let swept = cache.sweep(disk, GC_AGE_SECONDS).await.map_err(failed)?;
                json(&Freed::new(node, swept))
            }
        }
    }
}

fn json(value: &impl Serialize) -> Result<serde_json::Value, CallError> {
    serde_json::to_value(value).map_err(|error| CallError::Failed(error.to_string()))
}
