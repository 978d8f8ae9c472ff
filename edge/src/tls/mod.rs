//! The edge's own TLS side: certificates by host name, the development CA, and the two server configurations.
//!
//! Not here: trust in origins (the origin client's) and between nodes (`stoq::identity`'s). The crypto provider is
//! always aws-lc-rs and always explicit; nothing depends on a process-wide default.

mod dev_ca;
mod server;
mod store;

use std::io;
use std::path::PathBuf;

pub use self::dev_ca::{DEV_CA_DAYS, DEV_LEAF_DAYS, DevCa, DevLeaf};
pub use self::server::{SESSIONS_MAX, ServerTls, crypto_provider};
pub use self::store::{CertificateFiles, CertificateStore, Resolver};

/// Why certificates could not be loaded or made. All are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not PEM, or has nothing of the kind wanted.
    #[error("{path}: no {wanted} in it: {reason}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The first certificate of a file is not X.509 as TLS needs it.
    #[error("{path}: not a usable certificate: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The private key is of a kind or size that cannot be used.
    #[error("{path}: not a usable private key: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What the provider said.
        reason: String,
    },
    /// The key does not belong to the certificate.
    #[error("the key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A host is to be served with a certificate that does not name it.
    #[error("{path}: the certificate does not name {host}; it names {named}")]
    NotNamed {
        /// The certificate's file.
        path: PathBuf,
        /// The configured host.
        host: String,
        /// What it does name, joined.
        named: String,
    },
    /// The certificate names no host at all and none was configured for it.
    #[error(
        "{path}: the certificate has no subject alternative names, so no client will accept it"
    )]
    Nameless {
        /// The certificate's file.
        path: PathBuf,
    },
    /// A host name that no certificate can carry.
    #[error("{host:?} is not a host name a certificate can carry: {reason}")]
    HostName {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// The development CA could not make a certificate.
    #[error("development CA: {0}")]
    Issue(#[source] rcgen::Error),
    /// The leaf just made does not fit what was asked for; a bug of ours.
    #[error("development CA: the leaf just made does not fit its request")]
    LeafUnfit,
    /// This machine's clock stands before 1970.
    #[error("this machine's clock stands before 1970")]
    Clock,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
    /// The TLS library refused a configuration; a bug of ours.
    #[error("TLS configuration: {0}")]
    Config(#[from] rustls::Error),
}

impl TlsError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
