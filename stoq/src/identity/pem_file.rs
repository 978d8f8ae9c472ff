//! The blocks of the house's PEM files, and files whose content nobody else may read.
//!
//! Invariants: a private file exists on disk either whole and with mode 0600, or not at all; one that another user
//! could read, write or replace is not read; one of which a bit has changed is not used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::error::IdentityError;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";
pub(super) const SECRET: &str = "STOQ CLUSTER SECRET";
/// BLAKE3 over all other blocks of a private file. A key that does not fit its certificate would be found without it;
/// a damaged secret would just be another one.
const CHECK: &str = "STOQ FILE CHECK";

/// 256 KiB: a key, a secret and a certificate with every role allowed come to less than 64 KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The blocks of a private file, and the check over them that [`Blocks::intact`] reads.
pub(super) fn encode_checked(blocks: &[(&str, &[u8])]) -> String {
    let check = digest(blocks.iter().copied());
    let mut all = blocks.to_vec();
    all.push((CHECK, &check));
    encode(&all)
}

fn digest<'a>(blocks: impl Iterator<Item = (&'a str, &'a [u8])>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("stoq private file 1: check");
    for (tag, content) in blocks {
        for part in [tag.as_bytes(), content] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    *hasher.finalize().as_bytes()
}

pub(super) fn encode(blocks: &[(&str, &[u8])]) -> String {
    let blocks: Vec<_> = blocks
        .iter()
        .map(|(tag, der)| ::pem::Pem::new(tag, *der))
        .collect();
    let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_many_config(&blocks, config)
}

/// The blocks of a PEM text. Text between blocks is ignored, unknown blocks too.
#[derive(Debug)]
pub(super) struct Blocks(Vec<::pem::Pem>);

impl Blocks {
    pub(super) fn parse(text: &str) -> Result<Self, IdentityError> {
        ::pem::parse_many(text)
            .map(Self)
            .map_err(|error| IdentityError::Pem(error.to_string()))
    }

    /// The content of the one block of this kind.
    pub(super) fn only(&self, tag: &'static str) -> Result<&[u8], IdentityError> {
        let mut found = self.0.iter().filter(|block| block.tag() == tag);
        match (found.next(), found.next()) {
            (Some(block), None) => Ok(block.contents()),
            (None, _) => Err(IdentityError::Missing(tag)),
            (Some(_), Some(_)) => Err(IdentityError::Repeated(tag)),
        }
    }

    /// Whether all blocks are as they were written.
    pub(super) fn intact(&self) -> Result<(), IdentityError> {
        let others = self.0.iter().filter(|block| block.tag() != CHECK);
        let wanted = digest(others.map(|block| (block.tag(), block.contents())));
        if self.only(CHECK)? == wanted {
            Ok(())
        } else {
            Err(IdentityError::Damaged)
        }
    }
}

/// Reads a file that anyone may read.
pub(super) fn read_public(path: &Path) -> Result<String, IdentityError> {
    read(path, open(path)?, FILE_BYTES_MAX)
}

/// Reads a file that holds a private key. Refused if group or world have any right to it, if it belongs to somebody
/// else than this process's user or root, or if everyone may replace it.
pub(super) fn read_private(path: &Path) -> Result<String, IdentityError> {
    let file = open(path)?;
    // All is that of the open file, so the path cannot be swapped between look and read.
    let found = file.metadata().map_err(|source| io_at(path, source))?;
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    owned(path, &found)?;
    settled(path)?;
    read(path, file, FILE_BYTES_MAX)
}

