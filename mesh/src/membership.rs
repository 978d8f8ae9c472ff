//! A node's place in its cluster: its identity with what its configuration says of trust, and what an operator asks of its certificates
//! (`cert list`, `cert rotate`), whether the node runs or not.
//!
//! Leaf certificates live in the memory of the node that runs and nowhere else: one that does not run has none to show.

use std::fmt;
use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use stoq::identity::{
    AuditEvent, AuditFile, AuditLimits, AuditSink, Identity, IdentityError, Revocations, Rotation,
    Trust, Validity,
};
use stoq_node::config::{AdminAddr, Cluster, Config};
use stoq_node::{AskError, CallError, Calls, Registry, ask};

const LIST: &str = "/v1/cert";
const ROTATE: &str = "/v1/cert/rotate";

/// How often the revocation list's file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// This node, as its configuration has it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Membership {
    identity: Identity,
    revoked: Option<PathBuf>,
    audit: Option<(PathBuf, Arc<Later>)>,
}

/// An audit whose file is opened when the node starts: what only looks at a configuration writes nothing.
#[derive(Debug, Default)]
struct Later(OnceLock<AuditFile>);

impl AuditSink for Later {
    fn record(&self, event: &AuditEvent) {
        if let Some(file) = self.0.get() {
            file.record(event);
        }
    }
}

impl Membership {
    /// Reads identity, root and revocation list. Writes nothing.
    ///
    /// # Errors
    /// A file cannot be used; it is named.
    pub fn load(cluster: &Cluster) -> Result<Self, IdentityError> {
        let mut trust = Trust::default();
        trust.rotation = Rotation::every(cluster.leaf_rotation)?;
        if let Some(path) = &cluster.revoked {
            trust.revocations = Revocations::load(path)?;
        }
        let audit = cluster
            .audit
            .as_ref()
            .map(|path| (path.clone(), Arc::<Later>::default()));
        if let Some((_, later)) = &audit {
            trust.audit = later.clone();
        }
        let identity = Identity::load_with(&cluster.identity, &cluster.root, &cluster.name, trust)?;
        if identity.revocations().contains(&identity.node_id()) {
            tracing::error!(id = %identity.node_id(), "this node itself is on its revocation list");
        }
        Ok(Self {
            identity,
            revoked: cluster.revoked.clone(),
            audit,
        })
    }

    /// The identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Opens what is written to. To be called once, before anything listens.
    ///
    /// # Errors
    /// The audit file cannot be opened; it is named.
    pub fn begin(&self) -> Result<(), IdentityError> {
        if let Some((path, later)) = &self.audit {
            // A second call would find it open.
            let _ = later.0.set(AuditFile::open(path, AuditLimits::default())?);
        }
        Ok(())
    }

    /// Runs `work`, and keeps up with the revocation list's file meanwhile. For one worker of a process.
    pub async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let following = async {
            match &self.revoked {
                Some(path) => match self.identity.revocations().follow(path.clone(), LOOK).await {},
                None => pending().await,
            }
        };
        tokio::select! {
            ended = work => ended,
            () = following => pending().await,
        }
    }

    /// Counts in `registry` who is refused by its certificates, as `stoq_identity_refused_…`.
    pub fn register(&self, registry: &Registry) {
        let identity = self.identity().clone();
        registry.add_counters("stoq_identity", move |each| identity.refusals().visit(each));
    }

    /// Adds what the admin listener answers about certificates.
    #[must_use]
    pub fn calls(&self, calls: Calls) -> Calls {
        let (listed, rotated) = (self.clone(), self.clone());
        calls
            .get(LIST, move || {
                let report = listed.report();
                async { report }
            })
            .post(ROTATE, move || {
                let failed = |error: IdentityError| CallError::Failed(error.to_string());
                let report = rotated
                    .identity
                    .rotate()
                    .map_err(failed)
                    .and_then(|_| rotated.report());
                async { report }
            })
    }

    fn report(&self) -> Result<serde_json::Value, CallError> {
        CertReport::of(&self.identity, true)
            .map_err(|error| CallError::Failed(error.to_string()))
            .and_then(|report| {
                serde_json::to_value(report).map_err(|error| CallError::Failed(error.to_string()))
            })
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertVerb {
    /// Which certificates there are, and until when.
    List,
    /// Another leaf now.
    Rotate,
}

/// Why there is no answer. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The node has no identity.
    #[error("[cluster] is missing: this node belongs to none")]
    NoCluster,
    /// Its files cannot be used.
    #[error("[cluster]: {0}")]
    Identity(#[from] IdentityError),
    /// It runs and did not answer as hoped.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It does not run, or cannot be asked.
    #[error("{why}: leaf certificates are made and kept by the node that runs")]
    NotAsked {
        /// Why it was not.
        why: String,
    },
    /// Another version runs than this command is of.
    #[error("the node's answer is not understood, it may be of another version: {0}")]
    Answer(serde_json::Error),
}

/// The certificates of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertReport {
    /// Whether the node that runs says so.
    pub running: bool,
    /// The cluster.
    pub cluster: String,
    /// The node's name in it.
    pub name: String,
    /// Its id, by which it would be revoked.
    pub node_id: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// BLAKE3 of the root certificate.
    pub root_fingerprint: String,
    /// First and last second of the root's validity.
    pub root: [String; 2],
    /// Those of the identity's.
    pub identity: [String; 2],
    /// Those of the leaf's that a handshake would show now, if the node runs.
    pub leaf: Option<[String; 2]>,
    /// Nodes on its revocation list.
    pub revoked: usize,
    /// Whether it is one of them.
    pub is_revoked: bool,
}

