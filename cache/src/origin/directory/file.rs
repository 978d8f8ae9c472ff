//! Opening and reading a file, on the blocking pool. Every piece is followed by a look at the file before it is
//! handed on, so that nothing that was read across a change gets out, and the declared length is never completed.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cap_std::fs::{Dir, File, FileExt, OpenOptions, OpenOptionsExt};
use futures_util::stream;

use super::path::Target;
use super::version::Version;
use crate::upstream::{BodyError, BodyStream};

/// Bytes read at a time: large enough that the way to the blocking pool and back (about 10 µs) is little against the
/// copy, small enough that a thousand slow readers hold 128 MiB.
pub const PIECE_BYTES: usize = 128 * 1024;

/// What is at a path.
pub(super) enum Found {
    File(Opened),
    DirectoryWithoutSlash,
    /// Nothing, or nothing that may be served.
    Nothing,
    /// The system does not let this process read it.
    Forbidden,
}

/// An open regular file and the version it had.
pub(super) struct Opened {
    file: Arc<File>,
    pub(super) version: Version,
}

/// Looks for `target` below `root`. Blocks.
///
/// # Errors
/// What is neither the request's nor the file's doing: no descriptors left, a failing disk.
pub(super) fn find(root: &Dir, target: &Target) -> io::Result<Found> {
    let mut path = target.relative();
    if target.slash {
        path.push_str("/index.html");
    }
    let mut options = OpenOptions::new();
    // A FIFO without a writer would otherwise hold the open, and its thread, for ever.
    options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = match root.open_with(&path, &options) {
        Ok(file) => file,
        Err(error) => return refused(error),
    };
    let metadata = file.metadata()?;
    Ok(if metadata.is_file() {
        Found::File(Opened {
            file: Arc::new(file),
            version: Version::of(&metadata),
        })
    } else if metadata.is_dir() && !target.slash {
        Found::DirectoryWithoutSlash
    } else {
        Found::Nothing
    })
}

fn refused(error: io::Error) -> io::Result<Found> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            Ok(Found::Nothing)
        }
        io::ErrorKind::PermissionDenied => match error.raw_os_error() {
            // The system's own refusal has a number; the one of a path that leads out of the directory has none.
            Some(_) => Ok(Found::Forbidden),
            None => Ok(Found::Nothing),
        },
        _ => match error.raw_os_error() {
            // A loop of links; a socket or a device without a driver; a link that leads out, in the kernel's words.
            Some(libc::ELOOP | libc::ENXIO | libc::ENODEV | libc::EXDEV) => Ok(Found::Nothing),
            _ => Err(error),
        },
    }
}

impl Opened {
    /// The bytes from `start` to before `end` as a body. Reads a piece when it is polled for one.
    pub(super) fn read(self, start: u64, end: u64) -> BodyStream {
        let Self { file, version } = self;
        Box::pin(stream::try_unfold(start, move |offset| {
            let file = Arc::clone(&file);
            async move {
                if offset >= end {
                    return Ok(None);
                }
                let wanted =
                    usize::try_from(end - offset).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
                let piece =
                    tokio::task::spawn_blocking(move || piece(&file, &version, offset, wanted))
                        .await
                        .map_err(|_| BodyError::Shutdown)??;
                let next = offset + piece.len() as u64;
                Ok(Some((piece, next)))
            }
        }))
    }
}

/// `wanted` bytes at `offset` of a file that is still the version it was. Blocks.
fn piece(file: &File, version: &Version, offset: u64, wanted: usize) -> Result<Bytes, BodyError> {
    let mut buffer = BytesMut::zeroed(wanted);
    match file.read_exact_at(&mut buffer, offset) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(BodyError::Upstream(
                "the file became shorter while it was sent".to_owned(),
            ));
        }
        Err(error) => return Err(BodyError::Upstream(format!("reading the file: {error}"))),
    }
    let metadata = file
        .metadata()
        .map_err(|error| BodyError::Upstream(format!("looking at the file: {error}")))?;
    if !Version::of(&metadata).same_content(version) {
        return Err(BodyError::Upstream(
            "the file changed while it was sent".to_owned(),
        ));
    }
    Ok(buffer.freeze())
}
