//! A node's identity on disk: one PEM file with its key, its certificate and the cluster secret.

use std::fmt;
use std::path::Path;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;

use super::error::IdentityError;
use super::pem_file::{self, Blocks, CERTIFICATE, PRIVATE_KEY, SECRET};
use super::root::{ed25519, matching, secret};

/// Node key, identity certificate and cluster secret. Invariant: key and certificate belong together.
pub struct IdentityFile {
    key: KeyPair,
    certificate: CertificateDer<'static>,
    secret: [u8; 32],
}

impl fmt::Debug for IdentityFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityFile")
            .field("certificate_bytes", &self.certificate.len())
            .finish_non_exhaustive()
    }
}

impl IdentityFile {
    pub(super) fn new(
        key: KeyPair,
        certificate: CertificateDer<'static>,
        secret: [u8; 32],
    ) -> Result<Self, IdentityError> {
        matching(&key, &certificate)?;
        Ok(Self {
            key,
            certificate,
            secret,
        })
    }

    /// From a key made here and what a desk has signed for it.
    pub(crate) fn joined(
        key: KeyPair,
        certificate: CertificateDer<'static>,
        secret: [u8; 32],
    ) -> Result<Self, IdentityError> {
        Self::new(key, certificate, secret)
    }

    /// # Errors
    /// A block is missing, repeated or malformed, key and certificate do not belong together, or something has changed
    /// since the file was written.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let blocks = Blocks::parse(text)?;
        let key = ed25519(blocks.only(PRIVATE_KEY)?)?;
        let certificate = CertificateDer::from(blocks.only(CERTIFICATE)?.to_vec());
        let file = Self::new(key, certificate, secret(blocks.only(SECRET)?)?)?;
        blocks.intact()?;
        Ok(file)
    }

    /// The whole file, private key included.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem_file::encode_checked(&[
            (PRIVATE_KEY, self.key.serialized_der()),
            (CERTIFICATE, &self.certificate),
            (SECRET, &self.secret),
        ])
    }

    /// Writes the file with mode 0600 in one step: whoever reads it sees the old or the new one, whole.
    ///
    /// # Errors
    /// The file cannot be written; it is named.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        pem_file::write_private(path, &self.to_pem())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), with the file named; or others may read or replace it, or own it.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&pem_file::read_private(path)?).map_err(|error| error.at(path))
    }

    /// The identity certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn into_parts(self) -> (KeyPair, CertificateDer<'static>, [u8; 32]) {
        (self.key, self.certificate, self.secret)
    }
}
