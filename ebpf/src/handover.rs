//! Names by which a program is handed from one process to the next: files on a BPF file system, two an interface.
//!
//! A name keeps a program in place without anybody alive behind it, so there is one only while a hand-over is under way,
//! and only where nobody else can make one: what is found under it is attached in our name. Beside the link stands the table
//! of sources that completed a handshake, so that those known to the process before are known to the next from the first packet.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    maps::{HashMap, Map, MapData, MapError},
    programs::links::{FdLink, PinnedLink},
};

use crate::{
    abi::VALIDATED_MAX,
    attach::{AttachError, said},
};

/// The files of one interface.
#[derive(Debug)]
pub(crate) struct Names {
    /// Holds the program at the interface.
    pub(crate) link: PathBuf,
    /// Its table of validated sources.
    pub(crate) sources: PathBuf,
}

impl Names {
    pub(crate) fn of(directory: &Path, interface: &str) -> Self {
        // The file system keeps names with dots to itself, and VLANs have them. No interface's own name can be taken for
        // another's table: after a `%` of ours come two digits.
        let own = interface.replace('%', "%25").replace('.', "%2e");
        Self {
            sources: directory.join(format!("{own}%validated")),
            link: directory.join(own),
        }
    }

    /// Takes both away; what is not there need not be.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for name in [&self.link, &self.sources] {
            match fs::remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sources and until when they count, from the table under this name; [`VALIDATED_MAX`] at most, which is what it holds.
    /// Empty where there is none.
    pub(crate) fn validated(&self) -> Result<Vec<(u64, u64)>, MapError> {
        if !self.sources.exists() {
            return Ok(Vec::new());
        }
        // Checks the sizes of keys and values.
        let table: HashMap<MapData, u64, u64> =
            Map::HashMap(MapData::from_pin(&self.sources)?).try_into()?;
        // Its owner may still write to it: what goes while it is read ends the reading of that entry alone.
        let entries = table.iter().take(VALIDATED_MAX as usize);
        Ok(entries.filter_map(Result::ok).collect())
    }
}

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
    fn no_interface_has_a_name_with_a_dot_or_that_of_anothers_table() {
        let name = |interface| {
            let names = Names::of(Path::new("/p"), interface);
            [names.link, names.sources].map(|path| path.display().to_string())
        };
        assert_eq!(name("eth0"), ["/p/eth0", "/p/eth0%validated"]);
        assert_eq!(name("eth0.5"), ["/p/eth0%2e5", "/p/eth0%2e5%validated"]);
        assert_eq!(name("a%validated")[0], "/p/a%25validated");
    }

    #[test]
    fn a_name_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(&dir.path().join("eth0")).unwrap().is_none());
    }
}
