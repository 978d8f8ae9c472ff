//! The state directory: where a node keeps what must outlive the process, and the lock that keeps a second process out.
//!
//! Two processes on one directory would each overwrite the other's identity, certificates and stores. The lock is the
//! kernel's on an open file, so it goes with the process however that ends; the file itself stays.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const LOCK_FILE: &str = "lock";

/// Why the directory cannot be used. The text holds the fix.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It could not be made, looked at or written.
    #[error("{path}: {source} (make the directory writable, or set node.state_dir)", path = path.display())]
    Io {
        /// The directory, or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or something else has its name.
    #[error("{path} is no directory (set node.state_dir to another)", path = .0.display())]
    NoDirectory(PathBuf),
    /// Another user's.
    #[error("{path} belongs to user {owner}, this process runs as {user} (chown it, or run as its owner)", path = path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// Ours.
        user: u32,
    },
    /// Others may write in it.
    #[error("{path} has mode {mode:o}, so others can write in it (chmod 700 {path})", path = path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds it.
    #[error("{path} is in use by process {holder} (stop that one, or give this node a state_dir of its own)", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process's number as it wrote it, or `unknown`.
        holder: String,
    },
}

/// A state directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing (itself with mode 0700), checks it and locks it. Does not wait for another holder.
    ///
    /// # Errors
    /// It cannot be made or written, is another user's, is writable by others, or is in use.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let io = |source| StateDirError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::create_dir_all(parent).map_err(io)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        inspect(path)?;
        let lock = path.join(LOCK_FILE);
        let io = |source| StateDirError::Io {
            path: lock.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // For the message alone; ten digits are a process number.
                let read = file.take(10).read_to_string(&mut holder);
                let holder = if read.is_ok() && !holder.trim().is_empty() {
                    holder.trim().to_owned()
                } else {
                    "unknown".to_owned()
                };
                return Err(StateDirError::InUse {
                    path: path.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: file,
        })
    }

    /// What [`StateDir::open`] would find, without making or locking anything that stays: for `check`, also beside a running node.
    ///
    /// # Errors
    /// As [`StateDir::open`], except that a directory in use is no error.
    pub fn check(path: &Path) -> Result<(), StateDirError> {
        let parent = |path: &Path| {
            path.parent().map(|parent| {
                if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                }
                .to_owned()
            })
        };
        let mut nearest = path.to_owned();
        while let (false, Some(next)) = (nearest.exists(), parent(&nearest)) {
            nearest = next;
        }
        if nearest == path {
            inspect(path)?;
        } else if !nearest.is_dir() {
            return Err(StateDirError::NoDirectory(nearest));
        }
        let probe = nearest.join(format!(".stoq-check-{}", std::process::id()));
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&probe);
        made.and_then(|_| fs::remove_file(&probe))
            .map_err(|source| StateDirError::Io {
                path: nearest,
                source,
            })
    }

    /// The process that took this directory last, whether it still has it or not. None if there is none, or it cannot be read.
    pub fn last_holder(path: &Path) -> Option<u32> {
        let mut holder = String::new();
        let file = File::open(path.join(LOCK_FILE)).ok()?;
        // Ten digits are a process number.
        file.take(10).read_to_string(&mut holder).ok()?;
        holder.trim().parse().ok()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

fn inspect(path: &Path) -> Result<(), StateDirError> {
    let io = |source| StateDirError::Io {
        path: path.to_owned(),
        source,
    };
    let found = fs::metadata(path).map_err(io)?;
    if !found.is_dir() {
        return Err(StateDirError::NoDirectory(path.to_owned()));
    }
    // The owner of this process's own entry is its effective user.
    let user = fs::metadata("/proc/self").map_err(io)?.uid();
    if found.uid() != user {
        return Err(StateDirError::Owner {
            path: path.to_owned(),
            owner: found.uid(),
            user,
        });
    }
    if found.mode() & 0o022 != 0 {
        return Err(StateDirError::Mode {
            path: path.to_owned(),
            mode: found.mode() & 0o7777,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_process_holds_a_directory_and_leaves_it_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        let held = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let refused = StateDir::open(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("in use by process {}", std::process::id())),
            "{refused}"
        );
        StateDir::check(&path).unwrap();
        drop(held);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_write_in_is_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for result in [
            StateDir::open(dir.path()).map(|_| ()),
            StateDir::check(dir.path()),
        ] {
            let refused = result.unwrap_err().to_string();
            assert!(
                refused.contains("mode 777") && refused.contains("chmod 700"),
                "{refused}"
            );
        }
    }

    #[test]
    fn check_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        StateDir::check(&dir.path().join("x/y")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(
            StateDir::check(&dir.path().join("file/y")),
            Err(StateDirError::NoDirectory(_))
        ));
        assert!(matches!(
            StateDir::open(&dir.path().join("file")),
            Err(StateDirError::NoDirectory(_))
        ));
    }
}
