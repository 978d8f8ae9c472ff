//! The certificate of whoever enrols nodes, and how somebody without papers recognises it.
//!
//! It is signed by the root itself and lies beside the root certificate, so whoever knows the root's fingerprint can judge
//! it. Between nodes it is worth nothing: [`check`](super::check()) wants an identity between root and leaf, and
//! another name.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, DnsName, PrivatePkcs8KeyDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::check::within;
use super::error::{IdentityError, Link, Refusal};
use super::root::{ClusterRoot, RootCertificate, Validity, params};

/// The name a desk's certificate is issued for, and that a joiner asks for.
pub(crate) const DESK_NAME: &str = "join.stoq";

/// How long it is valid: 24 h. A desk has a new one made at half of it.
const DESK_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// 4 KiB: a self-signed certificate with an Ed25519 key takes some 300 bytes.
const JOINER_BYTES_MAX: usize = 4 * 1024;

impl ClusterRoot {
    /// A fresh key and certificate for a desk, with the root's beside it; and when to make the next.
    pub(crate) fn desk_papers(
        &self,
        now: UnixTime,
    ) -> Result<(Arc<CertifiedKey>, UnixTime), IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = params("stoq join", Validity::starting(now, DESK_LIFETIME))?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![SanType::DnsName(
            DESK_NAME.try_into().map_err(IdentityError::Issue)?,
        )];
        let leaf = self.sign_params(&params, &key)?;
        let root = self.certificate().der().clone();
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(key.serialized_der()))?;
        let certified = CertifiedKey::new(vec![leaf, root], signing);
        certified.keys_match()?;
        let half = now.as_secs() + DESK_LIFETIME.as_secs() / 2;
        Ok((
            Arc::new(certified),
            UnixTime::since_unix_epoch(Duration::from_secs(half)),
        ))
    }
}

