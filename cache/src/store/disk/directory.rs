//! The directory of a volume: its own, held by one process, and writable.
//!
//! It holds `LOCK` (the holder's process id, under a lock that ends with the process), `log`, `checkpoint` and `marks`. Who else may write there could
//! hand us bytes to serve, so nobody may. What the log holds, and in which format, is not this module's concern.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, FlockOperation, Mode, OFlags, StatVfsMountFlags},
    io::Errno,
    process::geteuid,
};

/// Why a directory cannot be a volume's.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is to be made in a directory that is not there: perhaps a disk that is not mounted.
    #[error("{path}: the directory above it does not exist; mount the disk that it is on, or make the directory", path = path.display())]
    NoParent {
        /// The volume's path.
        path: PathBuf,
    },
    /// There is something else under this name.
    #[error("{path} is not a directory; move it away, or name another path", path = path.display())]
    NotADirectory {
        /// The volume's path.
        path: PathBuf,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, and this process runs as {user}; run `chown {user} {path}`, or start it as {owner}", path = path.display())]
    ForeignOwner {
        /// The volume's path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may write to it, and so decide what is served.
    #[error("{path} has mode {mode:03o}, so that others may write to it; run `chmod go-w {path}`", path = path.display())]
    WritableByOthers {
        /// The volume's path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is on a filesystem that is mounted to be read only.
    #[error("{path} is on a filesystem that is mounted read-only; run `mount -o remount,rw` on it, or name another path", path = path.display())]
    ReadOnly {
        /// The volume's path.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{path} is in use by {}; stop that, or name another path", holder_of(*holder), path = path.display())]
    Locked {
        /// The volume's path.
        path: PathBuf,
        /// The process that holds it, if it said.
        holder: Option<u32>,
    },
    /// The system refuses for another reason.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// What it is about.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

fn holder_of(holder: Option<u32>) -> String {
    holder.map_or_else(
        || "another process".to_owned(),
        |holder| format!("process {holder}"),
    )
}

/// The file of segments of the volume in this directory.
pub(super) fn log_in(path: &Path) -> PathBuf {
    path.join("log")
}

/// The directory of a volume, held until it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    directory: File,
    /// Its lock ends when it is closed, also by the death of the process.
    _lock: File,
}

impl Directory {
    /// Takes a directory for a volume, and makes it (mode 0700) if it is absent; the one above has to be there. Blocks; milliseconds.
    ///
    /// # Errors
    /// Each [`DirectoryError`] names the path and what to do.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let path = path.to_owned();
        let directory = open_directory(&path)?;
        judge(&path, &directory)?;
        let lock = lock(&path, &directory)?;
        Ok(Self {
            path,
            directory,
            _lock: lock,
        })
    }

    /// What [`Directory::open`] would find; makes and changes nothing. For an instant it holds the lock beside others who look.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn check(path: &Path) -> Result<(), DirectoryError> {
        let failed = |action| {
            move |source: io::Error| DirectoryError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let Some(directory) = existing(path)? else {
            return check_above(path);
        };
        judge(path, &directory)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = match rustix::fs::openat(&directory, "LOCK", flags, Mode::empty()) {
            Ok(lock) => File::from(lock),
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("open its LOCK")(errno.into())),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(DirectoryError::Locked {
                path: path.to_owned(),
                holder: holder(&lock),
            }),
            Err(errno) => Err(failed("lock its LOCK")(errno.into())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of segments, which is the device.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        log_in(&self.path)
    }

    /// The last dump of the index.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The marks of what was invalidated.
    #[must_use]
    pub fn marks(&self) -> PathBuf {
        self.path.join("marks")
    }

    /// Waits until names that were made, changed or removed in it are so for good (`fsync`). Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

/// Whether it is ours alone to write to.
fn judge(path: &Path, directory: &File) -> Result<(), DirectoryError> {
    let failed = |action| {
        move |source: io::Error| DirectoryError::Io {
            path: path.to_owned(),
            action,
            source,
        }
    };
    let metadata = directory.metadata().map_err(failed("look at it"))?;
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    let path = path.to_owned();
    if owner != user {
        return Err(DirectoryError::ForeignOwner { path, owner, user });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(DirectoryError::WritableByOthers { path, mode });
    }
    if is_read_only(directory).map_err(failed("look at its filesystem"))? {
        return Err(DirectoryError::ReadOnly { path });
    }
    Ok(())
}

fn is_read_only(directory: &File) -> io::Result<bool> {
    let mount = rustix::fs::fstatvfs(directory)?;
    Ok(mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether a directory can be made where there is none.
fn check_above(path: &Path) -> Result<(), DirectoryError> {
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    };
    let io_error = |source| DirectoryError::Io {
        path: path.to_owned(),
        action: "make it",
        source,
    };
    let directory = File::open(above).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DirectoryError::NoParent {
            path: path.to_owned(),
        },
        _ => io_error(error),
    })?;
    if is_read_only(&directory).map_err(io_error)? {
        return Err(DirectoryError::ReadOnly {
            path: path.to_owned(),
        });
    }
    rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|errno| io_error(errno.into()))
}

/// The directory itself, if it is there.
fn existing(path: &Path) -> Result<Option<File>, DirectoryError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    match options.open(path) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(DirectoryError::NotADirectory {
                path: path.to_owned(),
            })
        }
        Err(source) => Err(DirectoryError::Io {
            path: path.to_owned(),
            action: "open it",
            source,
        }),
    }
}

/// The directory itself, made if it is absent.
fn open_directory(path: &Path) -> Result<File, DirectoryError> {
    if let Some(directory) = existing(path)? {
        return Ok(directory);
    }
    let io_error = |action, source| DirectoryError::Io {
        path: path.to_owned(),
        action,
        source,
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        // Made by another process meanwhile; the lock decides between us.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DirectoryError::NoParent {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            return Err(DirectoryError::ReadOnly {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(io_error("make it", error)),
    }
    existing(path)?.ok_or_else(|| io_error("open it", io::ErrorKind::NotFound.into()))
}

/// Takes the lock, and says in it who has it.
fn lock(path: &Path, directory: &File) -> Result<File, DirectoryError> {
    let failed = |action: &'static str| {
        move |source: io::Error| DirectoryError::Io {
            path: path.join("LOCK"),
            action,
            source,
        }
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::openat(directory, "LOCK", flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| failed("open it")(errno.into()))?;
    let lock = File::from(lock);
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(DirectoryError::Locked {
                path: path.to_owned(),
                holder: holder(&lock),
            });
        }
        Err(errno) => return Err(failed("lock it")(errno.into())),
    }
    // For whoever finds the lock taken; the lock itself does not need it.
    let pid = format!("{}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.write_all_at(pid.as_bytes(), 0))
        .map_err(failed("write the process id"))?;
    Ok(lock)
}

/// The process id in the lock. The holder may be just about to write it.
fn holder(lock: &File) -> Option<u32> {
    let mut text = [0; 16];
    let len = lock.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests;
