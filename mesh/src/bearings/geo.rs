//! The databases of `cluster.geo`: read at the start, where one that cannot be used is the operator's fault to mend, and looked at every minute from then on, where it is only said and
//! counted, and the old one stays in use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stoq_node::config::{Config, ConfigError};
use stoq_routing::{BadGeoFile, Geo, GeoFiles, GeoNews, GeoPaths, Kind};
use tokio::time::sleep;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where addresses are, as the files say that are there now. For the life of the process.
pub struct GeoWatch {
    files: Mutex<GeoFiles>,
    geo: ArcSwap<Geo>,
    loads: Counter,
    refusals: Counter,
    databases: Gauge,
}

impl fmt::Debug for GeoWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeoWatch").finish_non_exhaustive()
    }
}

impl GeoWatch {
    /// Reads the files of a configuration; `None` where it names none. A file that is not there yet is waited for, and `warnings` say so. Blocks: all of each file is looked through.
    ///
    /// # Errors
    /// A file cannot be used, or is no database of its kind.
    pub fn open(
        config: &Config,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Arc<Self>>, Vec<ConfigError>> {
        let Some(named) = config.cluster.as_ref().map(|cluster| &cluster.geo) else {
            return Ok(None);
        };
        if named.city.is_none() && named.asn.is_none() {
            return Ok(None);
        }
        let watch = Self {
            files: Mutex::new(GeoFiles::new(GeoPaths {
                places: named.city.clone(),
                networks: named.asn.clone(),
            })),
            geo: ArcSwap::default(),
            loads: Counter::default(),
            refusals: Counter::default(),
            databases: Gauge::default(),
        };
        let mut errors = Vec::new();
        for news in watch.look() {
            let GeoNews::Refused {
                path, kind, why, ..
            } = news
            else {
                continue;
            };
            let key = match kind {
                Kind::Places => "cluster.geo.city",
                Kind::Networks => "cluster.geo.asn",
            };
            match why {
                BadGeoFile::Absent => {
                    let absent = format!("{}: there is no such file yet", path.display());
                    warnings.push(config.error(key, absent).to_string());
                }
                why => errors.push(config.error(key, format!("{}: {why}", path.display()))),
            }
        }
        match errors.is_empty() {
            true => Ok(Some(Arc::new(watch))),
            false => Err(errors),
        }
    }

    /// The databases now.
    pub(super) fn geo(&self) -> Arc<Geo> {
        self.geo.load_full()
    }

    /// Looks at the files, and uses what is new and good. Blocks.
    pub(super) fn look(&self) -> Vec<GeoNews> {
        let mut files = self.files.lock();
        let news = files.look();
        for news in &news {
            match news {
                GeoNews::Loaded { .. } => self.loads.inc(),
                GeoNews::Refused { .. } => self.refusals.inc(),
            };
        }
        let geo = files.geo();
        let there = i64::try_from(geo.databases().count()).unwrap_or(i64::MAX);
        self.databases.set(there);
        self.geo.store(Arc::new(geo));
        news
    }

    /// Looks at the files every minute. Never ends. Cancel safe: a look that is cut off ends by itself.
    pub async fn follow(self: &Arc<Self>) {
        loop {
            sleep(LOOK_EVERY).await;
            let watch = Arc::clone(self);
            // A panic in there was reported; the next look is another.
            let Ok(news) = tokio::task::spawn_blocking(move || watch.look()).await else {
                continue;
            };
            for news in news {
                match news {
                    GeoNews::Loaded { .. } => tracing::info!("{news}"),
                    GeoNews::Refused { .. } => tracing::warn!("{news}"),
                }
            }
        }
    }

    /// Puts its figures below `registry`, as `geo_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("geo");
        registry.register(
            "loads",
            "Times a database that says where addresses are was read and used",
            self.loads.clone(),
        );
        registry.register(
            "refusals",
            "Times the file of one was found that could not be used",
            self.refusals.clone(),
        );
        registry.register("databases", "Those in use", self.databases.clone());
    }
}
