//! The certificate a node shows on its connections: issued by itself, short-lived, its key never on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType, SigningKey,
};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

use thiserror::Error;

use super::check::LEAF_LIFETIME_MAX;
use super::error::IdentityError;
use super::root::{Validity, params};
use super::tls::SERVER_NAME;

/// How often a node issues itself a new leaf. Each is valid for three times that, at most
/// [`LEAF_LIFETIME_MAX`]: a connection made just before the next one comes still has half of its leaf's life before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub(super) every: Duration,
    pub(super) validity: Duration,
}

/// An interval that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "leaf certificates every {every:?}: 10 s to 36 h are possible, for they are valid for at most 72 h"
)]
pub struct RotationError {
    every: Duration,
}

impl Rotation {
    /// Every 24 h, each leaf valid for 72 h.
    pub const DAILY: Self = Self {
        every: Duration::from_secs(24 * 3600),
        validity: LEAF_LIFETIME_MAX,
    };

    /// # Errors
    /// Less than 10 s, which costs a new key for each few handshakes, or more than 36 h.
    pub fn every(every: Duration) -> Result<Self, RotationError> {
        if every < Duration::from_secs(10) || every > LEAF_LIFETIME_MAX / 2 {
            return Err(RotationError { every });
        }
        Ok(Self {
            every,
            validity: every.saturating_mul(3).min(LEAF_LIFETIME_MAX),
        })
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self::DAILY
    }
}

/// A leaf in use.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) validity: Validity,
    /// Counts the times an operator asked for another leaf: a connection made under an earlier count is to be replaced.
    pub(super) epoch: u64,
}

/// Issues leaves, and keeps the one in use until the next is due.
///
/// A connection keeps the leaf it was made with; only later handshakes see the next one.
#[derive(Debug)]
pub(super) struct LeafIssuer {
    identity_key: KeyPair,
    identity: CertificateDer<'static>,
    /// No leaf begins before the identity or outlives it.
    bounds: Validity,
    rotation: Rotation,
    current: Mutex<Option<Leaf>>,
    epoch: AtomicU64,
}

impl LeafIssuer {
    pub(super) fn new(
        identity_key: KeyPair,
        identity: CertificateDer<'static>,
        bounds: Validity,
        rotation: Rotation,
    ) -> Self {
        Self {
            identity_key,
            identity,
            bounds,
            rotation,
            current: Mutex::new(None),
            epoch: AtomicU64::new(0),
        }
    }

    /// The leaf to show at `now`, issued anew (some 100 µs) if the one at hand has had its time, or if the clock was set
    /// back before its start.
    pub(super) fn current(&self, now: UnixTime) -> Result<Leaf, IdentityError> {
        let mut current = self.current.lock();
        if let Some(leaf) = current.as_ref().filter(|leaf| !self.is_due(leaf, now)) {
            return Ok(leaf.clone());
        }
        let leaf = self.issue(now)?;
        Ok(current.insert(leaf).clone())
    }

    /// Issues a leaf whether it is due or not, and has the connections made before replaced.
    pub(super) fn rotate(&self, now: UnixTime) -> Result<Leaf, IdentityError> {
        let mut current = self.current.lock();
        let mut leaf = self.issue(now)?;
        leaf.epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(current.insert(leaf).clone())
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The certificate that leaves are issued under.
    pub(super) fn identity(&self) -> &CertificateDer<'static> {
        &self.identity
    }

    /// Signs with the identity's own key.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Ok(self.identity_key.sign(message)?)
    }

    /// What follows from the identity's own key and this purpose.
    pub(super) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.identity_key.serialized_der())
    }

    fn is_due(&self, leaf: &Leaf, now: UnixTime) -> bool {
        let due = leaf.validity.not_before.as_secs() + self.rotation.every.as_secs();
        let could_last_longer = leaf.validity.not_after < self.bounds.not_after;
        now < leaf.validity.not_before || (now.as_secs() >= due && could_last_longer)
    }

    fn issue(&self, now: UnixTime) -> Result<Leaf, IdentityError> {
        // A clock outside of the identity's validity gives a leaf at its border; `check` then says what is wrong.
        let start = now.max(self.bounds.not_before).min(self.bounds.not_after);
        let mut validity = Validity::starting(start, self.rotation.validity);
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
            epoch: self.epoch(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_made_under_the_oldest_leaf_outlives_its_rotation() {
        for secs in [10, 3600, 86_400, 36 * 3600] {
            let rotation = Rotation::every(Duration::from_secs(secs)).unwrap();
            assert!(rotation.validity >= 2 * rotation.every, "{secs}");
            assert!(rotation.validity <= LEAF_LIFETIME_MAX);
        }
        assert_eq!(
            Rotation::every(Duration::from_secs(86_400)),
            Ok(Rotation::DAILY)
        );
        for secs in [0, 9, 36 * 3600 + 1] {
            let error = Rotation::every(Duration::from_secs(secs)).unwrap_err();
            assert!(error.to_string().contains("10 s to 36 h"), "{error}");
        }
    }
}