/// Reads a file of at most `max` bytes that anyone may read but only this process's user or root may write.
pub(super) fn read_guarded(path: &Path, max: u64) -> Result<String, IdentityError> {
    let file = open(path)?;
    let found = file.metadata().map_err(|source| io_at(path, source))?;
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(IdentityError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    owned(path, &found)?;
    settled(path)?;
    read(path, file, max)
}

fn owned(path: &Path, found: &fs::Metadata) -> Result<(), IdentityError> {
    let (owner, ours) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner == ours || owner == 0 {
        return Ok(());
    }
    Err(IdentityError::Owner {
        path: path.to_owned(),
        owner,
        ours,
    })
}

/// Whether the folder keeps others from putting another file in this one's place.
fn settled(path: &Path) -> Result<(), IdentityError> {
    let folder = folder(path);
    let found = fs::metadata(folder).map_err(|source| io_at(folder, source))?;
    let mode = found.mode() & 0o7777;
    // With the sticky bit, as in /tmp, only a file's owner may replace it.
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(IdentityError::Folder {
            path: folder.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Opens a regular file. Without `O_NONBLOCK` a pipe in its place would hold the process up.
fn open(path: &Path) -> Result<File, IdentityError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| io_at(path, source))?;
    let found = file.metadata().map_err(|source| io_at(path, source))?;
    if !found.is_file() {
        return Err(IdentityError::NotAFile(path.to_owned()));
    }
    Ok(file)
}

fn read(path: &Path, file: File, max: u64) -> Result<String, IdentityError> {
    let mut text = String::new();
    let got = file
        .take(max + 1)
        .read_to_string(&mut text)
        .map_err(|source| io_at(path, source))?;
    if got as u64 > max {
        return Err(IdentityError::TooLarge {
            path: path.to_owned(),
            max,
        });
    }
    Ok(text)
}

/// Writes a file that only its owner may read (0600), replacing what was there in one step.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    write(path, text, 0o600).map_err(|source| io_at(path, source))
}

/// Writes a file that everyone may read (0644), replacing what was there in one step.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), IdentityError> {
    write(path, text, 0o644).map_err(|source| io_at(path, source))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "names no file"))?;
    let folder = folder(path);
    let mut temporary = name.to_owned();
    temporary.push(format!(".{:016x}.new", rand::random::<u64>()));
    let temporary = folder.join(temporary);

    // `create_new` and the mode in one call: at no time does the file exist with wider rights.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    let placed = written.and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = placed {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The rename itself must survive a power cut.
    File::open(folder)?.sync_all()
}

fn io_at(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_file_is_private_from_birth_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_private(&path, "one").unwrap();
        write_private(&path, "two").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(read_private(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_private(&path, "x").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = read_private(&path).unwrap_err().to_string();
            assert!(
                message.contains(&format!("chmod 600 {}", path.display())),
                "{message}"
            );
        }
    }

    #[test]
    fn file_that_others_own_or_could_replace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_private(&path, "x").unwrap();
        for (mode, fine) in [(0o755, true), (0o775, true), (0o777, false), (0o1777, true)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_private(&path).is_ok(), fine, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(
            read_guarded(&path, 100),
            Err(IdentityError::Writable { mode: 0o664, .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            read_private(folder.path()),
            Err(IdentityError::NotAFile(_))
        ));
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_none());
            return eprintln!("SKIPPED: only root can give a file to another user");
        }
        std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
        let refused = read_private(&path).unwrap_err();
        assert!(refused.to_string().contains("4242"), "{refused}");
    }

    #[test]
    fn pipe_in_place_of_a_file_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let (at, kind) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(at, &path, kind, mode, 0).unwrap();
        assert!(matches!(
            read_private(&path),
            Err(IdentityError::NotAFile(_))
        ));
    }

    #[test]
    fn every_changed_bit_of_a_private_file_is_found() {
        let blocks = [(PRIVATE_KEY, &b"key"[..]), (SECRET, &b"secret"[..])];
        assert!(
            Blocks::parse(&encode_checked(&blocks))
                .unwrap()
                .intact()
                .is_ok()
        );
        for (tag, length) in [(PRIVATE_KEY, 3), (SECRET, 6)] {
            for bit in 0..length * 8 {
                let mut all = Blocks::parse(&encode_checked(&blocks)).unwrap();
                let block = all.0.iter_mut().find(|block| block.tag() == tag).unwrap();
                let mut content = block.contents().to_vec();
                content[bit / 8] ^= 1 << (bit % 8);
                *block = ::pem::Pem::new(tag, content);
                assert!(matches!(all.intact(), Err(IdentityError::Damaged)), "{bit}");
            }
        }
        let unchecked = Blocks::parse(&encode(&blocks)).unwrap();
        assert!(matches!(
            unchecked.intact(),
            Err(IdentityError::Missing(CHECK))
        ));
    }

    #[test]
    fn huge_file_is_not_read_into_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        fs::write(&path, vec![b'x'; 300 * 1024]).unwrap();
        assert!(matches!(
            read_public(&path),
            Err(IdentityError::TooLarge { .. })
        ));
    }
}
