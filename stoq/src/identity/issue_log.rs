//! Which identities a root has signed: a file of lines, each signed by the root and chained to the one before.
//!
//! ```text
//! {"seq":0,"time":"…","prev":"<fingerprint of the root>","node":"…","name":"edge-1", … ,"signature":"…"}
//! {"seq":1,"time":"…","prev":"<hash of line 0>", … ,"signature":"…"}
//! ```
//!
//! `prev` is the BLAKE3 of the whole line before, without its end; of the first line, of the root certificate. The
//! signature is the root key's, Ed25519, over [`CONTEXT`] and the line up to `,"signature"`. So whoever lacks the root key cannot
//! change, insert, reorder or remove a line without [`IssueLog::verify`] finding it, but for lines at the end: a
//! copy that was cut short is found by comparing it with another one ([`IssueLog::compare`]) or with a hash written down elsewhere.
//!
//! A line is on the disk before the identity it speaks of is handed out. What was signed past the log (by whoever has
//! the root key) is not in it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::audit::rfc3339;
use super::error::IdentityError;
use super::hex;
use super::id::NodeId;
use super::root::{ClusterRoot, NODE_URI, ROLE_URI, RootCertificate, Validity, uris};

/// What is signed begins with this, so that no signature of a certificate can stand for one of a line.
const CONTEXT: &[u8] = b"stoq issue log 1\0";

/// 64 KiB: an identity with every role allowed takes some 27 KiB.
const LINE_BYTES_MAX: u64 = 64 * 1024;

const SIGNATURE: &str = ",\"signature\":\"";

/// An identity that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Issued {
    /// Counted from 0.
    pub seq: u64,
    /// When, as the clock of the signing machine said: RFC 3339, UTC.
    pub time: String,
    /// Hash of the line before, in hexadecimal digits.
    pub prev: String,
    /// The node's id, likewise.
    pub node: String,
    /// The node's name.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The first and the last second of its validity: RFC 3339, UTC.
    pub valid: [String; 2],
    /// BLAKE3 of the certificate, in hexadecimal digits.
    pub certificate: String,
    /// What it was signed for: `init`, or `join` and the token's id.
    pub via: String,
}

/// The end of a log: what has to be known to tell a copy that was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Lines so far.
    pub entries: u64,
    /// Hash of the last one; of an empty log, the root's fingerprint.
    pub hash: [u8; 32],
}

impl Head {
    /// The hash as hexadecimal digits.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        hex::encode(&self.hash)
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LineFault {
    /// Not of the form above.
    #[error("is no entry: {0}")]
    Malformed(String),
    /// Changed, or not by this root.
    #[error("is not as the root signed it")]
    Signature,
    /// The line before is not the one that stood there when it was written.
    #[error("does not follow the line before it: something was changed, removed or put in between")]
    Chain,
    /// As above.
    #[error("is number {got}, where {want} belongs")]
    Sequence {
        /// Its number.
        got: u64,
        /// The number due.
        want: u64,
    },
    /// The file ends within it.
    #[error("is cut off")]
    Torn,
}

/// Why a log cannot be written to, or is not to be believed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IssueLogError {
    /// The file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{path}: line {line} {fault}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// How.
        fault: LineFault,
    },
    /// Two copies that a root signed but that are not of one log.
    #[error("the copies part at line {line}: the root signed on two machines, or from an old copy")]
    Fork {
        /// The first line that differs, counted from 1.
        line: u64,
    },
    /// Another process writes to it.
    #[error("{0}: in use by another process")]
    Locked(PathBuf),
    /// The certificate cannot be made or read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A log that is written to. Others are kept from writing for as long as it is open.
#[derive(Debug)]
pub struct IssueLog {
    path: PathBuf,
    file: File,
    head: Head,
    /// Bytes of the lines that count.
    bytes: u64,
}

