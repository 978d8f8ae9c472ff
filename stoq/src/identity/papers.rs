//! What a node can show to those it has no connection with: its identity certificate, and its signature under a text.
//!
//! A text that passes through other nodes is believed for the signature of the node it speaks of, and that node for the root's signature in its identity
//! certificate. No leaf is in it: leaves live for hours and are for connections.

use std::net::SocketAddr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::audit::{AuditEvent, AuditWhat};
use super::check::{malformed, node_name, only, parse, roles, within};
use super::error::{IdentityError, Link, Refusal};
use super::id::NodeId;
use super::node::Identity;
use super::role::Role;
use super::root::{CLUSTER_URI, RootCertificate, Validity};

/// A node's identity certificate that the root has signed, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Papers {
    /// Hash of its identity key.
    pub node_id: NodeId,
    /// Its name in the cluster.
    pub name: String,
    /// Its roles.
    pub roles: Vec<Role>,
    /// When the certificate is valid.
    pub validity: Validity,
    key: [u8; 32],
}

impl Papers {
    /// Whether its identity key signed exactly this.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key)
            .verify(message, signature)
            .is_ok()
    }

    /// Reads an identity certificate, judged as in a handshake but for the leaf, which is not there.
    fn read(
        der: &CertificateDer<'_>,
        root: &RootCertificate,
        now: UnixTime,
    ) -> Result<Self, Refusal> {
        let parsed = parse(Link::Identity, der)?;
        signed_by_root(der, &parsed, root)?;
        let theirs = only(&parsed, CLUSTER_URI)?;
        if theirs != root.cluster() {
            return Err(Refusal::Cluster {
                theirs: theirs.to_owned(),
                ours: root.cluster().to_owned(),
            });
        }
        let validity = Validity::of(&parsed);
        within(Link::Root, root.validity(), now)?;
        within(Link::Identity, validity, now)?;
        let key = parsed.public_key();
        let no_key = || malformed(Link::Identity, "its key is not Ed25519");
        if key.algorithm.algorithm != OID_SIG_ED25519 {
            return Err(no_key());
        }
        Ok(Self {
            node_id: NodeId::of_spki(key.raw),
            name: node_name(&parsed)?,
            roles: roles(&parsed)?,
            validity,
            key: key
                .subject_public_key
                .data
                .as_ref()
                .try_into()
                .map_err(|_| no_key())?,
        })
    }
}

/// Before a signature's 64 bytes: its algorithm, Ed25519 without parameters (RFC 8410 §3), and the head of a bit string of whole bytes.
const SEAL: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x41, 0];

/// Not by webpki, which judges paths that end in a leaf.
fn signed_by_root(
    der: &CertificateDer<'_>,
    identity: &X509Certificate<'_>,
    root: &RootCertificate,
) -> Result<(), Refusal> {
    let foreign = |why: &str| Refusal::Foreign(why.to_owned());
    let (_, issuer) = X509Certificate::from_der(root.der()).map_err(|_| foreign("no root"))?;
    if identity.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(foreign("issued by somebody else"));
    }
    if identity.signature_algorithm.algorithm != OID_SIG_ED25519
        || identity.tbs_certificate.signature.algorithm != OID_SIG_ED25519
    {
        return Err(foreign("not signed with Ed25519"));
    }
    // What is not under the signature has one form: the parser takes others, by which one certificate would have several.
    let sealed = [SEAL, &identity.signature_value.data].concat();
    if !der.ends_with(&sealed) || identity.signature_value.data.len() != 64 {
        return Err(foreign("its signature is not written as it has to be"));
    }
    // A leaf signed by the root would be nobody's identity.
    if !identity.is_ca() {
        return Err(malformed(Link::Identity, "it may not issue leaves"));
    }
    let key = root
        .ed25519_key()
        .ok_or_else(|| foreign("the root's key is not Ed25519"))?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(
            identity.tbs_certificate.as_ref(),
            &identity.signature_value.data,
        )
        .map_err(|_| foreign("the signature is not the root's"))
}

