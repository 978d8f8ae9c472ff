//! Which certificate a client is shown: by the server name it asks for, exact before wildcard, else the first.
//!
//! A [`CertificateStore`] never changes; a reload builds another and swaps it into the [`Resolver`] in one step, so
//! a handshake sees one or the other. Lookup is two hash probes and no allocation for lower-case names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;

use super::TlsError;
use super::server::crypto_provider;

/// A pair of PEM files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// Which hosts it serves, `*.` for one label in front; empty: all that it names.
    pub hosts: Vec<String>,
}

/// Certificates by host name.
#[derive(Debug, Default)]
pub struct CertificateStore {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    fallback: Option<Arc<CertifiedKey>>,
    expiries: Vec<(PathBuf, SystemTime)>,
}

impl CertificateStore {
    /// Reads all files. The first pair is what clients get that name no host, or one nobody has.
    ///
    /// Expired certificates are loaded (refusing to start would take the other hosts down too); ask
    /// [`expiries`](Self::expiries). Of two pairs with the same host the first wins.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let mut store = Self::default();
        for pair in files {
            let (key, facts) = load_pair(&pair.certificate, &pair.key)?;
            let hosts = if pair.hosts.is_empty() {
                &facts.names
            } else {
                &pair.hosts
            };
            if hosts.is_empty() && facts.addresses == 0 {
                return Err(TlsError::Nameless {
                    path: pair.certificate.clone(),
                });
            }
            for host in hosts {
                if !pair.hosts.is_empty() {
                    covers(&pair.certificate, &key, host, &facts)?;
                }
                store.insert(host, &key);
            }
            store.fallback.get_or_insert(key);
            store
                .expiries
                .push((pair.certificate.clone(), facts.not_after));
        }
        Ok(store)
    }

    /// Adds a pair for `hosts`; it becomes the fallback if there is none yet.
    pub fn add(&mut self, hosts: &[String], key: &Arc<CertifiedKey>) {
        for host in hosts {
            self.insert(host, key);
        }
        self.fallback.get_or_insert_with(|| key.clone());
    }

    fn insert(&mut self, host: &str, key: &Arc<CertifiedKey>) {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match host.strip_prefix("*.") {
            Some(parent) => self
                .wildcard
                .entry(parent.into())
                .or_insert_with(|| key.clone()),
            None => self
                .exact
                .entry(host.into_boxed_str())
                .or_insert_with(|| key.clone()),
        };
    }

    /// The certificate for a server name; the fallback when there is no name or no match.
    pub fn resolve(&self, server_name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        server_name
            .and_then(|name| self.find(name))
            .or(self.fallback.as_ref())
    }

    /// Whether `host` has a certificate of its own (not the fallback).
    pub fn has(&self, host: &str) -> bool {
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.contains_key(parent),
            None => self.find(host).is_some(),
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(&name.to_ascii_lowercase());
        }
        self.find_lower(name)
    }

    fn find_lower(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.exact.get(name).or_else(|| {
            // A wildcard stands for exactly the left-most label (RFC 9525 6.3).
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })
    }

    /// Each loaded file and when its leaf ends.
    pub fn expiries(&self) -> &[(PathBuf, SystemTime)] {
        &self.expiries
    }

    /// Whether there is nothing to show to anybody.
    pub fn is_empty(&self) -> bool {
        self.fallback.is_none()
    }
}

/// The resolver that all TLS configurations of the process share.
#[derive(Debug)]
pub struct Resolver {
    store: ArcSwap<CertificateStore>,
}

impl Resolver {
    /// Starts with `store`.
    pub fn new(store: CertificateStore) -> Arc<Self> {
        Arc::new(Self {
            store: ArcSwap::from_pointee(store),
        })
    }

    /// Shows `store` from the next handshake on.
    pub fn swap(&self, store: CertificateStore) {
        self.store.store(Arc::new(store));
    }

    /// What is shown now.
    pub fn current(&self) -> Arc<CertificateStore> {
        self.store.load_full()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.store.load().resolve(hello.server_name()).cloned()
    }
}

/// What a leaf says of itself.
pub(super) struct Facts {
    /// DNS names, as written.
    pub(super) names: Vec<String>,
    /// How many IP addresses it names.
    pub(super) addresses: usize,
    pub(super) not_after: SystemTime,
}

/// Reads and checks a chain and its key.
pub(super) fn load_pair(
    certificate: &Path,
    key: &Path,
) -> Result<(Arc<CertifiedKey>, Facts), TlsError> {
    let chain = read_chain(certificate)?;
    let facts = match chain.first() {
        Some(leaf) => facts(leaf).map_err(|reason| TlsError::Certificate {
            path: certificate.into(),
            reason,
        })?,
        None => {
            return Err(TlsError::Pem {
                path: certificate.into(),
                wanted: "certificate",
                reason: "the file has no such section".into(),
            });
        }
    };
    let der = read_key(key)?;
    let pair =
        CertifiedKey::from_der(chain, der, crypto_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
                certificate: certificate.into(),
                key: key.into(),
            },
            Error::InvalidCertificate(reason) => TlsError::Certificate {
                path: certificate.into(),
                reason: format!("{reason:?}"),
            },
            other => TlsError::Key {
                path: key.into(),
                reason: other.to_string(),
            },
        })?;
    Ok((Arc::new(pair), facts))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = std::fs::read(path).map_err(TlsError::io(path))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Pem {
            path: path.into(),
            wanted: "certificate",
            reason: error.to_string(),
        })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = std::fs::read(path).map_err(TlsError::io(path))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| TlsError::Pem {
        path: path.into(),
        wanted: "private key",
        reason: error.to_string(),
    })
}

