//! A directory as an origin: the files below it, and nothing else of the machine.
//!
//! * The path is taken apart, decoded once and opened component by component below the directory; neither `..`, in
//!   whatever encoding, nor a symbolic link leads out of it ([`cap_std`]; on Linux the kernel sees to it).
//! * Names that begin with a dot are not there (404), for that is where `.git` and `.env` live. The exception is
//!   `/.well-known/`, which RFC 8615 reserves for what is meant to be public.
//! * Only regular files are served; FIFOs, sockets and devices are not there either, and opening one does not hang.
//! * A directory answers with its `index.html`; without a slash at its end, with a redirect to the path that has one.
//!   There are no listings.
//! * GET and HEAD; anything else is 405.
//! * A file that changes while it is sent breaks the body: no reader takes half of one version and half of another
//!   for a file. So replace files by renaming, which leaves those being sent whole.
//!
//! Validators and what they promise are in `version.rs`.

mod answer;
mod file;
mod path;
mod version;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use futures_util::future::BoxFuture;
use http::Method;

use self::path::Target;
use crate::upstream::{FetchRequest, FetchResponse, Upstream, UpstreamError};

/// A directory served as an origin. Cheap to clone; one serves all workers.
///
/// Files are opened and read on the runtime's blocking pool, one piece at a time and only when the body is polled:
/// a response in flight costs [`PIECE_BYTES`] and, while a piece is read, one thread.
#[derive(Debug, Clone)]
pub struct DirOrigin {
    root: Arc<Dir>,
    path: Arc<Path>,
    clock: fn() -> SystemTime,
}

pub use self::file::PIECE_BYTES;

impl DirOrigin {
    /// Opens `path`. Blocks; the directory is held open, so that renaming it changes nothing.
    ///
    /// # Errors
    /// What the system says when it is not there, no directory, or not to be opened.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let root = Dir::open_ambient_dir(&path, ambient_authority())?;
        Ok(Self {
            root: Arc::new(root),
            path: Arc::from(path),
            clock: SystemTime::now,
        })
    }

    /// The same by another clock: what `Date` says, and by what a file counts as left alone. Default: the system's.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock, ..self }
    }

    /// Where it was opened; for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn answer(&self, request: FetchRequest) -> Result<FetchResponse, UpstreamError> {
        let head_only = request.method == Method::HEAD;
        if !head_only && request.method != Method::GET {
            return Ok(answer::method_not_allowed());
        }
        let Some(target) = Target::of(request.path_and_query.path()) else {
            return Ok(answer::not_found(head_only));
        };
        let root = Arc::clone(&self.root);
        let opened = tokio::task::spawn_blocking(move || {
            let found = file::find(&root, &target);
            (found, target)
        });
        let now = (self.clock)();
        // The task does not panic and is not aborted; a runtime going down is an origin that cannot be reached.
        let (found, target) = opened.await.map_err(|error| {
            UpstreamError::Unreachable(format!("{}: {error}", self.path.display()))
        })?;
        match found {
            Ok(file::Found::File(file)) => Ok(answer::file(&request, &target, file, now)),
            Ok(file::Found::DirectoryWithoutSlash) => Ok(answer::redirect(
                &target,
                request.path_and_query.query(),
                head_only,
            )),
            Ok(file::Found::Nothing) => Ok(answer::not_found(head_only)),
            Ok(file::Found::Forbidden) => Ok(answer::forbidden(head_only)),
            Err(error) => Err(UpstreamError::Unreachable(format!(
                "{}: {error}",
                self.path.display()
            ))),
        }
    }
}

impl Upstream for DirOrigin {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(self.answer(request))
    }
}