/// Judges a desk by its certificates and the fingerprint in a token, and gives the root that both lead to.
pub(crate) fn check_desk(
    certs: &[CertificateDer<'_>],
    fingerprint: &[u8; 32],
    now: UnixTime,
) -> Result<RootCertificate, Refusal> {
    let malformed = |link, why: &dyn std::fmt::Display| Refusal::Malformed {
        link,
        why: why.to_string(),
    };
    let [leaf_der, root_der] = certs else {
        return Err(malformed(
            Link::Leaf,
            &format!("{} certificates in the chain, not 2", certs.len()),
        ));
    };
    if blake3::hash(root_der) != *fingerprint {
        return Err(Refusal::Foreign("its root is not the token's".into()));
    }
    let root = RootCertificate::from_der(root_der.clone().into_owned())
        .map_err(|error| malformed(Link::Root, &error))?;
    let (_, leaf) =
        X509Certificate::from_der(leaf_der).map_err(|error| malformed(Link::Leaf, &error))?;
    let validity = Validity::of(&leaf);
    let end = EndEntityCert::try_from(leaf_der).map_err(|error| malformed(Link::Leaf, &error))?;
    // The signature is asked about a moment at which it holds; whether that is now, `within` says.
    end.verify_for_usage(
        &[webpki::aws_lc_rs::ED25519],
        std::slice::from_ref(root.anchor()),
        &[],
        validity.not_before,
        KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(|error| Refusal::Foreign(error.to_string()))?;
    let name = DnsName::try_from(DESK_NAME).map_err(|error| malformed(Link::Leaf, &error))?;
    end.verify_is_valid_for_subject_name(&ServerName::DnsName(name))
        .map_err(|_| malformed(Link::Leaf, &"not issued to enrol nodes"))?;
    within(Link::Root, root.validity(), now)?;
    within(Link::Leaf, validity, now)?;
    Ok(root)
}

/// A key and a certificate by which a joiner proves that the key is its own. Nothing else in it has a meaning.
pub(crate) fn joiner_papers(
    now: UnixTime,
) -> Result<(KeyPair, CertificateDer<'static>), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let params = params("stoq joiner", Validity::starting(now, DESK_LIFETIME))?;
    let certificate = params.self_signed(&key)?.der().clone();
    Ok((key, certificate))
}

/// The SubjectPublicKeyInfo (DER) of the Ed25519 key in a joiner's certificate.
pub(crate) fn joiner_key(certs: &[CertificateDer<'_>]) -> Result<Vec<u8>, Refusal> {
    let [certificate] = certs else {
        return Err(Refusal::NoCertificate);
    };
    let malformed = |why: &dyn std::fmt::Display| Refusal::Malformed {
        link: Link::Leaf,
        why: why.to_string(),
    };
    if certificate.len() > JOINER_BYTES_MAX {
        return Err(malformed(&format!("{} bytes", certificate.len())));
    }
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
    if parsed.public_key().algorithm.algorithm != OID_SIG_ED25519 {
        return Err(malformed(&"the key is not an Ed25519 key"));
    }
    Ok(parsed.public_key().raw.to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::super::check::check;
    use super::super::role::Role;
    use super::*;

    fn at(hours: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(hours * 3600))
    }

    fn root() -> ClusterRoot {
        ClusterRoot::generate("demo", Validity::starting(at(0), ClusterRoot::LIFETIME)).unwrap()
    }

    #[test]
    fn desk_is_known_by_the_fingerprint_alone_and_for_a_day() {
        let (root, other) = (root(), root());
        let fingerprint = root.certificate().fingerprint();
        let (papers, next) = root.desk_papers(at(100)).unwrap();
        assert_eq!(next, at(112));
        let found = check_desk(&papers.cert, &fingerprint, at(110)).unwrap();
        assert_eq!(found.der(), root.certificate().der());
        assert!(matches!(
            check_desk(&papers.cert, &fingerprint, at(126)),
            Err(Refusal::Expired { .. })
        ));
        assert!(matches!(
            check_desk(&papers.cert, &other.certificate().fingerprint(), at(110)),
            Err(Refusal::Foreign(_))
        ));
        // Another desk that shows our root beside its own leaf.
        let (theirs, _) = other.desk_papers(at(100)).unwrap();
        let mixed = [theirs.cert[0].clone(), papers.cert[1].clone()];
        assert!(matches!(
            check_desk(&mixed, &fingerprint, at(110)),
            Err(Refusal::Foreign(_))
        ));
    }

    #[test]
    fn papers_of_desk_and_nodes_do_not_stand_for_each_other() {
        let root = root();
        let (papers, _) = root.desk_papers(at(100)).unwrap();
        assert!(check(&papers.cert, root.certificate(), at(100)).is_err());
        let validity = Validity::starting(at(90), ClusterRoot::IDENTITY_LIFETIME);
        let file = root.issue("edge-1", &[Role::Admin], validity).unwrap();
        let fingerprint = root.certificate().fingerprint();
        let as_desk = [file.certificate().clone(), root.certificate().der().clone()];
        assert!(check_desk(&as_desk, &fingerprint, at(100)).is_err());
    }

    #[test]
    fn joiner_shows_its_key_and_nothing_larger() {
        let (key, certificate) = joiner_papers(at(1)).unwrap();
        let found = joiner_key(std::slice::from_ref(&certificate)).unwrap();
        assert_eq!(found, key.subject_public_key_info());
        assert_eq!(joiner_key(&[]), Err(Refusal::NoCertificate));
        let huge = CertificateDer::from(vec![0x30; JOINER_BYTES_MAX + 1]);
        assert!(matches!(
            joiner_key(&[huge]),
            Err(Refusal::Malformed { .. })
        ));
        let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = params("x", Validity::starting(at(1), DESK_LIFETIME)).unwrap();
        let other = params.self_signed(&p256).unwrap().der().clone();
        assert!(matches!(
            joiner_key(&[other]),
            Err(Refusal::Malformed { .. })
        ));
    }
}