impl IssueLog {
    /// Opens the log, or makes it (mode 0600), and verifies what is in it. Half a line at the end, which a crash left before
    /// its identity was handed out, is taken away.
    ///
    /// # Errors
    /// See [`IssueLogError`]. A log that does not verify is not written to.
    pub fn open(path: &Path, root: &RootCertificate) -> Result<Self, IssueLogError> {
        let at = |source| IssueLogError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(at)?;
        file.try_lock()
            .map_err(|_| IssueLogError::Locked(path.to_owned()))?;
        let mut whole = 0;
        let result = read(path, &file, root, &mut |_, line, _| {
            whole += line.len() as u64 + 1;
        });
        let head = match result {
            Ok(head) => head,
            Err((
                head,
                IssueLogError::Line {
                    fault: LineFault::Torn,
                    ..
                },
            )) => {
                tracing::warn!(path = %path.display(), "half a line at the end is taken away");
                file.set_len(whole).map_err(at)?;
                head
            }
            Err((_, error)) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            head,
            bytes: whole,
        })
    }

    /// Writes a line about this certificate, and waits until it is on the disk.
    ///
    /// # Errors
    /// It cannot be written or signed.
    pub(super) fn append(
        &mut self,
        root: &ClusterRoot,
        certificate: &CertificateDer<'_>,
        via: &str,
        now: UnixTime,
    ) -> Result<(), IssueLogError> {
        let entry = self.entry(certificate, via, now)?;
        let malformed = |why: &dyn std::fmt::Display| IdentityError::Pem(why.to_string());
        let mut line = serde_json::to_string(&entry).map_err(|error| malformed(&error))?;
        // The closing brace comes back behind the signature.
        line.pop();
        let signature = root.sign_bytes(CONTEXT, line.as_bytes())?;
        line.push_str(SIGNATURE);
        line.push_str(&hex::encode(&signature));
        line.push_str("\"}");
        let hash = *blake3::hash(line.as_bytes()).as_bytes();
        line.push('\n');
        let at = |source| IssueLogError::Io {
            path: self.path.clone(),
            source,
        };
        // Should it not have gone away when it was written in part.
        self.file.set_len(self.bytes).map_err(at)?;
        let written = self.file.write_all(line.as_bytes());
        if let Err(source) = written.and_then(|()| self.file.sync_all()) {
            // Nobody gets its identity. What is there of it must not stand before the next line, nor be taken for one that was.
            let _ = self.file.set_len(self.bytes);
            return Err(at(source));
        }
        self.bytes += line.len() as u64;
        self.head = Head {
            entries: self.head.entries + 1,
            hash,
        };
        Ok(())
    }

    fn entry(
        &self,
        certificate: &CertificateDer<'_>,
        via: &str,
        now: UnixTime,
    ) -> Result<Issued, IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| IdentityError::Pem(format!("certificate: {error}")))?;
        let validity = Validity::of(&parsed);
        let after = |prefix: &'static str| {
            uris(&parsed).filter_map(move |uri| uri.strip_prefix(prefix).map(ToOwned::to_owned))
        };
        Ok(Issued {
            seq: self.head.entries,
            time: rfc3339(now),
            prev: self.head.hash_hex(),
            node: NodeId::of_spki(parsed.public_key().raw).to_string(),
            name: after(NODE_URI).next().unwrap_or_default(),
            roles: after(ROLE_URI).collect(),
            valid: validity.dates(),
            certificate: hex::encode(blake3::hash(certificate).as_bytes()),
            via: via.to_owned(),
        })
    }

    /// Where it ends now.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Reads a log from its first to its last line and calls `each` with every entry that is found good.
    ///
    /// # Errors
    /// [`IssueLogError::Line`] for the first line that is not as it was written; or the file cannot be read.
    pub fn verify(
        path: &Path,
        root: &RootCertificate,
        each: &mut dyn FnMut(&Issued),
    ) -> Result<Head, IssueLogError> {
        let file = open(path)?;
        read(path, &file, root, &mut |entry, _, _| each(entry)).map_err(|(_, error)| error)
    }

    /// Verifies two copies of a log and tells whether one is the beginning of the other. Gives the end of each.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), or [`IssueLogError::Fork`].
    pub fn compare(
        one: &Path,
        other: &Path,
        root: &RootCertificate,
    ) -> Result<(Head, Head), IssueLogError> {
        let of_one = Self::verify(one, root, &mut |_| ())?;
        let of_other = Self::verify(other, root, &mut |_| ())?;
        // Read side by side: both are good, so a line that differs is one the root signed twice.
        let (mut left, mut right) = (BufReader::new(open(one)?), BufReader::new(open(other)?));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IssueLogError::Io { path, source }
        };
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for line in 1..=of_one.entries.min(of_other.entries) {
            mine.clear();
            theirs.clear();
            left.read_until(b'\n', &mut mine).map_err(at(one))?;
            right.read_until(b'\n', &mut theirs).map_err(at(other))?;
            if mine != theirs {
                return Err(IssueLogError::Fork { line });
            }
        }
        Ok((of_one, of_other))
    }
}