impl Identity {
    /// This node's identity certificate (DER), which others [read](Self::read_papers).
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.inner().leaves.identity()
    }

    /// Signs with the identity key. What is signed must begin with words that say what it is, so that no signature serves for something
    /// else; what this key signs besides is certificates, which begin with a DER sequence.
    ///
    /// # Errors
    /// The key does not sign, which a key that was loaded does.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], IdentityError> {
        let signature = self.inner().leaves.sign(message)?;
        signature
            .try_into()
            .map_err(|_| IdentityError::Key("a signature that is not 64 bytes".to_owned()))
    }

    /// Judges the identity certificate of a node that is not connected: signed by the root, of this cluster, valid now, not revoked. Some
    /// 100 µs; [`is_current`](Self::is_current) looks at the same papers again for nothing.
    ///
    /// # Errors
    /// The first reason found. Neither counted nor audited: that is for the caller, who knows where it came from.
    pub fn read_papers(&self, certificate: &CertificateDer<'_>) -> Result<Papers, Refusal> {
        let now = self.now().unwrap_or_else(epoch);
        let papers = Papers::read(certificate, self.root(), now)?;
        self.is_current(&papers)?;
        Ok(papers)
    }

    /// Whether papers that were good still are: not expired, not revoked.
    ///
    /// # Errors
    /// [`Refusal::Expired`], [`Refusal::NotYetValid`] or [`Refusal::Revoked`].
    pub fn is_current(&self, papers: &Papers) -> Result<(), Refusal> {
        if self.revocations().contains(&papers.node_id) {
            return Err(Refusal::Revoked {
                node_id: papers.node_id,
                name: papers.name.clone(),
            });
        }
        within(
            Link::Identity,
            papers.validity,
            self.now().unwrap_or_else(epoch),
        )
    }

    /// Tells the audit that something said to be the word of `about` was not believed, and who passed it on.
    pub fn audit_statement(&self, about: Option<NodeId>, from: Option<SocketAddr>, detail: &str) {
        let mut event = AuditEvent::new(self.now(), AuditWhat::Statement, detail).seen_at(from);
        event.node_id = about;
        self.inner().trust.audit.record(&event);
    }
}

/// Before every start, so that without a clock nothing is valid.
fn epoch() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::root::ClusterRoot;
    use super::*;
    use crate::identity::{Revocations, Trust};

    const DAY: Duration = Duration::from_secs(86_400);

    fn root(cluster: &str) -> ClusterRoot {
        ClusterRoot::generate(cluster, Validity::starting(UnixTime::now(), DAY)).unwrap()
    }

    fn node(root: &ClusterRoot, name: &str, trust: Trust) -> Identity {
        let validity = Validity::starting(UnixTime::now(), DAY);
        let file = root.issue(name, &[Role::Edge], validity).unwrap();
        Identity::with_trust(file, root.certificate().clone(), trust).unwrap()
    }

    #[test]
    fn another_node_reads_the_papers_and_checks_the_signature() {
        let root = root("c");
        let (a, b) = (
            node(&root, "a", Trust::default()),
            node(&root, "b", Trust::default()),
        );
        let papers = b.read_papers(a.certificate()).unwrap();
        assert_eq!(papers.node_id, a.node_id());
        assert_eq!(
            (papers.name.as_str(), &*papers.roles),
            ("a", &[Role::Edge][..])
        );
        let mut signature = a.sign(b"words: x").unwrap();
        assert!(papers.signed(b"words: x", &signature));
        assert!(!papers.signed(b"words: y", &signature));
        assert!(!papers.signed(b"words: x", &b.sign(b"words: x").unwrap()));
        signature[5] ^= 1;
        assert!(!papers.signed(b"words: x", &signature));
    }

    #[test]
    fn foreign_revoked_expired_and_changed_papers_are_refused() {
        let ours = root("c");
        let trust = Trust::default();
        let revoked: Revocations = trust.revocations.clone();
        let b = node(&ours, "b", trust);
        let a = node(&ours, "a", Trust::default());
        let foreign = node(&root("c"), "a", Trust::default());
        assert!(matches!(
            b.read_papers(foreign.certificate()),
            Err(Refusal::Foreign(_))
        ));
        // A leaf is nobody's identity, and neither is the root.
        for other in [
            a.root().der().clone(),
            a.leaf_now().unwrap().certified.cert[0].clone(),
        ] {
            assert!(b.read_papers(&other).is_err());
        }
        let whole = a.certificate().to_vec();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(b.read_papers(&changed.into()).is_err(), "byte {at}");
        }
        let papers = b.read_papers(a.certificate()).unwrap();
        revoked.replace([a.node_id()]).unwrap();
        assert!(matches!(
            b.read_papers(a.certificate()),
            Err(Refusal::Revoked { .. })
        ));
        assert!(b.is_current(&papers).is_err());
        let late = Trust {
            clock: Arc::new(Late),
            ..Trust::default()
        };
        let short = Validity::starting(UnixTime::now(), DAY * 9);
        let long =
            ClusterRoot::generate("d", Validity::starting(UnixTime::now(), DAY * 9)).unwrap();
        let file = long.issue("late", &[], short).unwrap();
        let judge = Identity::with_trust(file, long.certificate().clone(), late).unwrap();
        let gone = node(&long, "gone", Trust::default());
        assert!(matches!(
            judge.read_papers(gone.certificate()),
            Err(Refusal::Expired { .. })
        ));
    }

    #[derive(Debug)]
    struct Late;

    impl rustls::time_provider::TimeProvider for Late {
        fn current_time(&self) -> Option<UnixTime> {
            let later = UnixTime::now().as_secs() + 2 * 86_400;
            Some(UnixTime::since_unix_epoch(Duration::from_secs(later)))
        }
    }
}
