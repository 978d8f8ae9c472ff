//! The nodes that are no longer trusted, whatever their certificates say.
//!
//! A list of node ids, the same for all workers of a process and replaced as a whole while they run. It counts in every
//! handshake and again after it, so that a resumed session gains nothing; before each exchange; and a connection of a
//! node that comes to stand on it is closed at once ([`CloseCode::Revoked`](crate::wire::CloseCode::Revoked)).
//!
//! The list is a text file with one id a line, what follows a `#` being for people. Whoever may write it decides whom this
//! node talks to, as with the root file, so it must be writable by nobody else. Replace it by renaming a new file
//! over it. A list that cannot be read changes nothing: what was revoked stays so.

use std::collections::HashSet;
use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::error::IdentityError;
use super::id::NodeId;
use super::pem_file;

/// Most nodes on a list: 65,536, which take some 4 MiB. A longer list is refused; then it is time for a new root.
pub const REVOKED_MAX: usize = 65_536;

/// 16 MiB: a full list with 190 characters of remark on each line.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The nodes whose place in the cluster was taken away. Cheap to clone; the clones are one list.
#[derive(Debug, Clone)]
pub struct Revocations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ids: ArcSwap<HashSet<NodeId>>,
    /// Bumped after each replacement, for those that keep connections.
    replaced: watch::Sender<u64>,
}

impl Default for Revocations {
    /// An empty list.
    fn default() -> Self {
        Self(Arc::new(Shared {
            ids: ArcSwap::default(),
            replaced: watch::Sender::new(0),
        }))
    }
}

impl Revocations {
    /// Reads a list from its file.
    ///
    /// # Errors
    /// The file is missing, others may change it, a line holds something else than an id, or there are more than
    /// [`REVOKED_MAX`].
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let list = Self::default();
        list.reload(path)?;
        Ok(list)
    }

    /// Puts the file's content in the place of the list and returns the number of nodes on it.
    ///
    /// # Errors
    /// As [`load`](Self::load); the list is then as it was.
    pub fn reload(&self, path: &Path) -> Result<usize, IdentityError> {
        let text = pem_file::read_guarded(path, FILE_BYTES_MAX)?;
        let ids = parse(&text).map_err(|error| error.at(path))?;
        let count = ids.len();
        self.put(ids);
        Ok(count)
    }

    /// Puts these in the place of the list. From here on no handshake with and no exchange of theirs succeeds; living
    /// connections are closed as soon as their tasks run.
    ///
    /// # Errors
    /// More than [`REVOKED_MAX`]; the list is then as it was.
    pub fn replace(&self, ids: impl IntoIterator<Item = NodeId>) -> Result<(), IdentityError> {
        let ids: HashSet<_> = ids.into_iter().take(REVOKED_MAX + 1).collect();
        if ids.len() > REVOKED_MAX {
            return Err(IdentityError::TooManyRevoked);
        }
        self.put(ids);
        Ok(())
    }

    fn put(&self, ids: HashSet<NodeId>) {
        self.0.ids.store(Arc::new(ids));
        self.0.replaced.send_modify(|times| *times += 1);
    }

    /// Whether this node is on the list. Some 20 ns; takes no lock.
    #[must_use]
    pub fn contains(&self, id: &NodeId) -> bool {
        self.0.ids.load().contains(id)
    }

    /// Nodes on the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.ids.load().len()
    }

    /// Whether nobody is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes with each replacement.
    pub(crate) fn replaced(&self) -> watch::Receiver<u64> {
        self.0.replaced.subscribe()
    }

    /// Looks at the file `every` so often (at least a millisecond) and reloads it when another one stands there, or when it could not be read before. Faults are logged once
    /// each and change nothing. Runs until it is dropped.
    pub async fn follow(&self, path: PathBuf, every: Duration) -> Infallible {
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut said) = (None, None);
        loop {
            ticks.tick().await;
            let (list, path, before) = (self.clone(), path.clone(), last.clone());
            // Reading a file may take as long as its disk likes.
            let looked =
                tokio::task::spawn_blocking(move || list.look(&path, before.as_ref())).await;
            match looked {
                Ok(Ok(seen)) => (last, said) = (Some(seen), None),
                // What keeps it from being read need not change the file: the folder's mode, its owner, a process out of descriptors.
                Ok(Err(error)) => {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        tracing::error!(%error, "the revocation list stays as it was");
                        said = Some(error);
                    }
                }
                Err(panicked) => tracing::error!(%panicked, "the revocation list stays as it was"),
            }
        }
    }

    /// What stands there now, and it has been read.
    fn look(&self, path: &Path, before: Option<&Seen>) -> Result<Seen, IdentityError> {
        let found = std::fs::metadata(path).map_err(|source| IdentityError::Io {
            path: path.to_owned(),
            source,
        })?;
        // The inode tells a renamed file even within one tick of the file system's clock.
        let seen = Seen {
            inode: found.ino(),
            bytes: found.len(),
            changed: (found.mtime(), found.mtime_nsec()),
            mode: found.mode(),
        };
        if before != Some(&seen) {
            let count = self.reload(path)?;
            tracing::info!(path = %path.display(), count, "revocation list read");
        }
        Ok(seen)
    }
}

