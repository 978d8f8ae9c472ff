//! What the things of a lab are called, and which of those found on a machine nobody owns any more.
//!
//! Everything of a lab lives in named network namespaces `sb<pid>-<host>`; interfaces are only ever made inside them, so
//! that deleting the namespaces deletes all. The process holds a lock on `/run/stoq-bench/sb<pid>/lock` as long as it
//! lives. A namespace whose lock nobody holds is a leftover, even where another process has the same pid by now.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Where `ip netns` keeps its names.
pub(super) const NAMESPACES: &str = "/run/netns";

/// Where labs keep locks, logs and bundles while they live.
const STATE: &str = "/run/stoq-bench";

/// The names of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// Those of the lab of process `pid`.
    pub(super) fn of(pid: u32) -> Self {
        Self {
            prefix: format!("sb{pid}"),
        }
    }

    /// The namespace of a host.
    pub(super) fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The namespace of the bridge. No host is called so.
    pub(super) fn bridge(&self) -> String {
        self.namespace(BRIDGE)
    }

    /// The lab's directory.
    pub(super) fn directory(&self) -> PathBuf {
        Path::new(STATE).join(&self.prefix)
    }
}

/// Name of the bridge, and of its namespace's last part.
pub(super) const BRIDGE: &str = "bridge";

/// Proof that a lab's process lives: the kernel lets go of it when the process ends, however that comes about.
#[derive(Debug)]
pub(super) struct Alive {
    _lock: File,
    directory: PathBuf,
}

impl Alive {
    /// Makes the lab's directory and takes its lock.
    pub(super) fn begin(names: &Names) -> io::Result<Self> {
        let directory = names.directory();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        Ok(Self {
            _lock: lock,
            directory,
        })
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Logs and all; what was to be kept was written elsewhere. A failure leaves files for the next start.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The namespaces of labs whose process is gone, and those labs' directories.
pub(super) fn leftovers() -> io::Result<Leftovers> {
    leftovers_in(Path::new(NAMESPACES), Path::new(STATE))
}

/// See [`leftovers`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// Names of namespaces.
    pub(super) namespaces: Vec<String>,
    /// Directories.
    pub(super) directories: Vec<PathBuf>,
}

fn leftovers_in(namespaces: &Path, state: &Path) -> io::Result<Leftovers> {
    let mut found = Leftovers::default();
    for name in entries(namespaces)? {
        let Some(prefix) = prefix_of(&name) else {
            continue;
        };
        if is_abandoned(&state.join(prefix))? {
            found.namespaces.push(name);
        }
    }
    for name in entries(state)? {
        let directory = state.join(&name);
        if prefix_of(&format!("{name}-")).is_some() && is_abandoned(&directory)? {
            found.directories.push(directory);
        }
    }
    Ok(found)
}

/// The names in a directory, sorted; none where there is no such directory.
fn entries(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries {
                // A name that is not UTF-8 is none of ours.
                names.extend(entry?.file_name().into_string());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// `sb<digits>` of `sb<digits>-<something>`.
fn prefix_of(name: &str) -> Option<&str> {
    let (prefix, _) = name.split_once('-')?;
    let pid = prefix.strip_prefix("sb")?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(prefix)
}

/// Whether nobody holds the lock of a lab's directory.
fn is_abandoned(directory: &Path) -> io::Result<bool> {
    match File::open(directory.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
        Ok(lock) => match lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_form_are_ours() {
        assert_eq!(prefix_of("sb12-client"), Some("sb12"));
        assert_eq!(prefix_of("sb12-a-b"), Some("sb12"));
        for other in ["sb12", "sb-client", "sbx1-client", "xsb12-client", "blue"] {
            assert_eq!(prefix_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_lab_is_left_over_once_its_lock_is_free() {
        let root = tempfile::tempdir().unwrap();
        let (namespaces, state) = (root.path().join("netns"), root.path().join("state"));
        fs::create_dir_all(&namespaces).unwrap();
        for name in ["sb1-client", "sb1-bridge", "sb2-client", "theirs"] {
            fs::write(namespaces.join(name), "").unwrap();
        }
        fs::create_dir_all(state.join("sb1")).unwrap();
        let lock = File::create(state.join("sb1/lock")).unwrap();
        lock.lock().unwrap();

        let found = leftovers_in(&namespaces, &state).unwrap();
        assert_eq!(
            found.namespaces,
            ["sb2-client"],
            "the first has its process"
        );
        assert!(found.directories.is_empty());

        drop(lock);
        let found = leftovers_in(&namespaces, &state).unwrap();
        assert_eq!(found.namespaces, ["sb1-bridge", "sb1-client", "sb2-client"]);
        assert_eq!(found.directories, [state.join("sb1")]);
    }

    #[test]
    fn a_machine_without_labs_has_no_leftovers() {
        let root = tempfile::tempdir().unwrap();
        let nowhere = root.path().join("nowhere");
        assert_eq!(
            leftovers_in(&nowhere, &nowhere).unwrap(),
            Leftovers::default()
        );
    }
}
