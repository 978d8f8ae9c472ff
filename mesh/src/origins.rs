//! The origins of a configuration as upstreams: where `stoq-node`'s settings become `stoq-cache`'s clients.
//!
//! A plan is made once a process and holds what workers share (resolved origins with their bounds, open directories); from it each
//! worker makes clients of its own, whose connections live on that worker's runtime.

use std::sync::Arc;

use stoq_cache::origin::{
    DirOrigin, OriginClient, OriginSettings, OriginSite, OriginSpec, Probe, Roots, probe,
};
use stoq_cache::upstream::Upstream;
use stoq_node::config::{Config, ConfigError, OriginSpec as Configured, Site};

/// Every site's origins, shared by the workers.
#[derive(Debug)]
pub struct Origins {
    sites: Vec<Plan>,
}

#[derive(Debug)]
enum Plan {
    Directory(DirOrigin),
    Servers(Arc<OriginSite>),
}

impl Origins {
    /// Resolves every site's origins: opens directories, reads certificate authorities. Connects to nothing.
    ///
    /// # Errors
    /// The operator's, each placed at the key that has to change; all of them are reported.
    pub fn new(config: &Config) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut sites = Vec::with_capacity(config.sites.len());
        for (position, site) in config.sites.iter().enumerate() {
            match plan(config, position, site) {
                Ok(plan) => sites.push(plan),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self { sites })
        } else {
            Err(errors)
        }
    }

    /// One worker's clients, one for each site in the configuration's order. Call it on that worker's runtime.
    #[must_use]
    pub fn for_worker(&self) -> WorkerOrigins {
        let mut clients = Vec::new();
        let upstreams = self
            .sites
            .iter()
            .map(|plan| -> Arc<dyn Upstream> {
                match plan {
                    Plan::Directory(directory) => Arc::new(directory.clone()),
                    Plan::Servers(servers) => {
                        let client = Arc::new(OriginClient::new(Arc::clone(servers)));
                        clients.push(Arc::clone(&client));
                        client
                    }
                }
            })
            .collect();
        WorkerOrigins { upstreams, clients }
    }

    /// Connects to every origin server once, all at the same time; a list for each site, empty for a directory, which was opened already.
    pub async fn probe(&self) -> Vec<Vec<Probe>> {
        futures_util::future::join_all(self.sites.iter().map(|plan| async {
            match plan {
                Plan::Directory(_) => Vec::new(),
                Plan::Servers(servers) => probe(servers).await,
            }
        }))
        .await
    }

    /// Position and shared state of every site that has origin servers, for their counters.
    pub fn servers(&self) -> impl Iterator<Item = (usize, &Arc<OriginSite>)> {
        self.sites
            .iter()
            .enumerate()
            .filter_map(|(position, plan)| match plan {
                Plan::Directory(_) => None,
                Plan::Servers(servers) => Some((position, servers)),
            })
    }
}

/// One worker's clients and what has to be closed behind them.
#[derive(Debug)]
pub struct WorkerOrigins {
    /// One for each site.
    pub upstreams: Vec<Arc<dyn Upstream>>,
    clients: Vec<Arc<OriginClient>>,
}

impl WorkerOrigins {
    /// Waits until the exchanges under way have ended. The caller bounds the wait.
    pub async fn close(&self) {
        futures_util::future::join_all(self.clients.iter().map(|client| client.close())).await;
    }
}

fn plan(config: &Config, position: usize, site: &Site) -> Result<Plan, ConfigError> {
    let key = format!("site[{position}].origins");
    if let [Configured::Directory(path)] = site.origins.as_slice() {
        let directory = DirOrigin::open(path).map_err(|error| {
            config.error(
                &format!("{key}[0]"),
                format!("directory {}: {error}", path.display()),
            )
        })?;
        return Ok(Plan::Directory(directory));
    }
    let timeouts = &config.limits.timeouts;
    let settings = OriginSettings {
        connect_timeout: timeouts.origin_connect,
        head_timeout: timeouts.origin_first_byte,
        between_bytes_timeout: timeouts.origin_between_bytes,
        requests_max: config.limits.origin_connections,
        ..OriginSettings::default()
    };
    let mut specs = Vec::with_capacity(site.origins.len());
    for (index, spec) in site.origins.iter().enumerate() {
        match spec {
            Configured::Http(http) => specs.push(OriginSpec {
                host: http.host_header.clone(),
                sni: http.sni.clone(),
                roots: http.ca.clone().map_or(Roots::System, Roots::File),
                ..OriginSpec::new(spec.to_string())
            }),
            Configured::Directory(_) => {
                let message = "a directory stands alone: remove the other origins";
                return Err(config.error(&format!("{key}[{index}]"), message));
            }
        }
    }
    // Resolved one by one first, so that the error stands at the origin it is about.
    for (index, spec) in specs.iter().enumerate() {
        OriginSite::new(std::slice::from_ref(spec), settings.clone())
            .map_err(|error| config.error(&format!("{key}[{index}]"), error.to_string()))?;
    }
    let servers =
        OriginSite::new(&specs, settings).map_err(|error| config.error(&key, error.to_string()))?;
    Ok(Plan::Servers(servers))
}
