//! The one judgement about a peer's certificates.
//!
//! Plain and complete: it takes the certificates as they came, our root and the time, and looks at nothing else.
//! It runs inside the TLS handshake and again after it, so a resumed session gains nothing from its age.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{Link, Refusal};
use super::id::NodeId;
use super::names;
use super::role::{ROLES_MAX, Role};
use super::root::{CLUSTER_URI, NODE_URI, ROLE_URI, RootCertificate, Validity, uris};
use super::tls::SERVER_NAME;

/// How far two clocks may differ: a certificate is accepted five minutes before its start and after its end.
///
/// Nobody relies on the second half of it: connections are replaced while a third of their leaves' lives is left.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The longest validity of a leaf: 72 h.
pub const LEAF_LIFETIME_MAX: Duration = Duration::from_secs(72 * 3600);

/// 64 KiB: what an identity with every role allowed needs, twice over. Checked before parsing.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// A peer whose certificates were found good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerIdentity {
    /// Hash of its identity key.
    pub node_id: NodeId,
    /// Its name in the cluster, as the root signed it.
    pub name: String,
    /// Its roles, as the root signed them.
    pub roles: Vec<Role>,
    /// The earlier end of its leaf's and its identity's validity. No exchange starts later than
    /// [`CLOCK_TOLERANCE`] after it.
    pub not_after: UnixTime,
    /// Two thirds into its leaf's life: from here on a connection is to be replaced by one under a later leaf.
    pub renew_after: UnixTime,
}

impl PeerIdentity {
    #[cfg(test)]
    pub(crate) fn for_test(
        node_id: NodeId,
        name: &str,
        roles: &[Role],
        not_after: UnixTime,
    ) -> Self {
        Self {
            node_id,
            name: name.to_owned(),
            roles: roles.to_vec(),
            not_after,
            renew_after: not_after,
        }
    }

    /// Whether the certificates still hold, with the tolerance.
    #[must_use]
    pub fn valid_at(&self, now: UnixTime) -> bool {
        now.as_secs()
            <= self
                .not_after
                .as_secs()
                .saturating_add(CLOCK_TOLERANCE.as_secs())
    }

    /// Whether the root gave it this role.
    #[must_use]
    pub fn has(&self, role: &Role) -> bool {
        self.roles.contains(role)
    }
}

/// Judges a peer by its certificates, leaf first: exactly leaf and identity, Ed25519 throughout, signed
/// root → identity → leaf, of our cluster, valid now.
///
/// # Errors
/// The first reason found not to talk to this peer. Each has its own close code.
pub fn check(
    certs: &[CertificateDer<'_>],
    root: &RootCertificate,
    now: UnixTime,
) -> Result<PeerIdentity, Refusal> {
    let (leaf_der, identity_der) = match certs {
        [] => return Err(Refusal::NoCertificate),
        [leaf, identity] => (leaf, identity),
        // More would leave open which of them the roles are read from.
        other => {
            return Err(malformed(
                Link::Leaf,
                format!("{} certificates in the chain, not 2", other.len()),
            ));
        }
    };
    let leaf = parse(Link::Leaf, leaf_der)?;
    let identity = parse(Link::Identity, identity_der)?;
    let (leaf_validity, identity_validity) = (Validity::of(&leaf), Validity::of(&identity));

    // The signatures first: who cannot show them learns nothing about our clock or name.
    chain(
        leaf_der,
        identity_der,
        root,
        &[leaf_validity, identity_validity],
    )?;

    // The server's usage was checked with the signatures; every node is a client as well.
    if !matches!(leaf.extended_key_usage(), Ok(Some(usage)) if usage.value.client_auth) {
        return Err(malformed(Link::Leaf, "not for use by a client"));
    }
    let theirs = only(&identity, CLUSTER_URI)?;
    if theirs != root.cluster() {
        return Err(Refusal::Cluster {
            theirs: theirs.to_owned(),
            ours: root.cluster().to_owned(),
        });
    }
    within(Link::Root, root.validity(), now)?;
    within(Link::Identity, identity_validity, now)?;
    within(Link::Leaf, leaf_validity, now)?;
    if leaf_validity.length() > LEAF_LIFETIME_MAX {
        return Err(Refusal::LeafLifetime {
            hours: leaf_validity.length().as_secs() / 3600,
        });
    }
    Ok(PeerIdentity {
        node_id: NodeId::of_spki(identity.public_key().raw),
        name: node_name(&identity)?,
        roles: roles(&identity)?,
        not_after: leaf_validity.not_after.min(identity_validity.not_after),
        renew_after: leaf_validity.renew_after(),
    })
}

pub(super) fn malformed(link: Link, why: impl Into<String>) -> Refusal {
    Refusal::Malformed {
        link,
        why: why.into(),
    }
}

pub(super) fn parse<'a>(
    link: Link,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, Refusal> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(malformed(link, format!("{} bytes", der.len())));
    }
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(malformed(link, "bytes follow it")),
        Err(error) => Err(malformed(link, error.to_string())),
    }
}

