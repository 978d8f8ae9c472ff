//! Which certificates an edge shows: the configured files, or its own development CA's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq_node::config::{Config, HostPattern};

use crate::tls::{CertificateFiles, CertificateStore, DevCa, DevLeaf, Resolver, TlsError};

/// The development CA's folder in the state directory.
const DEV_CA_DIR: &str = "dev-ca";
/// How often the development leaf is looked at; it is made anew with a third of its life left.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// Certificates before the state directory is touched.
#[derive(Debug)]
pub(crate) enum Certificates {
    /// Loaded from files.
    Files(CertificateStore),
    /// To be made for these hosts.
    Dev(Vec<String>),
}

/// What a client needs to trust an edge that made its own certificates.
#[derive(Debug, Clone)]
pub struct DevTls {
    /// PEM file of the CA.
    pub ca: PathBuf,
    /// Base64 of the SHA-256 of the leaf's SubjectPublicKeyInfo, as Chromium's `--ignore-certificate-errors-spki-list` takes it.
    pub spki_sha256: String,
}

/// Certificates in use.
#[derive(Debug)]
pub(crate) struct InUse {
    resolver: Arc<Resolver>,
    dev: Option<Dev>,
}

#[derive(Debug)]
struct Dev {
    ca: DevCa,
    hosts: Vec<String>,
    tls: DevTls,
}

impl Certificates {
    /// Reads the configured files. A site's host that none of them names is a warning, as is one that has expired.
    pub(crate) fn load(config: &Config, warnings: &mut Vec<String>) -> Result<Self, TlsError> {
        if config.tls.certificates.is_empty() {
            let patterns = config.sites.iter().flat_map(|site| &site.hosts);
            let hosts = patterns
                .filter(|host| **host != HostPattern::Any)
                .map(ToString::to_string);
            return Ok(Self::Dev(hosts.collect()));
        }
        let files: Vec<_> = config
            .tls
            .certificates
            .iter()
            .map(|pair| CertificateFiles {
                certificate: pair.cert.clone(),
                key: pair.key.clone(),
                hosts: pair.hosts.iter().map(ToString::to_string).collect(),
            })
            .collect();
        let store = CertificateStore::load(&files)?;
        for host in config.sites.iter().flat_map(|site| &site.hosts) {
            if let HostPattern::Exact(name) = host
                && !store.has(name)
            {
                warnings.push(format!(
                    "tls.certificates: none names {name}, so its clients will refuse the connection"
                ));
            }
        }
        let now = SystemTime::now();
        for (path, not_after) in store.expiries() {
            if *not_after <= now {
                warnings.push(format!("tls.certificates: {} has expired", path.display()));
            }
        }
        Ok(Self::Files(store))
    }

    /// Opens or makes the development CA where it is needed.
    pub(crate) fn resolve(self, state_dir: &Path) -> Result<InUse, TlsError> {
        match self {
            Self::Files(store) => Ok(InUse {
                resolver: Resolver::new(store),
                dev: None,
            }),
            Self::Dev(hosts) => {
                let now = SystemTime::now();
                let ca = DevCa::open(&state_dir.join(DEV_CA_DIR), now)?;
                let leaf = ca.leaf(&hosts, now)?;
                let tls = DevTls {
                    ca: ca.certificate_path(),
                    spki_sha256: leaf.spki_sha256.clone(),
                };
                Ok(InUse {
                    resolver: Resolver::new(store(&leaf)),
                    dev: Some(Dev { ca, hosts, tls }),
                })
            }
        }
    }
}

impl InUse {
    pub(crate) const fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    pub(crate) fn dev(&self) -> Option<&DevTls> {
        self.dev.as_ref().map(|dev| &dev.tls)
    }

    /// Keeps the development leaf fresh; never ends. Does nothing for certificates from files.
    pub(crate) async fn renew(&self) {
        let Some(dev) = &self.dev else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(RENEWAL).await;
            match dev.ca.leaf(&dev.hosts, SystemTime::now()) {
                Ok(leaf) => self.resolver.swap(store(&leaf)),
                Err(error) => {
                    tracing::error!(%error, "the development certificate was not renewed")
                }
            }
        }
    }
}

fn store(leaf: &DevLeaf) -> CertificateStore {
    let mut store = CertificateStore::default();
    store.add(&leaf.names, &leaf.key);
    store
}
