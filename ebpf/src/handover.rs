//! Names by which a program is handed from one process to the next: files on a BPF file system, one an interface.
//!
//! A name keeps a program in place without anybody alive behind it, so there is one only while a hand-over is under way,
//! and only where nobody else can make one: what is found under it is attached in our name.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use aya::programs::links::{FdLink, PinnedLink};

use crate::attach::{AttachError, said};

/// Checks that names below `directory` are nobody else's to make: on a BPF file system, this user's, and writable by
/// nobody else. Makes it where it is not there.
pub(crate) fn check(directory: &Path) -> Result<(), AttachError> {
    /// `BPF_FS_MAGIC`.
    const BPF_FS: u32 = 0xcafe_4a11;
    let failed = |what: String| AttachError::HandOver(format!("{}: {what}", directory.display()));
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(error.to_string()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(directory).map_err(|error| failed(error.to_string()))?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != own || found.mode() & 0o022 != 0 {
        return Err(failed(
            "not a directory that this user alone may write to".to_owned(),
        ));
    }
    let system = rustix::fs::statfs(directory).map_err(|error| failed(error.to_string()))?;
    // The kernel's number has 32 bits, the field's width and sign are the platform's.
    if system.f_type.to_ne_bytes().first_chunk() != Some(&BPF_FS.to_ne_bytes()) {
        return Err(failed(
            "not on a BPF file system; fix: mount -t bpf bpf /sys/fs/bpf".to_owned(),
        ));
    }
    Ok(())
}

/// The link under a name, where there is one; with the number of the program it holds.
pub(crate) fn find(name: &Path) -> Result<Option<(FdLink, u32)>, AttachError> {
    match fs::symlink_metadata(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AttachError::HandOver(error.to_string())),
        Ok(_) => {}
    }
    let failed = |error: &dyn std::error::Error| AttachError::HandOver(said(error));
    let link = FdLink::from(PinnedLink::from_pin(name).map_err(|error| failed(&error))?);
    let program = link.info().map_err(|error| failed(&error))?.program_id();
    Ok(Some((link, program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_could_write_to_or_that_keeps_no_programs_will_not_do() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let error = check(&own).unwrap_err().to_string();
        assert!(error.contains("not on a BPF file system"), "{error}");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        let error = check(&own).unwrap_err().to_string();
        assert!(error.contains("this user alone"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        let error = check(&link).unwrap_err().to_string();
        assert!(error.contains("this user alone"), "{error}");
    }

    #[test]
    fn a_name_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(&dir.path().join("eth0")).unwrap().is_none());
    }
}