pub(super) fn within(link: Link, validity: Validity, now: UnixTime) -> Result<(), Refusal> {
    let (now, tolerance) = (now.as_secs(), CLOCK_TOLERANCE.as_secs());
    if now.saturating_add(tolerance) < validity.not_before.as_secs() {
        return Err(Refusal::NotYetValid {
            link,
            not_before: validity.not_before,
        });
    }
    if now > validity.not_after.as_secs().saturating_add(tolerance) {
        return Err(Refusal::Expired {
            link,
            not_after: validity.not_after,
        });
    }
    Ok(())
}

/// Signatures, constraints and key usages, by webpki. It knows no tolerance, so it is asked about a moment at which
/// all certificates hold; whether that moment is now, [`within`] says.
fn chain(
    leaf: &CertificateDer<'_>,
    identity: &CertificateDer<'_>,
    root: &RootCertificate,
    validities: &[Validity; 2],
) -> Result<(), Refusal> {
    let [leaf_validity, identity_validity] = validities;
    let moment = leaf_validity.not_before.max(identity_validity.not_before);
    if moment > leaf_validity.not_after || moment > identity_validity.not_after {
        return Err(malformed(
            Link::Leaf,
            "its validity and that of the identity do not overlap",
        ));
    }
    let end =
        EndEntityCert::try_from(leaf).map_err(|error| malformed(Link::Leaf, error.to_string()))?;
    let path = end
        .verify_for_usage(
            &[webpki::aws_lc_rs::ED25519],
            std::slice::from_ref(root.anchor()),
            std::slice::from_ref(identity),
            moment,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| Refusal::Foreign(error.to_string()))?;
    // A leaf that the root signed itself would make the identity beside it mere decoration.
    if path.intermediate_certificates().count() != 1 {
        let why = "not issued by the identity beside it";
        return Err(malformed(Link::Leaf, why));
    }
    let name =
        DnsName::try_from(SERVER_NAME).map_err(|error| malformed(Link::Leaf, error.to_string()))?;
    end.verify_is_valid_for_subject_name(&ServerName::DnsName(name))
        .map_err(|_| malformed(Link::Leaf, format!("not issued for \"{SERVER_NAME}\"")))
}

/// What follows this prefix in the one URI that has it.
pub(super) fn only<'a>(
    identity: &'a X509Certificate<'_>,
    prefix: &str,
) -> Result<&'a str, Refusal> {
    let mut found = uris(identity).filter_map(|uri| uri.strip_prefix(prefix));
    match (found.next(), found.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => Err(malformed(Link::Identity, format!("no URI {prefix}<name>"))),
        (Some(_), Some(_)) => Err(malformed(
            Link::Identity,
            format!("more than one URI {prefix}<name>"),
        )),
    }
}

pub(super) fn node_name(identity: &X509Certificate<'_>) -> Result<String, Refusal> {
    let name = only(identity, NODE_URI)?;
    names::plain("node name", name)
        .map_err(|error| malformed(Link::Identity, error.to_string()))?;
    Ok(name.to_owned())
}

/// Roles this version does not know are passed over: a newer root may give roles that say nothing to us.
pub(super) fn roles(identity: &X509Certificate<'_>) -> Result<Vec<Role>, Refusal> {
    let texts: Vec<&str> = uris(identity)
        .filter_map(|uri| uri.strip_prefix(ROLE_URI))
        .take(ROLES_MAX + 1)
        .collect();
    if texts.len() > ROLES_MAX {
        return Err(malformed(
            Link::Identity,
            format!("more than {ROLES_MAX} roles"),
        ));
    }
    Ok(texts
        .into_iter()
        .filter_map(|text| text.parse().ok())
        .collect())
}
