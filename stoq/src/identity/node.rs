//! A node's identity in use.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::audit::{AuditEvent, AuditWhat};
use super::check::{PeerIdentity, check};
use super::error::{IdentityError, Link, Refusal};
use super::file::IdentityFile;
use super::id::NodeId;
use super::leaf::{Leaf, LeafIssuer};
use super::revoked::Revocations;
use super::role::Role;
use super::root::{RootCertificate, Validity};
use super::trust::Trust;
use crate::counter::counters;

/// This node, as its cluster knows it: keys, certificates, root, and the clock they are judged by.
///
/// Cheap to clone; the clones are one node. Issues its leaves itself, as its [`Rotation`](super::Rotation) says, when a
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
    pub(super) trust: Trust,
    pub(super) refusals: RefusalCounters,
    secret: [u8; 32],
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("cluster", &self.root.cluster())
            .field("trust", &self.trust)
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
        Self::load_with(identity, root, cluster, Trust::default())
    }

    /// As [`load`](Self::load), with a clock, rotation, revocation list and audit of the caller's.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        identity: &Path,
        root: &Path,
        cluster: &str,
        trust: Trust,
    ) -> Result<Self, IdentityError> {
        let certificate = RootCertificate::load(root)?;
        if certificate.cluster() != cluster {
            let error = IdentityError::Cluster {
                found: certificate.cluster().to_owned(),
                wanted: cluster.to_owned(),
            };
            return Err(error.at(root));
        }
        let file = IdentityFile::load(identity)?;
        Self::with_trust(file, certificate, trust).map_err(|error| error.at(identity))
    }

    /// From parts already in memory, with the system's clock.
    ///
    /// # Errors
    /// Peers would refuse the identity, or no leaf can be issued.
    pub fn new(file: IdentityFile, root: RootCertificate) -> Result<Self, IdentityError> {
        Self::with_trust(file, root, Trust::default())
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
        let trust = Trust {
            clock,
            ..Trust::default()
        };
        Self::with_trust(file, root, trust)
    }

    /// As [`new`](Self::new), with a clock, rotation, revocation list and audit of the caller's.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_trust(
        file: IdentityFile,
        root: RootCertificate,
        trust: Trust,
    ) -> Result<Self, IdentityError> {
        let (key, certificate, secret) = file.into_parts();
        let bounds = validity_of(&certificate)?;
        let leaves = LeafIssuer::new(key, certificate, bounds, trust.rotation);
        let now = trust.clock.current_time().ok_or(IdentityError::NoClock)?;
        let leaf = leaves.current(now)?;
        let own = check(&leaf.certified.cert, &root, now).map_err(IdentityError::Unusable)?;
        let inner = Inner {
            root,
            leaves,
            trust,
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

    /// 32 bytes that this node alone has, the same in each of its processes and for as long as it keeps its key. Never sent. `purpose` is a text of the caller's own, in no
    /// use elsewhere: what is derived for different ones says nothing of each other.
    #[must_use]
    pub fn own_secret(&self, purpose: &str) -> [u8; 32] {
        self.inner.leaves.derive(purpose)
    }

    /// How many peers were refused by their certificates, by reason.
    #[must_use]
    pub fn refusals(&self) -> &RefusalCounters {
        &self.inner.refusals
    }

    /// Judges the peer at `addr` by the certificates of an established connection, now. Counted and audited when
    /// refused.
    ///
    /// # Errors
    /// As [`check`], or it is on the revocation list.
    pub fn check_peer(
        &self,
        certs: &[CertificateDer<'_>],
        addr: SocketAddr,
    ) -> Result<PeerIdentity, Refusal> {
        // Without a clock nothing can be known to be valid; the epoch is before every start.
        let now = self
            .now()
            .unwrap_or_else(|| UnixTime::since_unix_epoch(std::time::Duration::ZERO));
        self.inner.judge(certs, now, Some(addr))
    }

    /// Judges a peer of a living connection once more, before an exchange. Cheap: looks at the clock and the
    /// revocation list. The caller closes the connection, and audits it, if it is refused.
    ///
    /// # Errors
    /// [`Refusal::Expired`] or [`Refusal::Revoked`].
    pub fn recheck(&self, peer: &PeerIdentity) -> Result<(), Refusal> {
        self.recheck_revoked(peer)?;
        if self.now().is_some_and(|now| peer.valid_at(now)) {
            return Ok(());
        }
        Err(Refusal::Expired {
            link: Link::Leaf,
            not_after: peer.not_after,
        })
    }

    /// As [`recheck`](Self::recheck), without a look at the clock: for exchanges under way, which may outlive a certificate.
    pub(crate) fn recheck_revoked(&self, peer: &PeerIdentity) -> Result<(), Refusal> {
        if self.revocations().contains(&peer.node_id) {
            return Err(revoked(peer));
        }
        Ok(())
    }

    /// Who is refused whatever it shows. Changes to it are felt at once.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.inner.trust.revocations
    }

    /// Tells the audit of something a peer was refused for.
    pub(crate) fn audit(
        &self,
        what: AuditWhat,
        peer: &PeerIdentity,
        addr: SocketAddr,
        detail: &str,
    ) {
        let event = AuditEvent::new(self.now(), what, detail)
            .of(peer)
            .seen_at(Some(addr));
        self.inner.trust.audit.record(&event);
    }

    /// Counts, and tells the audit of, somebody whom TLS refused for showing no certificate at all.
    pub(crate) fn audit_stranger(&self, addr: SocketAddr) {
        let refusal = Refusal::NoCertificate;
        self.inner.refusals.count(&refusal);
        let what = AuditWhat::Handshake(refusal.code());
        let event = AuditEvent::new(self.now(), what, &refusal.to_string());
        self.inner.trust.audit.record(&event.seen_at(Some(addr)));
    }

    /// The time by this node's clock; `None` if it has none.
    #[must_use]
    pub fn now(&self) -> Option<UnixTime> {
        self.inner.trust.clock.current_time()
    }

    /// Issues a leaf now, whether it is due or not. Handshakes from here on show it; the connections that this node
    /// dialled before are replaced at their next use, without a break in their exchanges.
    ///
    /// # Errors
    /// No leaf can be issued.
    pub fn rotate(&self) -> Result<Validity, IdentityError> {
        let now = self.now().ok_or(IdentityError::NoClock)?;
        Ok(self.inner.leaves.rotate(now)?.validity)
    }

    /// The validity of the leaf that a handshake would show now.
    ///
    /// # Errors
    /// No leaf can be issued.
    pub fn leaf_validity(&self) -> Result<Validity, IdentityError> {
        Ok(self.leaf_now()?.validity)
    }

    /// When this node's own identity certificate is valid.
    ///
    /// # Errors
    /// The certificate does not parse, which was found out when it was loaded.
    pub fn identity_validity(&self) -> Result<Validity, IdentityError> {
        match self.leaf_now()?.certified.cert.get(1) {
            Some(identity) => validity_of(identity),
            None => Err(IdentityError::Missing("CERTIFICATE")),
        }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// How long a connection may last that is made now.
    pub(crate) fn term(&self) -> Result<Term, IdentityError> {
        let leaf = self.leaf_now()?;
        Ok(Term {
            renew_after: leaf.validity.renew_after(),
            end: leaf.validity.not_after,
            epoch: leaf.epoch,
        })
    }

    pub(crate) fn leaf_epoch(&self) -> u64 {
        self.inner.leaves.epoch()
    }

    pub(super) fn leaf_now(&self) -> Result<Leaf, IdentityError> {
        self.inner
            .leaves
            .current(self.now().ok_or(IdentityError::NoClock)?)
    }
}

/// How long a connection may last, for the certificates it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    /// From here on it is to be replaced.
    pub(crate) renew_after: UnixTime,
    /// From here on it lives on tolerance only and takes no exchange.
    pub(crate) end: UnixTime,
    epoch: u64,
}

impl Term {
    /// The shorter one of ours and the peer's.
    pub(crate) fn with(self, peer: &PeerIdentity, now: UnixTime) -> Self {
        let end = self.end.min(peer.not_after);
        let renew_after = self.renew_after.min(peer.renew_after);
        Self {
            end,
            // Of a leaf that is in its last third already, and so the last of its identity, a new connection gets no more.
            renew_after: if renew_after < now { end } else { renew_after },
            ..self
        }
    }

    /// Whether a connection should give way to a new one.
    pub(crate) fn is_due(&self, identity: &Identity) -> bool {
        self.epoch != identity.leaf_epoch()
            || identity.now().is_some_and(|now| now > self.renew_after)
    }
}

impl Inner {
    /// The whole judgement about a peer: its certificates, then the revocation list.
    pub(super) fn judge(
        &self,
        certs: &[CertificateDer<'_>],
        now: UnixTime,
        addr: Option<SocketAddr>,
    ) -> Result<PeerIdentity, Refusal> {
        let judged = check(certs, &self.root, now).and_then(|peer| {
            match self.trust.revocations.contains(&peer.node_id) {
                true => Err(revoked(&peer)),
                false => Ok(peer),
            }
        });
        judged.inspect_err(|refusal| {
            self.refusals.count(refusal);
            let what = AuditWhat::Handshake(refusal.code());
            let event = AuditEvent::new(Some(now), what, &refusal.to_string());
            self.trust
                .audit
                .record(&event.claiming(certs).seen_at(addr));
        })
    }
}

fn revoked(peer: &PeerIdentity) -> Refusal {
    Refusal::Revoked {
        node_id: peer.node_id,
        name: peer.name.clone(),
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
        /// Peers without a certificate.
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
        /// Peers on the revocation list.
        refused_revoked,
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
            Refusal::Revoked { .. } => &self.refused_revoked,
        };
        counter.inc();
    }
}