/// Reads names and validity out of a leaf.
pub(super) fn facts(leaf: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    let mut addresses = 0;
    if let Some(extension) = certificate
        .subject_alternative_name()
        .map_err(|error| error.to_string())?
    {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(_) => addresses += 1,
                _ => {}
            }
        }
    }
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(end))
        .ok_or_else(|| format!("its end {end} is no date"))?;
    Ok(Facts {
        names,
        addresses,
        not_after,
    })
}

fn covers(path: &Path, key: &CertifiedKey, host: &str, facts: &Facts) -> Result<(), TlsError> {
    let probe = match host.strip_prefix("*.") {
        // A wildcard is covered if any one label before its parent is.
        Some(parent) => format!("wildcard-probe.{parent}"),
        None => host.to_owned(),
    };
    let name = ServerName::try_from(probe).map_err(|error| TlsError::HostName {
        host: host.into(),
        reason: error.to_string(),
    })?;
    let bad = |reason: Error| TlsError::Certificate {
        path: path.into(),
        reason: reason.to_string(),
    };
    let leaf = ParsedCertificate::try_from(key.end_entity_cert().map_err(bad)?).map_err(bad)?;
    rustls::client::verify_server_name(&leaf, &name).map_err(|_| TlsError::NotNamed {
        path: path.into(),
        host: host.into(),
        named: facts.names.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        _dir: tempfile::TempDir,
        root: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                root: dir.path().to_owned(),
                _dir: dir,
            }
        }

        fn pair(&self, stem: &str, names: &[&str]) -> CertificateFiles {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(names)
                .unwrap()
                .self_signed(&key)
                .unwrap();
            let files = CertificateFiles {
                certificate: self.root.join(format!("{stem}.pem")),
                key: self.root.join(format!("{stem}.key")),
                hosts: Vec::new(),
            };
            std::fs::write(&files.certificate, certificate.pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        }
    }

    fn same(store: &CertificateStore, asked: Option<&str>, like: &str) -> bool {
        Arc::ptr_eq(
            store.resolve(asked).unwrap(),
            store.resolve(Some(like)).unwrap(),
        )
    }

    #[test]
    fn exact_name_wins_over_wildcard_and_unknown_gets_the_first() {
        let files = Files::new();
        let store = CertificateStore::load(&[
            files.pair("first", &["first.test"]),
            files.pair("wild", &["*.example.com"]),
            files.pair("exact", &["www.example.com"]),
        ])
        .unwrap();
        assert!(!same(&store, Some("www.example.com"), "img.example.com"));
        assert!(same(&store, Some("WWW.Example.Com."), "www.example.com"));
        assert!(same(&store, Some("other.example.com"), "img.example.com"));
        for unknown in [
            Some("example.com"),
            Some("a.b.example.com"),
            Some("unknown.test"),
            None,
        ] {
            assert!(same(&store, unknown, "first.test"), "{unknown:?}");
        }
        assert!(
            store.has("img.example.com")
                && store.has("*.example.com")
                && !store.has("unknown.test")
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_by_both_names() {
        let files = Files::new();
        let one = files.pair("one", &["one.test"]);
        let two = files.pair("two", &["two.test"]);
        let mixed = CertificateFiles {
            key: two.key,
            ..one
        };
        let error = CertificateStore::load(&[mixed]).unwrap_err().to_string();
        assert!(
            error.contains("one.pem") && error.contains("two.key"),
            "{error}"
        );
    }

    #[test]
    fn unusable_files_say_which_and_why() {
        let files = Files::new();
        let good = files.pair("good", &["good.test"]);
        let absent = CertificateFiles {
            certificate: files.root.join("absent.pem"),
            ..good.clone()
        };
        assert!(matches!(
            CertificateStore::load(&[absent]),
            Err(TlsError::Io { .. })
        ));

        std::fs::write(files.root.join("empty.pem"), "hello").unwrap();
        let empty = CertificateFiles {
            certificate: files.root.join("empty.pem"),
            ..good.clone()
        };
        assert!(matches!(
            CertificateStore::load(&[empty]),
            Err(TlsError::Pem {
                wanted: "certificate",
                ..
            })
        ));

        let swapped = CertificateFiles {
            key: good.certificate.clone(),
            ..good.clone()
        };
        assert!(matches!(
            CertificateStore::load(&[swapped]),
            Err(TlsError::Pem {
                wanted: "private key",
                ..
            })
        ));

        let foreign = CertificateFiles {
            hosts: vec!["other.test".into()],
            ..good
        };
        let error = CertificateStore::load(&[foreign]).unwrap_err().to_string();
        assert!(
            error.contains("other.test") && error.contains("good.test"),
            "{error}"
        );
    }

    #[test]
    fn a_swap_shows_at_the_next_lookup() {
        let files = Files::new();
        let resolver =
            Resolver::new(CertificateStore::load(&[files.pair("a", &["a.test"])]).unwrap());
        assert!(!resolver.current().has("b.test"));
        resolver.swap(CertificateStore::load(&[files.pair("b", &["b.test"])]).unwrap());
        assert!(resolver.current().has("b.test"));
    }
}
