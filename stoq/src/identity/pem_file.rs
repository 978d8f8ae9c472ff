//! The blocks of the house's PEM files, and files whose content nobody else may read.
//!
//! Invariant: a private file exists on disk either whole and with mode 0600, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::IdentityError;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";
pub(super) const SECRET: &str = "STOQ CLUSTER SECRET";

/// 256 KiB: a key, a secret and a certificate with every role allowed come to less than 64 KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

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
}

/// Reads a file that anyone may read.
pub(super) fn read_public(path: &Path) -> Result<String, IdentityError> {
    read(path, open(path)?)
}

/// Reads a file that holds a private key. Refused if group or world have any right to it.
pub(super) fn read_private(path: &Path) -> Result<String, IdentityError> {
    let file = open(path)?;
    // The mode is that of the open file, so the path cannot be swapped between look and read.
    let mode = file
        .metadata()
        .map_err(|source| io_at(path, source))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    read(path, file)
}

fn open(path: &Path) -> Result<File, IdentityError> {
    File::open(path).map_err(|source| io_at(path, source))
}

fn read(path: &Path, file: File) -> Result<String, IdentityError> {
    let mut text = String::new();
    let got = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|source| io_at(path, source))?;
    if got as u64 > FILE_BYTES_MAX {
        return Err(IdentityError::TooLarge {
            path: path.to_owned(),
            max: FILE_BYTES_MAX,
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
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
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
