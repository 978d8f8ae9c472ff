//! A node's identity in use.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::check::{LEAF_LIFETIME_MAX, PeerIdentity, check};
use super::error::{IdentityError, Refusal};
use super::file::IdentityFile;
use super::id::NodeId;
use super::leaf::{Leaf, LeafIssuer};
use super::role::Role;
use super::root::{RootCertificate, Validity};
use crate::counter::counters;

/// This node, as its cluster knows it: keys, certificates, root, and the clock they are judged by.
///
/// Cheap to clone; the clones are one node. Issues its leaves itself, each at half the life of the last, when a
/// handshake asks for one; no task runs for it.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
    own: Arc<PeerIdentity>,
}

/// What the TLS side shares with the node.
pub(super) struct Inner {
    pub(super) root: RootCertificate,
    pub(super) leaves: LeafIssuer,
    pub(super) clock: Arc<dyn TimeProvider>,
    pub(super) refusals: RefusalCounters,
    secret: [u8; 32],
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("cluster", &self.root.cluster())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("own", &self.own)
            .field("cluster", &self.cluster())
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads identity and root, and makes sure that peers will accept what they say.
    ///
    /// # Errors
    /// A file is unreadable, malformed, readable by others, or for another cluster than `cluster`; or the identity
    /// was signed by another root or is not valid now.
    pub fn load(identity: &Path, root: &Path, cluster: &str) -> Result<Self, IdentityError> {
        let certificate = RootCertificate::load(root)?;
        if certificate.cluster() != cluster {
            let error = IdentityError::Cluster {
                found: certificate.cluster().to_owned(),
                wanted: cluster.to_owned(),
            };
            return Err(error.at(root));
        }
        let file = IdentityFile::load(identity)?;
        Self::new(file, certificate).map_err(|error| error.at(identity))
    }

    /// From parts already in memory, with the system's clock.
    ///
    /// # Errors
    /// Peers would refuse the identity, or no leaf can be issued.
    pub fn new(file: IdentityFile, root: RootCertificate) -> Result<Self, IdentityError> {
        Self::with_clock(file, root, Arc::new(DefaultTimeProvider))
    }

    /// As [`new`](Self::new), with a clock of the caller's: certificates are issued and judged by it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_clock(
        file: IdentityFile,
        root: RootCertificate,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, IdentityError> {
        let (key, certificate, secret) = file.into_parts();
        let bounds = validity_of(&certificate)?;
        let leaves = LeafIssuer::new(key, certificate, bounds, LEAF_LIFETIME_MAX);
        let now = clock.current_time().ok_or(IdentityError::NoClock)?;
        let leaf = leaves.current(now)?;
        let own = check(&leaf.certified.cert, &root, now).map_err(IdentityError::Unusable)?;
        let inner = Inner {
            root,
            leaves,
            clock,
            refusals: RefusalCounters::default(),
            secret,
        };
        Ok(Self {
            inner: Arc::new(inner),
            own: Arc::new(own),
        })
    }

    /// The hash of this node's key.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.own.node_id
    }

    /// This node's name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.own.name
    }

    /// This node's roles, as the root signed them.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.own.roles
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.inner.root.cluster()
    }

    /// The root this node trusts.
    #[must_use]
    pub fn root(&self) -> &RootCertificate {
        &self.inner.root
    }

    /// The 32 bytes that all nodes of the cluster share and nobody else has. For key derivation, never sent.
    #[must_use]
    pub fn cluster_secret(&self) -> &[u8; 32] {
        &self.inner.secret
    }

    /// How many peers were refused by their certificates, by reason.
    #[must_use]
    pub fn refusals(&self) -> &RefusalCounters {
        &self.inner.refusals
    }

    /// Judges a peer by the certificates of an established connection, now. Counted when refused.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check_peer(&self, certs: &[CertificateDer<'_>]) -> Result<PeerIdentity, Refusal> {
        // Without a clock nothing can be known to be valid; the epoch is before every start.
        let now = self
            .now()
            .unwrap_or_else(|| UnixTime::since_unix_epoch(std::time::Duration::ZERO));
        check(certs, &self.inner.root, now)
            .inspect_err(|refusal| self.inner.refusals.count(refusal))
    }

    /// The time by this node's clock; `None` if it has none.
    #[must_use]
    pub fn now(&self) -> Option<UnixTime> {
        self.inner.clock.current_time()
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The end of the leaf that a handshake would show now.
    pub(crate) fn leaf_end(&self) -> Result<UnixTime, IdentityError> {
        Ok(self.leaf_now()?.validity.not_after)
    }

    pub(super) fn leaf_now(&self) -> Result<Leaf, IdentityError> {
        self.inner
            .leaves
            .current(self.now().ok_or(IdentityError::NoClock)?)
    }
}

fn validity_of(certificate: &CertificateDer<'_>) -> Result<Validity, IdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| IdentityError::Pem(format!("certificate: {error}")))?;
    Ok(Validity::of(&parsed))
}

counters! {
    /// Peers refused by their certificates, in the handshake or after it.
    RefusalCounters {
        /// Peers without a certificate; in the handshake TLS refuses them before they are counted here.
        refused_no_certificate,
        /// Peers whose certificates have the wrong shape.
        refused_malformed_certificate,
        /// Peers whose certificates do not lead to our root.
        refused_foreign,
        /// Peers of another cluster under the same root key.
        refused_cluster,
        /// Peers with an expired certificate.
        refused_expired,
        /// Peers with a certificate from the future.
        refused_not_yet_valid,
        /// Peers whose leaf is valid for more than 72 h.
        refused_leaf_lifetime,
    }
}

impl RefusalCounters {
    pub(super) fn count(&self, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::NoCertificate => &self.refused_no_certificate,
            Refusal::Malformed { .. } => &self.refused_malformed_certificate,
            Refusal::Foreign(_) => &self.refused_foreign,
            Refusal::Cluster { .. } => &self.refused_cluster,
            Refusal::Expired { .. } => &self.refused_expired,
            Refusal::NotYetValid { .. } => &self.refused_not_yet_valid,
            Refusal::LeafLifetime { .. } => &self.refused_leaf_lifetime,
        };
        counter.inc();
    }
}
