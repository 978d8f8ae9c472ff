//! An edge before it binds: what its configuration names, read and judged. `check` ends here.

use std::fmt;
use std::io;
use std::sync::Arc;

use stoq::identity::{IdentityError, Role as NodeRole};
use stoq_mesh::{Borders, GeoWatch, Holders, Membership, Origins, OwnWord, Patience, Storage};
use stoq_node::config::{Config, ConfigError};
use stoq_node::{StateDir, StateDirError};
use stoq_routing::index::StoreError;

use crate::certificates::Certificates;
use crate::listen::BindError;
use crate::serve::CdnId;
use crate::state::{self, StateError};
use crate::tls::TlsError;

/// Why an edge did not start. All but [`StartError::Runtime`] are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for what is not there.
    #[error("{}", list(.0))]
    Config(Vec<ConfigError>),
    /// The identity cannot be used.
    #[error("[cluster]: {0}")]
    Identity(#[from] IdentityError),
    /// The state directory cannot be used.
    #[error("node.state_dir: {0}")]
    StateDir(#[from] StateDirError),
    /// The node's secret cannot be used.
    #[error("node.state_dir: {0}")]
    Secret(#[from] StateError),
    /// What is kept of the provider index cannot be used.
    #[error("node.state_dir: {0}")]
    Index(#[from] StoreError),
    /// Certificates cannot be used or made.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// An address cannot be bound.
    #[error("{key}: {source}")]
    Bind {
        /// The configuration's key.
        key: &'static str,
        /// Where and why.
        source: BindError,
    },
    /// The admin listener cannot be bound.
    #[error("listen.admin: cannot listen on {addr}: {source}")]
    Admin {
        /// The address.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// Threads, runtimes or sockets could not be made.
    #[error("cannot start: {0}")]
    Runtime(#[from] io::Error),
}

fn list(errors: &[ConfigError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything of an edge that can be made without binding.
pub struct Prepared {
    pub(crate) config: Config,
    pub(crate) membership: Option<Membership>,
    pub(crate) certificates: Certificates,
    pub(crate) origins: Origins,
    pub(crate) cdn_id: CdnId,
    pub(crate) borders: Arc<Borders>,
    pub(crate) geo: Option<Arc<GeoWatch>>,
    pub(crate) holders: Option<Arc<dyn Holders>>,
    pub(crate) patience: Patience,
    pub(crate) warnings: Vec<String>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("node", &self.config.node.name)
            .finish_non_exhaustive()
    }
}

impl Prepared {
    /// Reads identity and certificates, opens directories, resolves origins. Binds, connects to and writes nothing.
    ///
    /// # Errors
    /// [`StartError`], the configuration's faults of one kind all at once.
    pub fn new(config: Config) -> Result<Self, StartError> {
        StateDir::check(&config.node.state_dir)?;
        let membership = config.cluster.as_ref().map(Membership::load).transpose()?;
        if let Some(identity) = membership.as_ref().map(Membership::identity)
            && config.shield.is_some()
            && !identity.roles().contains(&NodeRole::Edge)
        {
            let message = format!(
                "{} has no role edge: issue it with `cluster init --node NAME:edge`",
                identity.name()
            );
            return Err(StartError::Config(vec![
                config.error("cluster.identity", message),
            ]));
        }
        let cdn_id = CdnId::new(&config.node.cdn_id).ok_or_else(|| {
            StartError::Config(vec![
                config.error("node.cdn_id", "cannot stand in a header field"),
            ])
        })?;
        let exposed = state::exposed(&config);
        if !exposed.is_empty() {
            return Err(StartError::Config(exposed));
        }
        state::read_secret(&config.node.state_dir)?;
        Storage::check(&config).map_err(|error| StartError::Config(vec![error]))?;
        let mut warnings = Vec::new();
        warnings.extend(unvouched(&config, membership.as_ref()));
        let certificates = Certificates::load(&config, &mut warnings)?;
        let origins = Origins::new(&config).map_err(StartError::Config)?;
        let borders = Borders::of(&config).map_err(StartError::Config)?;
        let geo = GeoWatch::open(&config, &mut warnings).map_err(StartError::Config)?;
        Ok(Self {
            config,
            membership,
            certificates,
            origins,
            cdn_id,
            borders: Arc::new(borders),
            geo,
            holders: None,
            patience: Patience::default(),
            warnings,
        })
    }

    /// Misses of an edge behind a shield ask those that `holders` knows for what they hold. Default: the nearest edges that it has found
    /// (`cluster.seeds`); where it looks for none, the shield alone.
    #[must_use]
    pub fn with_holders(mut self, holders: Arc<dyn Holders>) -> Self {
        self.holders = Some(holders);
        self
    }

    /// How long other edges are waited for.
    #[must_use]
    pub const fn patient(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The origins, to be probed.
    #[must_use]
    pub const fn origins(&self) -> &Origins {
        &self.origins
    }

    /// What works but may not be meant, a line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// What is lost on an edge that fetches from origins itself, listens for others, and may not vouch for what it fetched.
fn unvouched(config: &Config, membership: Option<&Membership>) -> Option<String> {
    let member =
        membership.filter(|_| config.shield.is_none() && !config.listen.stoq.is_empty())?;
    let word = OwnWord::of(member.identity().clone());
    let sites = config.sites.iter().map(|site| &*site.name);
    let without: Vec<_> = sites.filter(|site| !word.may(site)).collect();
    let roles = without.iter().map(|site| format!("fetch:{site}"));
    let roles: Vec<_> = roles.collect();
    (!without.is_empty()).then(|| {
        format!(
            "other edges take nothing of {} from this one, since it has no role to vouch for what it fetches: issue its identity with `--node {}:edge,{}`",
            without.join(", "),
            member.identity().name(),
            roles.join(",")
        )
    })
}