/// What stood in the file's place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
    mode: u32,
}

fn parse(text: &str) -> Result<HashSet<NodeId>, IdentityError> {
    let mut ids = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or_default().trim();
        if id.is_empty() {
            continue;
        }
        let id = id.parse().map_err(|source| IdentityError::RevokedLine {
            line: index + 1,
            source,
        })?;
        if ids.len() == REVOKED_MAX {
            return Err(IdentityError::TooManyRevoked);
        }
        ids.insert(id);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn id(n: usize) -> NodeId {
        NodeId::of_spki(&n.to_be_bytes())
    }

    #[test]
    fn list_is_read_with_its_remarks_and_a_wrong_line_is_named() {
        let text = format!("# gone\n\n{}  # edge-7, stolen\n  {}\n", id(1), id(2));
        assert_eq!(parse(&text).unwrap(), HashSet::from([id(1), id(2)]));
        let error = parse(&format!("{}\nedge-7\n", id(1))).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        let long: String = (0..=REVOKED_MAX).map(|n| format!("{}\n", id(n))).collect();
        assert!(matches!(parse(&long), Err(IdentityError::TooManyRevoked)));
    }

    #[test]
    fn unreadable_list_leaves_what_was_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked");
        assert!(Revocations::load(&path).is_err(), "missing");
        std::fs::write(&path, id(1).to_string()).unwrap();
        let list = Revocations::load(&path).unwrap();
        let mut replaced = list.replaced();
        std::fs::write(&path, "nonsense").unwrap();
        assert!(list.reload(&path).is_err());
        assert!(list.contains(&id(1)) && !replaced.has_changed().unwrap());
        std::fs::write(&path, id(2).to_string()).unwrap();
        assert_eq!(list.reload(&path).unwrap(), 1);
        assert!(list.contains(&id(2)) && !list.contains(&id(1)));
        assert!(replaced.borrow_and_update().eq(&2));
    }

    /// Waits until the list is this.
    async fn until(list: &Revocations, wanted: &[NodeId]) {
        let arrived = async {
            let mut replaced = list.replaced();
            while list.len() != wanted.len() || !wanted.iter().all(|id| list.contains(id)) {
                replaced.changed().await.unwrap();
            }
        };
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, arrived).await.unwrap();
    }

    fn follow(list: &Revocations, path: &Path) -> tokio::task::JoinHandle<Infallible> {
        let (list, path) = (list.clone(), path.to_owned());
        tokio::spawn(async move { list.follow(path, Duration::from_millis(1)).await })
    }

    #[test]
    fn a_list_that_could_not_be_read_is_read_once_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked");
        let mode = |mode| std::fs::set_permissions(folder.path(), Permissions::from_mode(mode));
        std::fs::write(&path, "").unwrap();
        let list = Revocations::default();
        let seen = list.look(&path, None).unwrap();
        // Where everybody may put another in its place it is not believed, and what mends that changes nothing of the file.
        mode(0o777).unwrap();
        std::fs::write(folder.path().join("new"), format!("{}\n", id(1))).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(list.look(&path, Some(&seen)).is_err() && list.is_empty());
        assert!(list.look(&path, Some(&seen)).is_err(), "it is tried again");
        mode(0o700).unwrap();
        assert_ne!(list.look(&path, Some(&seen)).unwrap(), seen);
        assert!(list.contains(&id(1)));
    }

    #[tokio::test]
    async fn list_follows_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked");
        std::fs::write(&path, "").unwrap();
        let list = Revocations::load(&path).unwrap();
        let task = follow(&list, &path);
        for wanted in [&[id(1)][..], &[id(1), id(2)], &[id(3)], &[]] {
            let text: String = wanted.iter().map(|id| format!("{id}\n")).collect();
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            until(&list, wanted).await;
        }
        task.abort();
    }
}