impl CertReport {
    fn of(identity: &Identity, running: bool) -> Result<Self, IdentityError> {
        let leaf = match running {
            true => Some(identity.leaf_validity()?.dates()),
            false => None,
        };
        let list = identity.revocations();
        let root: Validity = identity.root().validity();
        let fingerprint = identity.root().fingerprint();
        Ok(Self {
            running,
            cluster: identity.cluster().to_owned(),
            name: identity.name().to_owned(),
            node_id: identity.node_id().to_string(),
            roles: identity.roles().iter().map(ToString::to_string).collect(),
            root_fingerprint: fingerprint
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            root: root.dates(),
            identity: identity.identity_validity()?.dates(),
            leaf,
            revoked: list.len(),
            is_revoked: list.contains(&identity.node_id()),
        })
    }
}

impl fmt::Display for CertReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |[from, to]: &[String; 2]| format!("{from} to {to}");
        writeln!(
            f,
            "cluster   {}  root {}",
            self.cluster, self.root_fingerprint
        )?;
        writeln!(f, "node      {}  ({})", self.name, self.roles.join(", "))?;
        writeln!(f, "id        {}", self.node_id)?;
        writeln!(f, "root      {}", span(&self.root))?;
        writeln!(f, "identity  {}", span(&self.identity))?;
        match &self.leaf {
            Some(leaf) => writeln!(f, "leaf      {}", span(leaf))?,
            None => writeln!(
                f,
                "leaf      none: the node does not run, or cannot be asked"
            )?,
        }
        write!(f, "revoked   {} nodes", self.revoked)?;
        if self.is_revoked {
            write!(f, ", AND THIS ONE IS AMONG THEM")?;
        }
        Ok(())
    }
}

/// Asks the node of a configuration, or reads its files where none runs.
///
/// # Errors
/// [`CertError`].
pub async fn cert(verb: CertVerb, config: &Config) -> Result<CertReport, CertError> {
    let cluster = config.cluster.as_ref().ok_or(CertError::NoCluster)?;
    let why = match &config.listen.admin {
        None => "listen.admin is not set, and the node is asked there".to_owned(),
        Some(addr) => match asked(verb, addr).await {
            Err(CertError::Ask(AskError::NotRunning { addr })) => {
                format!("nobody listens on {addr}, which is listen.admin of this file")
            }
            answered => return answered,
        },
    };
    match verb {
        CertVerb::List => Ok(CertReport::of(
            Membership::load(cluster)?.identity(),
            false,
        )?),
        CertVerb::Rotate => Err(CertError::NotAsked { why }),
    }
}

async fn asked(verb: CertVerb, addr: &AdminAddr) -> Result<CertReport, CertError> {
    let (method, path) = match verb {
        CertVerb::List => (Method::GET, LIST),
        CertVerb::Rotate => (Method::POST, ROTATE),
    };
    serde_json::from_value(ask(addr, method, path).await?).map_err(CertError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_allows_a_leaf_can_be() {
        for seconds in [10, 24 * 3600, 36 * 3600] {
            let text = format!(
                "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n[cluster]\nleaf_rotation = \"{seconds}s\"\n"
            );
            let every = leaf_rotation(&text).unwrap();
            assert!(Rotation::every(every).is_ok(), "{every:?}");
        }
        for wrong in ["9s", "37h"] {
            let text = format!(
                "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n[cluster]\nleaf_rotation = \"{wrong}\"\n"
            );
            let error = leaf_rotation(&text).unwrap_err();
            assert!(error.contains("cluster.leaf_rotation"), "{error}");
        }
    }

    fn leaf_rotation(text: &str) -> Result<Duration, String> {
        use stoq_node::config::{Env, Role};
        let dir = std::path::Path::new(".");
        Config::parse("edge.toml", text, dir, &Env::none(), Role::Edge)
            .map(|config| config.cluster.unwrap().leaf_rotation)
            .map_err(|errors| errors.to_string())
    }
}
