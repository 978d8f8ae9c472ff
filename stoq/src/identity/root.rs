//! The cluster root: its public certificate, which every node holds, and its private half, which signs identities.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SigningKey,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::audit::rfc3339;
use super::error::IdentityError;
use super::file::IdentityFile;
use super::names;
use super::pem_file::{self, Blocks, CERTIFICATE, PRIVATE_KEY, SECRET};
use super::role::{ROLES_MAX, Role};

pub(super) const CLUSTER_URI: &str = "stoq:cluster:";
pub(super) const NODE_URI: &str = "stoq:node:";
pub(super) const ROLE_URI: &str = "stoq:role:";

/// Seconds from 1970 to 9999-12-31, the last day a certificate can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// When a certificate is valid; both ends included, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: UnixTime,
    /// The last second.
    pub not_after: UnixTime,
}

impl Validity {
    /// From `start`, for `length`.
    #[must_use]
    pub fn starting(start: UnixTime, length: Duration) -> Self {
        let end = start
            .as_secs()
            .saturating_add(length.as_secs())
            .min(LAST_SECOND);
        Self {
            not_before: start,
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(end)),
        }
    }

    /// Its first and its last second for people: RFC 3339, UTC.
    #[must_use]
    pub fn dates(&self) -> [String; 2] {
        [rfc3339(self.not_before), rfc3339(self.not_after)]
    }

    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let seconds = |time: x509_parser::time::ASN1Time| {
            UnixTime::since_unix_epoch(Duration::from_secs(
                u64::try_from(time.timestamp()).unwrap_or(0),
            ))
        };
        let validity = certificate.validity();
        Self {
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
        }
    }

    pub(super) fn length(&self) -> Duration {
        Duration::from_secs(
            self.not_after
                .as_secs()
                .saturating_sub(self.not_before.as_secs()),
        )
    }

    /// Two thirds into it.
    pub(super) fn renew_after(&self) -> UnixTime {
        let left = self.length().as_secs() / 3;
        UnixTime::since_unix_epoch(Duration::from_secs(
            self.not_after.as_secs().saturating_sub(left),
        ))
    }

    pub(super) fn put(&self, params: &mut CertificateParams) -> Result<(), IdentityError> {
        if self.not_after < self.not_before {
            return Err(IdentityError::EmptyValidity);
        }
        let date = |time: UnixTime| {
            date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_secs().min(LAST_SECOND))
        };
        params.not_before = date(self.not_before);
        params.not_after = date(self.not_after);
        Ok(())
    }
}

/// The public half of a cluster root: what a node trusts. Cheap to share behind an `Arc`.
#[derive(Debug, Clone)]
pub struct RootCertificate {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    cluster: String,
    validity: Validity,
}

impl RootCertificate {
    /// Reads the `CERTIFICATE` block of a PEM text; other blocks are ignored.
    ///
    /// # Errors
    /// The text is not PEM, holds no or several certificates, or one that is no cluster root.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let der = Blocks::parse(text)?.only(CERTIFICATE)?.to_vec();
        Self::from_der(CertificateDer::from(der))
    }

    /// Reads a root file. It holds nothing private, so its mode is not looked at.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), with the file named, or the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&pem_file::read_public(path)?).map_err(|error| error.at(path))
    }

    /// # Errors
    /// The certificate does not parse, signs nothing (not a CA), or names no cluster.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, IdentityError> {
        let malformed = |why: &dyn fmt::Display| IdentityError::Root(why.to_string());
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"bytes follow the certificate"));
        }
        if !parsed.is_ca() {
            return Err(malformed(&"the certificate may not sign others"));
        }
        let cluster = uris(&parsed)
            .find_map(|uri| uri.strip_prefix(CLUSTER_URI))
            .ok_or_else(|| malformed(&"it names no cluster (URI stoq:cluster:<name>)"))?
            .to_owned();
        names::plain("cluster name", &cluster)?;
        let validity = Validity::of(&parsed);
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| malformed(&error))?
            .to_owned();
        Ok(Self {
            anchor,
            cluster,
            validity,
            der,
        })
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// When the root is valid. No peer is accepted outside of it.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// BLAKE3 of the certificate: what an operator compares, and what a join token will carry.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        *blake3::hash(&self.der).as_bytes()
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as PEM: the content of the root file that each node is given.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem_file::encode(&[(CERTIFICATE, &self.der)])
    }

    /// The 32 bytes of its key; `None` if that is of another algorithm than Ed25519, which no root of ours is.
    pub(super) fn ed25519_key(&self) -> Option<[u8; 32]> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        let key = parsed.public_key();
        if key.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
            return None;
        }
        key.subject_public_key.data.as_ref().try_into().ok()
    }

    /// Writes the root file (0644) in one step.
    ///
    /// # Errors
    /// It cannot be written; it is named.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        pem_file::write_public(path, &self.to_pem())
    }

    pub(super) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }
}

