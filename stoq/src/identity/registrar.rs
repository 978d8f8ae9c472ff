//! The root together with its log: nothing is signed through it that the log does not know.

use std::path::Path;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::file::IdentityFile;
use super::issue_log::{Head, IssueLog, IssueLogError};
use super::role::Role;
use super::root::{ClusterRoot, Validity};

/// Signs identities, each written to the log before it is handed out.
#[derive(Debug)]
pub struct Registrar {
    root: ClusterRoot,
    log: IssueLog,
}

impl Registrar {
    /// Opens the log of this root, or begins one.
    ///
    /// # Errors
    /// The log cannot be written to, or does not verify.
    pub fn open(root: ClusterRoot, log: &Path) -> Result<Self, IssueLogError> {
        let log = IssueLog::open(log, root.certificate())?;
        Ok(Self { root, log })
    }

    /// Makes a key for a node and signs its identity, as [`ClusterRoot::issue`] does.
    ///
    /// # Errors
    /// As there, or the log cannot be written; then nothing was issued.
    pub fn issue(
        &mut self,
        node: &str,
        roles: &[Role],
        validity: Validity,
        now: UnixTime,
    ) -> Result<IdentityFile, IssueLogError> {
        let file = self.root.issue(node, roles, validity)?;
        self.log
            .append(&self.root, file.certificate(), "init", now)?;
        Ok(file)
    }

    /// Signs an identity for a key made elsewhere, of which its SubjectPublicKeyInfo (DER) is given.
    ///
    /// # Errors
    /// As [`issue`](Self::issue), or the key is not Ed25519.
    pub(crate) fn enrol(
        &mut self,
        spki: &[u8],
        node: &str,
        roles: &[Role],
        validity: Validity,
        via: &str,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, IssueLogError> {
        let certificate = self.root.sign_key(spki, node, roles, validity)?;
        self.log.append(&self.root, &certificate, via, now)?;
        Ok(certificate)
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &ClusterRoot {
        &self.root
    }

    /// Where the log ends now.
    #[must_use]
    pub fn log_head(&self) -> Head {
        self.log.head()
    }
}
