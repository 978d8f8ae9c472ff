//! The development CA: made at first start in the state directory, so that a site works over HTTPS and HTTP/3 before
//! anyone has bought a certificate.
//!
//! Not for production: its key lies beside it (0600). The leaf lives [`DEV_LEAF_DAYS`] and names exactly the hosts
//! it is asked for plus the loopback ones; it is made anew when those change or a third of its life is left. The
//! leaf's key stays, so that its SPKI hash (which Chromium wants for HTTP/3 with a private CA) holds over restarts.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use super::TlsError;
use super::server::crypto_provider;
use super::store::load_pair;

/// Life of the CA, in days; whoever trusts it need not do so again for a while.
pub const DEV_CA_DAYS: u32 = 3650;
/// Life of a leaf, in days. Apple's and Chromium's limits for private roots are above 90.
pub const DEV_LEAF_DAYS: u32 = 90;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of phones and virtual machines run behind.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const LEAF_CERTIFICATE: &str = "leaf.pem";
const LEAF_KEY: &str = "leaf-key.pem";

/// A development CA on disk.
#[derive(Debug)]
pub struct DevCa {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A leaf it issued.
#[derive(Debug, Clone)]
pub struct DevLeaf {
    /// Chain and key, for [`CertificateStore::add`](super::CertificateStore::add).
    pub key: Arc<CertifiedKey>,
    /// The names it carries, sorted.
    pub names: Vec<String>,
    /// Base64 of the SHA-256 of its SubjectPublicKeyInfo, as Chromium's
    /// `--ignore-certificate-errors-spki-list` takes it.
    pub spki_sha256: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl DevCa {
    /// Opens the CA in `dir`, or makes it (the directory too, 0700). Made anew when less than a leaf's life of it is
    /// left.
    ///
    /// # Errors
    /// A file that cannot be read, written or understood. A damaged CA is not replaced: someone may trust it.
    pub fn open(dir: &Path, now: SystemTime) -> Result<Self, TlsError> {
        fs::create_dir_all(dir).map_err(TlsError::io(dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(TlsError::io(dir))?;
        let (certificate_path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        if certificate_path.exists() {
            let (pair, facts) = load_pair(&certificate_path, &key_path)?;
            if facts.not_after > now + DAY * DEV_LEAF_DAYS {
                let certificate = pair.end_entity_cert()?.clone().into_owned();
                let key = read_key(&key_path)?;
                let issuer =
                    Issuer::from_ca_cert_der(&certificate, key).map_err(TlsError::Issue)?;
                return Ok(Self {
                    dir: dir.into(),
                    issuer,
                    certificate,
                });
            }
        }
        Self::make(dir, now)
    }

    fn make(dir: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(TlsError::Issue)?;
        let mut params = validity(CertificateParams::default(), now, DEV_CA_DAYS)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "stoq development CA");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "stoq, this machine only");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(TlsError::Issue)?;
        // The key first: a CA without one is an error at the next start, a key without a CA is written over.
        write(&dir.join(CA_KEY), key.serialize_pem().as_bytes(), 0o600)?;
        write(
            &dir.join(CA_CERTIFICATE),
            certificate.pem().as_bytes(),
            0o644,
        )?;
        let der = certificate.der().clone();
        Ok(Self {
            dir: dir.into(),
            issuer: Issuer::new(params, key),
            certificate: der,
        })
    }

    /// The file a client has to trust.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join(CA_CERTIFICATE)
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The leaf for `hosts` (exact, or `*.` in front; others such as a bare `*` are left out) and for `localhost`,
    /// `127.0.0.1` and `::1`: the one on disk if it still fits, else a new one. Call it again once a day.
    ///
    /// # Errors
    /// A host name no certificate can carry, or a file that cannot be written.
    pub fn leaf(&self, hosts: &[String], now: SystemTime) -> Result<DevLeaf, TlsError> {
        let names = names(hosts)?;
        if let Some(leaf) = self.held(&names, now) {
            return Ok(leaf);
        }
        let key_path = self.dir.join(LEAF_KEY);
        let key = match read_key(&key_path) {
            Ok(key) => key,
            Err(_) => {
                let key = KeyPair::generate().map_err(TlsError::Issue)?;
                write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
                key
            }
        };
        let mut params = validity(CertificateParams::default(), now, DEV_LEAF_DAYS)?;
        params.subject_alt_names = sans(&names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "stoq development edge");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(TlsError::Issue)?;
        let chain = format!("{}{}", certificate.pem(), pem(&self.certificate));
        write(&self.dir.join(LEAF_CERTIFICATE), chain.as_bytes(), 0o644)?;
        self.held(&names, now).ok_or_else(|| TlsError::LeafUnfit)
    }

    /// The leaf on disk, if it is this CA's, names exactly `names` and has more than a third of its life left.
    fn held(&self, names: &[String], now: SystemTime) -> Option<DevLeaf> {
        let (key, facts) =
            load_pair(&self.dir.join(LEAF_CERTIFICATE), &self.dir.join(LEAF_KEY)).ok()?;
        let left = facts.not_after.duration_since(now).ok()?;
        let issuer_matches = key.cert.get(1) == Some(&self.certificate);
        let named = named(key.cert.first()?)?;
        if named != names || !issuer_matches || left < DAY * (DEV_LEAF_DAYS / 3) {
            return None;
        }
        let spki_sha256 = spki_sha256(key.cert.first()?)?;
        Some(DevLeaf {
            key,
            names: named,
            spki_sha256,
            not_after: facts.not_after,
        })
    }
}

/// The names a leaf for `hosts` carries: lower case, sorted, each once.
fn names(hosts: &[String]) -> Result<Vec<String>, TlsError> {
    let mut names: Vec<String> = hosts
        .iter()
        .map(|host| host.trim_end_matches('.').to_ascii_lowercase())
        .filter(|host| host != "*")
        .chain(
            [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]
            .map(|address| address.to_string()),
        )
        .chain(["localhost".to_owned()])
        .collect();
    names.sort();
    names.dedup();
    for name in &names {
        let plain = name.strip_prefix("*.").unwrap_or(name).to_owned();
        rustls::pki_types::ServerName::try_from(plain).map_err(|error| TlsError::HostName {
            host: name.clone(),
            reason: error.to_string(),
        })?;
    }
    Ok(names)
}

fn sans(names: &[String]) -> Result<Vec<SanType>, TlsError> {
    names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => {
                name.as_str()
                    .try_into()
                    .map(SanType::DnsName)
                    .map_err(|error: rcgen::Error| TlsError::HostName {
                        host: name.clone(),
                        reason: error.to_string(),
                    })
            }
        })
        .collect()
}

/// The names in a leaf, as [`names`] writes them.
fn named(leaf: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let mut names: Vec<String> = certificate
        .subject_alternative_name()
        .ok()??
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes)
                    .ok()
                    .map(|octets| IpAddr::from(octets).to_string()),
                _ => <[u8; 16]>::try_from(*bytes)
                    .ok()
                    .map(|octets| IpAddr::from(octets).to_string()),
            },
            _ => None,
        })
        .collect();
    names.sort();
    Some(names)
}

