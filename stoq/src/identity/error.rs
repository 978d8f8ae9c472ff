//! Why a peer is refused, and why a node's own papers cannot be used.

use std::path::PathBuf;

use rustls_pki_types::UnixTime;
use thiserror::Error;
use x509_parser::time::ASN1Time;

use super::id::{NodeId, NodeIdError};
use super::leaf::RotationError;
use super::names::NameError;
use super::role::RoleError;
use crate::wire::CloseCode;

/// A certificate of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// The cluster root.
    Root,
    /// The node's identity certificate, signed by the root.
    Identity,
    /// The certificate a node issues to itself for its connections.
    Leaf,
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Root => "cluster root",
            Self::Identity => "identity certificate",
            Self::Leaf => "leaf certificate",
        })
    }
}

/// Why [`check`](super::check) refuses a peer. The fault is the peer's, or one of the two clocks'.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No certificate at all.
    #[error("the peer shows no certificate")]
    NoCertificate,
    /// Not the two certificates of the shape this protocol prescribes.
    #[error("the peer's {link} is malformed: {why}")]
    Malformed {
        /// Which certificate.
        link: Link,
        /// What is wrong with it.
        why: String,
    },
    /// The chain does not end in our root.
    #[error("the peer's certificates do not lead to this cluster's root: {0}")]
    Foreign(String),
    /// Signed by our root key, for another cluster.
    #[error("the peer belongs to cluster \"{theirs}\", this is \"{ours}\"")]
    Cluster {
        /// The cluster in the peer's identity certificate.
        theirs: String,
        /// The cluster in our root.
        ours: String,
    },
    /// The operator has taken this node's place in the cluster away.
    #[error("the peer \"{name}\" ({node_id}) is on the revocation list")]
    Revoked {
        /// The peer.
        node_id: NodeId,
        /// Its name, as the root signed it.
        name: String,
    },
    /// The end of a validity lies in the past, by more than [`CLOCK_TOLERANCE`](super::CLOCK_TOLERANCE).
    #[error("the peer's {link} expired on {}", date(*not_after))]
    Expired {
        /// Which certificate.
        link: Link,
        /// Its end.
        not_after: UnixTime,
    },
    /// The start of a validity lies in the future, by more than [`CLOCK_TOLERANCE`](super::CLOCK_TOLERANCE).
    #[error("the peer's {link} is not valid before {}; is one of the clocks wrong?", date(*not_before))]
    NotYetValid {
        /// Which certificate.
        link: Link,
        /// Its start.
        not_before: UnixTime,
    },
    /// A leaf valid for longer than [`LEAF_LIFETIME_MAX`](super::LEAF_LIFETIME_MAX).
    #[error("the peer's leaf is valid for {hours} h; at most 72 h are allowed")]
    LeafLifetime {
        /// Its lifetime in whole hours.
        hours: u64,
    },
}

impl Refusal {
    /// The code with which the connection is closed.
    #[must_use]
    pub fn code(&self) -> CloseCode {
        match self {
            Self::NoCertificate => CloseCode::NoCertificate,
            Self::Malformed { .. } => CloseCode::MalformedCertificate,
            Self::Foreign(_) => CloseCode::Foreign,
            Self::Cluster { .. } => CloseCode::Cluster,
            Self::Expired { .. } => CloseCode::Expired,
            Self::NotYetValid { .. } => CloseCode::NotYetValid,
            Self::LeafLifetime { .. } => CloseCode::LeafLifetime,
            Self::Revoked { .. } => CloseCode::Revoked,
        }
    }
}

/// A date as RFC 2822 has it, or the bare seconds where the calendar ends.
pub(crate) fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|secs| ASN1Time::from_timestamp(secs).ok())
        .and_then(|time| time.to_rfc2822().ok())
        .unwrap_or_else(|| format!("second {} after 1970", time.as_secs()))
}

/// Why a node's own root, key or identity cannot be made, read or used. The fault is on this machine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A private file that others can read.
    #[error("{path}: mode {mode:04o} lets others read the private key; run: chmod 600 {path}")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that others could change, and with it whom this node trusts.
    #[error("{path}: mode {mode:04o} lets others change it; run: chmod go-w {path}")]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of another user, who could change it at any time.
    #[error(
        "{path}: belongs to user {owner}, this process runs as {ours}; run: chown {ours} {path}"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The user id of this process.
        ours: u32,
    },
    /// A folder in which everyone may replace the file.
    #[error("{path}: mode {mode:04o} lets everyone replace files in it; run: chmod o-w {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A pipe, a device or a directory.
    #[error("{0}: not a regular file")]
    NotAFile(PathBuf),
    /// Not what was written: a bit has changed on the disk or on the way.
    #[error(
        "damaged: its content is not what its check was made of; restore it, or issue the file anew"
    )]
    Damaged,
    /// Larger than any file of its kind can be.
    #[error("{path}: larger than {max} bytes; this is not the file that is meant")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        max: u64,
    },
    /// A file with something missing or wrong in it.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Self>,
    },
    /// Not PEM.
    #[error("not readable as PEM: {0}")]
    Pem(String),
    /// A PEM block that must be there once is missing.
    #[error("no {0} block; issue the file anew with `cluster init`")]
    Missing(&'static str),
    /// A PEM block that may stand once stands more often.
    #[error("more than one {0} block; keep the one that belongs here")]
    Repeated(&'static str),
    /// The private key is not a usable Ed25519 key.
    #[error("the private key is not an Ed25519 key in PKCS#8: {0}")]
    Key(String),
    /// The private key is not the one the certificate was issued for.
    #[error(
        "the private key and the certificate do not belong together; restore the pair, or issue the file anew"
    )]
    KeyMismatch,
    /// The cluster secret is not 32 bytes.
    #[error("the cluster secret has {0} bytes, 32 are needed")]
    Secret(usize),
    /// The root certificate is not one.
    #[error("not a cluster root: {0}")]
    Root(String),
    /// The root file is for another cluster than the one asked for.
    #[error(
        "the root is of cluster \"{found}\", asked for is \"{wanted}\"; use that cluster's root file or name"
    )]
    Cluster {
        /// The cluster in the root certificate.
        found: String,
        /// The cluster in the configuration.
        wanted: String,
    },
    /// Our own identity would be refused by every peer.
    #[error("this node's own identity is not usable: {0}")]
    Unusable(Refusal),
    /// A name that cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A role that cannot stand in a certificate.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// More roles than an identity may carry.
    #[error("{0} roles; an identity carries at most 128")]
    TooManyRoles(usize),
    /// A validity that ends before it starts.
    #[error("the validity ends before it starts")]
    EmptyValidity,
    /// Making or signing a certificate failed.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The TLS library refuses the configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS configuration does not fit QUIC.
    #[error("cannot set up TLS for QUIC: {0}")]
    Quic(#[from] crate::quic::TlsError),
    /// A line of a revocation list that is no node id.
    #[error("line {line}: {source}")]
    RevokedLine {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        source: NodeIdError,
    },
    /// A revocation list longer than is kept.
    #[error("more than 65536 revoked nodes; found the cluster anew, with another root")]
    TooManyRevoked,
    /// The interval at which leaves are issued does not go with their longest validity.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The system gives no wall time.
    #[error("the system clock gives no time after 1970")]
    NoClock,
}

impl IdentityError {
    pub(crate) fn at(self, path: &std::path::Path) -> Self {
        Self::File {
            path: path.to_owned(),
            source: Box::new(self),
        }
    }
}