fn open(path: &Path) -> Result<File, IssueLogError> {
    File::open(path).map_err(|source| IssueLogError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Calls `each` with entry, line and hash of every good line. An error comes with the end of what was good.
fn read(
    path: &Path,
    file: &File,
    root: &RootCertificate,
    each: &mut dyn FnMut(&Issued, &str, &[u8; 32]),
) -> Result<Head, (Head, IssueLogError)> {
    let mut head = Head {
        entries: 0,
        hash: root.fingerprint(),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let io = |source| IssueLogError::Io {
            path: path.to_owned(),
            source,
        };
        let fault = |head: Head, fault| {
            let line = head.entries + 1;
            let path = path.to_owned();
            (head, IssueLogError::Line { path, line, fault })
        };
        let got = io::Read::take(&mut reader, LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| (head, io(error)))?;
        if got == 0 {
            return Ok(head);
        }
        if line.pop() != Some(b'\n') {
            let why = if got as u64 > LINE_BYTES_MAX {
                LineFault::Malformed("longer than 65536 bytes".into())
            } else {
                LineFault::Torn
            };
            return Err(fault(head, why));
        }
        let text = std::str::from_utf8(&line)
            .map_err(|error| fault(head, LineFault::Malformed(error.to_string())))?;
        let entry = entry(text, root).map_err(|why| fault(head, why))?;
        if entry.seq != head.entries {
            let (got, want) = (entry.seq, head.entries);
            return Err(fault(head, LineFault::Sequence { got, want }));
        }
        if entry.prev != head.hash_hex() {
            return Err(fault(head, LineFault::Chain));
        }
        let hash = *blake3::hash(&line).as_bytes();
        each(&entry, text, &hash);
        head = Head {
            entries: head.entries + 1,
            hash,
        };
    }
}

/// The entry of a line that the root signed.
fn entry(line: &str, root: &RootCertificate) -> Result<Issued, LineFault> {
    let malformed = |why: &str| LineFault::Malformed(why.to_owned());
    let (body, rest) = line
        .rsplit_once(SIGNATURE)
        .ok_or_else(|| malformed("no signature"))?;
    let signature: [u8; 64] = rest
        .strip_suffix("\"}")
        .and_then(hex::decode)
        .ok_or_else(|| malformed("no signature"))?;
    let key = root.ed25519_key().ok_or(LineFault::Signature)?;
    let signed = [CONTEXT, body.as_bytes()].concat();
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&signed, &signature)
        .map_err(|_| LineFault::Signature)?;
    serde_json::from_str(&format!("{body}}}"))
        .map_err(|error| LineFault::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::registrar::Registrar;
    use super::super::role::Role;
    use super::*;

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
    }

    fn year() -> Validity {
        Validity::starting(now(), ClusterRoot::IDENTITY_LIFETIME)
    }

    /// A log with these nodes in it, and its root.
    fn log(path: &Path, names: &[&str]) -> RootCertificate {
        let root = ClusterRoot::generate("demo", year()).unwrap();
        let certificate = root.certificate().clone();
        let mut registrar = Registrar::open(root, path).unwrap();
        for name in names {
            registrar
                .issue(name, &[Role::Edge, Role::Admin], year(), now())
                .unwrap();
        }
        certificate
    }

    fn fault(path: &Path, root: &RootCertificate) -> (u64, LineFault) {
        match IssueLog::verify(path, root, &mut |_| ()) {
            Err(IssueLogError::Line { line, fault, .. }) => (line, fault),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn log_tells_who_was_issued_what_and_goes_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issued.log");
        let root = ClusterRoot::generate("demo", year()).unwrap();
        let (key, pem) = (root.to_pem_key(), root.to_pem_cert());
        let mut files = Vec::new();
        for name in ["edge-1", "edge-2", "shield-1"] {
            let root = ClusterRoot::from_pem(&key, &pem).unwrap();
            let mut registrar = Registrar::open(root, &path).unwrap();
            files.push(registrar.issue(name, &[Role::Edge], year(), now()).unwrap());
        }
        let mut entries = Vec::new();
        let head = IssueLog::verify(&path, root.certificate(), &mut |entry| {
            entries.push(entry.clone());
        })
        .unwrap();
        assert_eq!(head.entries, 3);
        for (entry, file) in entries.iter().zip(&files) {
            let hash = blake3::hash(file.certificate());
            assert_eq!(entry.certificate, hash.to_hex().as_str());
            assert_eq!(entry.time, "2027-01-15T08:00:00Z");
            assert_eq!(
                (&entry.roles[..], &*entry.via),
                (&["edge".to_owned()][..], "init")
            );
        }
        assert_eq!(entries[2].name, "shield-1");
    }

    #[test]
    fn every_changed_byte_is_found_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issued.log");
        let root = log(&path, &["edge-1", "edge-2", "edge-3"]);
        let good = std::fs::read(&path).unwrap();
        let line_of =
            |at: usize| good[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            std::fs::write(&path, &bad).unwrap();
            let (line, _) = fault(&path, &root);
            assert!(line <= line_of(at), "byte {at}: line {line}");
            assert!(line + 1 >= line_of(at), "byte {at}: line {line}");
        }
    }

    #[test]
    fn what_is_left_of_a_line_that_could_not_be_written_is_before_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issued.log");
        let root = ClusterRoot::generate("demo", year()).unwrap();
        let certificate = root.certificate().clone();
        let mut registrar = Registrar::open(root, &path).unwrap();
        for left in ["", "{\"seq\":1,", "{\"seq\":1}\n"] {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(left.as_bytes()).unwrap();
            registrar
                .issue("edge", &[Role::Edge], year(), now())
                .unwrap();
        }
        drop(registrar);
        let head = IssueLog::verify(&path, &certificate, &mut |_| ()).unwrap();
        assert_eq!(head.entries, 3);
    }

    #[test]
    fn removed_reordered_repeated_and_foreign_lines_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issued.log");
        let root = log(&path, &["edge-1", "edge-2", "edge-3"]);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (name, order) in [
            ("without the first", &[1, 2][..]),
            ("without the second", &[0, 2]),
            ("reordered", &[0, 2, 1]),
            ("repeated", &[0, 1, 1]),
        ] {
            let changed: String = order.iter().map(|n| format!("{}\n", lines[*n])).collect();
            std::fs::write(&path, changed).unwrap();
            let (_, found) = fault(&path, &root);
            let is_order = matches!(found, LineFault::Sequence { .. } | LineFault::Chain);
            assert!(is_order, "{name}: {found}");
        }
        // A log of another root, of the same name.
        std::fs::remove_file(&path).unwrap();
        log(&path, &["edge-1"]);
        assert_eq!(fault(&path, &root), (1, LineFault::Signature));
    }

    #[test]
    fn shortened_copy_is_told_from_the_whole_and_a_fork_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, short) = (folder.path().join("whole"), folder.path().join("short"));
        let root = ClusterRoot::generate("demo", year()).unwrap();
        let (key, pem) = (root.to_pem_key(), root.to_pem_cert());
        let registrar = |path: &Path| {
            Registrar::open(ClusterRoot::from_pem(&key, &pem).unwrap(), path).unwrap()
        };
        let issue = |path: &Path, name: &str| {
            registrar(path).issue(name, &[], year(), now()).unwrap();
        };
        ["a", "b"].iter().for_each(|name| issue(&whole, name));
        std::fs::copy(&whole, &short).unwrap();
        issue(&whole, "c");
        let certificate = root.certificate();
        for (one, other, entries) in [(&whole, &short, (3, 2)), (&short, &whole, (2, 3))] {
            let (one, other) = IssueLog::compare(one, other, certificate).unwrap();
            assert_eq!((one.entries, other.entries), entries);
        }
        issue(&short, "d");
        for (one, other) in [(&whole, &short), (&short, &whole)] {
            let found = IssueLog::compare(one, other, certificate);
            assert!(
                matches!(found, Err(IssueLogError::Fork { line: 3 })),
                "{found:?}"
            );
        }
        // The one that goes on longer differs earlier.
        issue(&short, "e");
        for (one, other) in [(&whole, &short), (&short, &whole)] {
            let found = IssueLog::compare(one, other, certificate);
            assert!(
                matches!(found, Err(IssueLogError::Fork { line: 3 })),
                "{found:?}"
            );
        }
    }

    #[test]
    fn half_a_line_of_a_crash_is_taken_away_and_a_changed_log_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issued.log");
        let root = ClusterRoot::generate("demo", year()).unwrap();
        let (key, pem) = (root.to_pem_key(), root.to_pem_cert());
        let open = || Registrar::open(ClusterRoot::from_pem(&key, &pem).unwrap(), &path);
        open().unwrap().issue("a", &[], year(), now()).unwrap();
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&good[..], &good[..40]].concat()).unwrap();
        assert_eq!(fault(&path, root.certificate()), (2, LineFault::Torn));
        let mut registrar = open().unwrap();
        assert!(matches!(open(), Err(IssueLogError::Locked(_))));
        registrar.issue("b", &[], year(), now()).unwrap();
        drop(registrar);
        let head = IssueLog::verify(&path, root.certificate(), &mut |_| ()).unwrap();
        assert_eq!(head.entries, 2);

        let mut changed = std::fs::read(&path).unwrap();
        changed[10] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert!(matches!(open(), Err(IssueLogError::Line { line: 1, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), changed);
    }
}
