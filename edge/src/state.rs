//! The state directory: what an edge keeps for itself between two starts, beside what its TLS and cache keep.
//!
//! Here is only the node's secret, from which chunk ids and the `CDN-Loop` mark are derived when no cluster
//! gives one. Losing it costs the stored content, nothing else: a store under another key starts empty.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use stoq_node::config::{Config, ConfigError, OriginSpec};

/// The secret's file in the state directory: 32 raw bytes, mode 0600.
const SECRET_FILE: &str = "secret";

/// What can be wrong with a state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Others may read the secret, so it is none.
    #[error(
        "{path} has mode {mode:o}, want 600: `chmod 600` it, or delete it to have a new one made"
    )]
    Mode {
        /// The secret's file.
        path: PathBuf,
        /// The permission bits found.
        mode: u32,
    },
    /// The file is not a secret of ours.
    #[error("{path} has {got} bytes, a secret has 32: delete it to have a new one made")]
    Length {
        /// The secret's file.
        path: PathBuf,
        /// Bytes found.
        got: u64,
    },
    /// The system has no randomness to give.
    #[error("no randomness from the system: {0}")]
    Random(String),
}

/// The node's secret as stored in `dir`; `None` when none was made yet. Writes nothing.
pub(crate) fn read_secret(dir: &Path) -> Result<Option<[u8; 32]>, StateError> {
    let path = dir.join(SECRET_FILE);
    let io = |source| StateError::Io {
        path: path.clone(),
        source,
    };
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let meta = file.metadata().map_err(io)?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::Mode { path, mode });
    }
    if meta.len() != 32 {
        return Err(StateError::Length {
            path,
            got: meta.len(),
        });
    }
    let mut secret = [0; 32];
    file.read_exact(&mut secret).map_err(io)?;
    Ok(Some(secret))
}

/// The node's secret, made at the first start. Creates `dir` (0700) where it is missing.
///
/// Two processes that start at once on one directory end with the same secret: the loser of the link reads
/// the winner's.
pub(crate) fn secret(dir: &Path) -> Result<[u8; 32], StateError> {
    if let Some(secret) = read_secret(dir)? {
        return Ok(secret);
    }
    create_dir(dir)?;
    let mut secret = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut secret)
        .map_err(|error| StateError::Random(error.to_string()))?;

    let path = dir.join(SECRET_FILE);
    let draft = dir.join(format!("{SECRET_FILE}.{}", std::process::id()));
    let io = |source| StateError::Io {
        path: draft.clone(),
        source,
    };
    // A draft that an earlier process of this id left behind was never linked, so nobody uses it.
    if let Err(error) = fs::remove_file(&draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(io(error));
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io)?;
    file.write_all(&secret)
        .and_then(|()| file.sync_all())
        .map_err(io)?;
    let linked = fs::hard_link(&draft, &path);
    fs::remove_file(&draft).map_err(io)?;
    match linked {
        Ok(()) => Ok(secret),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_secret(dir)?.ok_or_else(|| StateError::Io {
                path,
                source: io::Error::from(io::ErrorKind::NotFound),
            })
        }
        Err(source) => Err(StateError::Io { path, source }),
    }
}

/// Makes `dir` and its parents, readable by the owner alone; one that exists is left as it is.
pub(crate) fn create_dir(dir: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StateError::Io {
            path: dir.to_owned(),
            source,
        })
}

/// The directory origins that hold the state directory, each a fault at its place: they would serve this node's keys to the world.
pub(crate) fn exposed(config: &Config) -> Vec<ConfigError> {
    let state = resolved(&config.node.state_dir);
    let mut faults = Vec::new();
    for (site, origins) in config.sites.iter().map(|site| &site.origins).enumerate() {
        for (index, origin) in origins.iter().enumerate() {
            if let OriginSpec::Directory(path) = origin
                && state.starts_with(resolved(path))
            {
                let message = format!(
                    "{} holds the state directory {}, so this node's keys would be served (move node.state_dir out of it)",
                    path.display(),
                    config.node.state_dir.display()
                );
                faults.push(config.error(&format!("site[{site}].origins[{index}]"), message));
            }
        }
    }
    faults
}

/// `path` with symbolic links followed as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exists = absolute
        .ancestors()
        .find_map(|parent| Some((parent, parent.canonicalize().ok()?)));
    match exists {
        Some((parent, real)) => match absolute.strip_prefix(parent) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => absolute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(read_secret(&state).unwrap(), None);
        let made = secret(&state).unwrap();
        assert_eq!(secret(&state).unwrap(), made);
        assert_eq!(
            fs::metadata(state.join(SECRET_FILE))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        secret(dir.path()).unwrap();
        fs::set_permissions(
            dir.path().join(SECRET_FILE),
            fs::Permissions::from_mode(0o640),
        )
        .unwrap();
        assert!(matches!(
            secret(dir.path()),
            Err(StateError::Mode { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_file_of_another_length_is_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        secret(dir.path()).unwrap();
        fs::write(dir.path().join(SECRET_FILE), b"short").unwrap();
        assert!(matches!(
            secret(dir.path()),
            Err(StateError::Length { got: 5, .. })
        ));
    }

    #[test]
    fn a_directory_that_would_serve_the_nodes_keys_is_a_fault_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("site")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("site/up")).unwrap();
        let faults = |state: &str, origin: &str| {
            let text = format!(
                "[node]\nstate_dir = \"{state}\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"*\"]\norigins = [\"dir:{origin}\"]\n"
            );
            let env = stoq_node::Env::default();
            exposed(
                &Config::parse("f.toml", &text, dir.path(), &env, stoq_node::Role::Edge).unwrap(),
            )
        };
        for (state, origin, count) in [
            ("state", "site", 0),
            ("site-state", "site", 0),
            ("site/state", "site", 1),
            ("state/not/yet/there", ".", 1),
            ("site", "site", 1),
            // Through a link it is still the same place.
            ("state", "site/up", 1),
        ] {
            let found = faults(state, origin);
            assert_eq!(found.len(), count, "{state} {origin}");
            assert!(
                found
                    .iter()
                    .all(|fault| fault.to_string().starts_with("f.toml:7:")),
                "{found:?}"
            );
        }
    }
}
