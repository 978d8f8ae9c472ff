//! The certificate a node shows on its connections: issued by itself, short-lived, its key never on disk.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

use super::error::IdentityError;
use super::root::{Validity, params};
use super::tls::SERVER_NAME;

/// A leaf in use.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) validity: Validity,
}

/// Issues leaves, and keeps the one in use until half its life is over.
///
/// A connection keeps the leaf it was made with; only later handshakes see the next one.
#[derive(Debug)]
pub(super) struct LeafIssuer {
    identity_key: KeyPair,
    identity: CertificateDer<'static>,
    /// No leaf begins before the identity or outlives it.
    bounds: Validity,
    lifetime: Duration,
    current: Mutex<Option<Leaf>>,
}

impl LeafIssuer {
    pub(super) fn new(
        identity_key: KeyPair,
        identity: CertificateDer<'static>,
        bounds: Validity,
        lifetime: Duration,
    ) -> Self {
        Self {
            identity_key,
            identity,
            bounds,
            lifetime,
            current: Mutex::new(None),
        }
    }

    /// The leaf to show at `now`, issued anew (some 100 µs) if the one at hand has lived half its life, or if the
    /// clock was set back before its start.
    pub(super) fn current(&self, now: UnixTime) -> Result<Leaf, IdentityError> {
        let mut current = self.current.lock();
        if let Some(leaf) = current.as_ref().filter(|leaf| !self.is_due(leaf, now)) {
            return Ok(leaf.clone());
        }
        let leaf = self.issue(now)?;
        Ok(current.insert(leaf).clone())
    }

    fn is_due(&self, leaf: &Leaf, now: UnixTime) -> bool {
        let half = leaf.validity.not_before.as_secs() + leaf.validity.length().as_secs() / 2;
        let could_last_longer = leaf.validity.not_after < self.bounds.not_after;
        now < leaf.validity.not_before || (now.as_secs() >= half && could_last_longer)
    }

    fn issue(&self, now: UnixTime) -> Result<Leaf, IdentityError> {
        // A clock outside of the identity's validity gives a leaf at its border; `check` then says what is wrong.
        let start = now.max(self.bounds.not_before).min(self.bounds.not_after);
        let mut validity = Validity::starting(start, self.lifetime);
        validity.not_after = validity.not_after.min(self.bounds.not_after);
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let issuer = Issuer::from_ca_cert_der(&self.identity, &self.identity_key)?;
        let certificate = leaf_params(validity)?
            .signed_by(&key, &issuer)?
            .der()
            .clone();
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(key.serialized_der()))?;
        let certified = CertifiedKey::new(vec![certificate, self.identity.clone()], signing);
        certified.keys_match()?;
        Ok(Leaf {
            certified: Arc::new(certified),
            validity,
        })
    }
}

fn leaf_params(validity: Validity) -> Result<CertificateParams, IdentityError> {
    let mut params = params("stoq leaf", validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::DnsName(
        SERVER_NAME.try_into().map_err(IdentityError::Issue)?,
    )];
    Ok(params)
}