/// The whole cluster root: signs the identities of nodes, and holds the secret that all nodes share. It belongs on
/// the operator's machine; a running node needs only its [`RootCertificate`].
pub struct ClusterRoot {
    key: KeyPair,
    certificate: RootCertificate,
    secret: [u8; 32],
}

impl fmt::Debug for ClusterRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterRoot")
            .field("cluster", &self.certificate.cluster)
            .finish_non_exhaustive()
    }
}

impl ClusterRoot {
    /// A root's lifetime when none is given: ten years of 365 days.
    pub const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

    /// An identity's lifetime when none is given: one year of 365 days.
    pub const IDENTITY_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

    /// Makes a new root with a new key and a new cluster secret.
    ///
    /// # Errors
    /// The name cannot stand in a certificate, or the validity is empty.
    pub fn generate(cluster: &str, validity: Validity) -> Result<Self, IdentityError> {
        names::plain("cluster name", cluster)?;
        Self::from_key(KeyPair::generate_for(&PKCS_ED25519)?, cluster, validity)
    }

    /// Another cluster under the same key, which no operator should make but somebody will.
    #[cfg(test)]
    pub(super) fn for_cluster(&self, cluster: &str) -> Result<Self, IdentityError> {
        Self::from_key(
            ed25519(self.key.serialized_der())?,
            cluster,
            self.certificate.validity,
        )
    }

    fn from_key(key: KeyPair, cluster: &str, validity: Validity) -> Result<Self, IdentityError> {
        let mut params = params("stoq cluster root", validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(CLUSTER_URI, cluster)?];
        let der = params.self_signed(&key)?.der().clone();
        Ok(Self {
            certificate: RootCertificate::from_der(der)?,
            key,
            secret: rand::random(),
        })
    }

    /// Reads a root from its private PEM (see [`to_pem_key`](Self::to_pem_key)) and its certificate.
    ///
    /// # Errors
    /// A block is missing, repeated or malformed, key and certificate do not belong together, or something has changed
    /// since the file was written.
    pub fn from_pem(key_pem: &str, certificate_pem: &str) -> Result<Self, IdentityError> {
        Self::from_blocks(key_pem, RootCertificate::from_pem(certificate_pem)?)
    }

    fn from_blocks(key_pem: &str, certificate: RootCertificate) -> Result<Self, IdentityError> {
        let blocks = Blocks::parse(key_pem)?;
        let key = ed25519(blocks.only(PRIVATE_KEY)?)?;
        let root = Self::from_parts(key, secret(blocks.only(SECRET)?)?, certificate)?;
        blocks.intact()?;
        Ok(root)
    }

    fn from_parts(
        key: KeyPair,
        secret: [u8; 32],
        certificate: RootCertificate,
    ) -> Result<Self, IdentityError> {
        matching(&key, certificate.der())?;
        Ok(Self {
            key,
            certificate,
            secret,
        })
    }

    /// The private half as PEM: root key and cluster secret. Whoever holds it can sign any identity.
    #[must_use]
    pub fn to_pem_key(&self) -> String {
        pem_file::encode_checked(&[
            (PRIVATE_KEY, self.key.serialized_der()),
            (SECRET, &self.secret),
        ])
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn to_pem_cert(&self) -> String {
        self.certificate.to_pem()
    }

    /// Writes the private half (mode 0600) and the certificate (0644), each in one step.
    ///
    /// # Errors
    /// A file cannot be written; it is named.
    pub fn save(&self, key_path: &Path, certificate_path: &Path) -> Result<(), IdentityError> {
        pem_file::write_private(key_path, &self.to_pem_key())?;
        self.certificate.save(certificate_path)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), with the file named; or others may read or replace the key file, or own it.
    pub fn load(key_path: &Path, certificate_path: &Path) -> Result<Self, IdentityError> {
        let text = pem_file::read_private(key_path)?;
        let certificate = RootCertificate::load(certificate_path)?;
        Self::from_blocks(&text, certificate).map_err(|error| error.at(key_path))
    }

    /// The public half.
    #[must_use]
    pub fn certificate(&self) -> &RootCertificate {
        &self.certificate
    }

    /// Makes a key for a node and signs its identity. The file also carries the cluster secret.
    ///
    /// # Errors
    /// The name or a role cannot stand in a certificate, there are too many roles, or the validity is empty.
    pub fn issue(
        &self,
        node: &str,
        roles: &[Role],
        validity: Validity,
    ) -> Result<IdentityFile, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = self.sign(&key, node, roles, validity)?;
        IdentityFile::new(key, certificate, self.secret)
    }