fn spki_sha256(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    // The TLS library's own SHA-256: no hash crate for one call.
    let SupportedCipherSuite::Tls13(suite) = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
    else {
        return None;
    };
    let hash = suite
        .common
        .hash_provider
        .hash(certificate.public_key().raw);
    Some(base64::engine::general_purpose::STANDARD.encode(hash.as_ref()))
}

fn validity(
    mut params: CertificateParams,
    now: SystemTime,
    days: u32,
) -> Result<CertificateParams, TlsError> {
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| TlsError::Clock)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch.saturating_sub(BACKDATE);
    params.not_after = epoch + since_epoch + DAY * days - BACKDATE;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Firefox refuses a serial number it has seen from this issuer, and the library derives it from the key, which
    // stays: so a random one, positive, below the 20 octets RFC 5280 allows.
    let mut serial = [0_u8; 16];
    crypto_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| TlsError::Random)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn read_key(path: &Path) -> Result<KeyPair, TlsError> {
    let pem = fs::read_to_string(path).map_err(TlsError::io(path))?;
    KeyPair::from_pem(&pem).map_err(|error| TlsError::Key {
        path: path.into(),
        reason: error.to_string(),
    })
}

fn pem(der: &CertificateDer<'_>) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, letter) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

/// Writes the whole file or leaves the old one.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let parted = path.with_extension("new");
    let attempt = || {
        let _ = fs::remove_file(&parted);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&parted)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&parted, path)?;
        path.parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    attempt().map_err(TlsError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{ServerName, UnixTime};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn accepted(ca: &DevCa, leaf: &DevLeaf, name: &str, at: SystemTime) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(ca.certificate_path()).unwrap())
            .unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), crypto_provider().clone());
        let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let chain = &leaf.key.cert;
        verifier
            .build()
            .unwrap()
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], at)
            .is_ok()
    }

    #[test]
    fn a_client_that_trusts_the_ca_accepts_the_leaf_for_its_names_only() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::open(dir.path(), now()).unwrap();
        let leaf = ca
            .leaf(
                &["Example.test".into(), "*.example.test".into(), "*".into()],
                now(),
            )
            .unwrap();
        for name in [
            "localhost",
            "127.0.0.1",
            "::1",
            "example.test",
            "www.example.test",
        ] {
            assert!(accepted(&ca, &leaf, name, now()), "{name}");
        }
        assert!(!accepted(&ca, &leaf, "other.test", now()));
        assert!(
            !accepted(&ca, &leaf, "localhost", now() + DAY * DEV_LEAF_DAYS),
            "lives at most 90 days"
        );
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::open(dir.path(), now()).unwrap();
        ca.leaf(&[], now()).unwrap();
        for file in [CA_KEY, LEAF_KEY] {
            let mode = fs::metadata(dir.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn ca_and_leaf_survive_a_restart_and_the_leaf_changes_with_its_names_but_not_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["a.test".to_owned()];
        let (first_ca, first) = {
            let ca = DevCa::open(dir.path(), now()).unwrap();
            (ca.certificate().clone(), ca.leaf(&hosts, now()).unwrap())
        };
        let ca = DevCa::open(dir.path(), now() + DAY).unwrap();
        assert_eq!(*ca.certificate(), first_ca);
        let again = ca.leaf(&hosts, now() + DAY).unwrap();
        assert_eq!(again.key.cert, first.key.cert);

        let renamed = ca.leaf(&["b.test".to_owned()], now() + DAY).unwrap();
        assert_ne!(renamed.key.cert, first.key.cert);
        assert_eq!(renamed.spki_sha256, first.spki_sha256);
        let at = now() + DAY;
        assert!(accepted(&ca, &renamed, "b.test", at) && !accepted(&ca, &renamed, "a.test", at));
    }

    #[test]
    fn a_leaf_near_its_end_is_made_anew_and_so_is_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::open(dir.path(), now()).unwrap();
        let first = ca.leaf(&[], now()).unwrap();
        let late = now() + DAY * (DEV_LEAF_DAYS - DEV_LEAF_DAYS / 3);
        let second = ca.leaf(&[], late).unwrap();
        assert!(second.not_after > first.not_after);

        let end_of_ca = now() + DAY * (DEV_CA_DAYS - DEV_LEAF_DAYS / 2);
        let next = DevCa::open(dir.path(), end_of_ca).unwrap();
        assert_ne!(next.certificate(), ca.certificate());
        let leaf = next.leaf(&[], end_of_ca).unwrap();
        assert!(
            accepted(&next, &leaf, "localhost", end_of_ca),
            "a leaf of the old CA is not kept"
        );
    }

    #[test]
    fn a_damaged_ca_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        DevCa::open(dir.path(), now()).unwrap();
        fs::write(dir.path().join(CA_KEY), "nonsense").unwrap();
        assert!(DevCa::open(dir.path(), now()).is_err());
        assert_eq!(
            fs::read_to_string(dir.path().join(CA_KEY)).unwrap(),
            "nonsense"
        );
    }

    #[test]
    fn a_host_no_certificate_can_carry_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::open(dir.path(), now()).unwrap();
        let error = ca
            .leaf(&["white space.test".into()], now())
            .unwrap_err()
            .to_string();
        assert!(error.contains("white space.test"), "{error}");
    }
}