    /// Signs an identity for a public key made elsewhere, given as SubjectPublicKeyInfo (DER).
    pub(super) fn sign_key(
        &self,
        spki: &[u8],
        node: &str,
        roles: &[Role],
        validity: Validity,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let key = SubjectPublicKeyInfo::from_der(spki)?;
        if key.algorithm() != &PKCS_ED25519 {
            return Err(IdentityError::Key("of another algorithm".into()));
        }
        self.sign(&key, node, roles, validity)
    }

    /// Signs bytes that are no certificate; `context` tells what kind they are of.
    pub(super) fn sign_bytes(
        &self,
        context: &[u8],
        bytes: &[u8],
    ) -> Result<Vec<u8>, IdentityError> {
        Ok(self.key.sign(&[context, bytes].concat())?)
    }

    /// The 32 bytes that all nodes share.
    pub(crate) fn cluster_secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Signs an identity for a public key.
    fn sign(
        &self,
        key: &impl PublicKeyData,
        node: &str,
        roles: &[Role],
        validity: Validity,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        possible(node, roles)?;
        let mut params = params(node, validity)?;
        // The node signs its leaves with this key and nothing below them.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![
            uri(CLUSTER_URI, &self.certificate.cluster)?,
            uri(NODE_URI, node)?,
        ];
        for role in roles {
            params
                .subject_alt_names
                .push(uri(ROLE_URI, &role.to_string())?);
        }
        self.sign_params(&params, key)
    }

    pub(super) fn sign_params(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let issuer = Issuer::from_ca_cert_der(self.certificate.der(), &self.key)?;
        Ok(params.signed_by(key, &issuer)?.der().clone())
    }
}

/// Whether a node of this name with these roles can be.
pub(crate) fn possible(node: &str, roles: &[Role]) -> Result<(), IdentityError> {
    names::plain("node name", node)?;
    if roles.len() > ROLES_MAX {
        return Err(IdentityError::TooManyRoles(roles.len()));
    }
    for role in roles {
        if let Role::Fetch(site) = role {
            names::site(site)?;
        }
    }
    Ok(())
}

/// Parameters that all certificates of the house share.
pub(super) fn params(
    common_name: &str,
    validity: Validity,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    // 127 random bits: the top one is clear, so the number is positive in 16 bytes.
    params.serial_number = Some(SerialNumber::from_slice(
        &(rand::random::<u128>() >> 1).to_be_bytes(),
    ));
    validity.put(&mut params)?;
    Ok(params)
}

pub(super) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names
        .into_iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
}

pub(super) fn ed25519(der: &[u8]) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pkcs8_der_and_sign_algo(&der.into(), &PKCS_ED25519)
        .map_err(|error| IdentityError::Key(error.to_string()))
}

pub(super) fn secret(bytes: &[u8]) -> Result<[u8; 32], IdentityError> {
    bytes
        .try_into()
        .map_err(|_| IdentityError::Secret(bytes.len()))
}

/// Whether this private key is the one the certificate speaks of.
pub(super) fn matching(
    key: &KeyPair,
    certificate: &CertificateDer<'_>,
) -> Result<(), IdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| IdentityError::Pem(format!("certificate: {error}")))?;
    if parsed.public_key().raw == key.subject_public_key_info() {
        Ok(())
    } else {
        Err(IdentityError::KeyMismatch)
    }
}

fn uri(prefix: &str, name: &str) -> Result<SanType, IdentityError> {
    Ok(SanType::URI(
        format!("{prefix}{name}")
            .try_into()
            .map_err(IdentityError::Issue)?,
    ))
}
