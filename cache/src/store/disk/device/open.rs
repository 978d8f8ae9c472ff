//! Which engine moves a file's blocks: found out by trying, once, and said.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    BLOCK_BYTES, Device, Extent, file::BlockFile, job::ByJobs, pool::ThreadPool, ring, uring::Uring,
};

/// What moves blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring: no thread waits, completions come in groups.
    IoUring,
    /// Threads with blocking system calls, at most [`THREADS_MAX`](super::THREADS_MAX) a device.
    Threads,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        })
    }
}

/// What came of opening a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What moves its blocks.
    pub engine: Engine,
    /// Whether the page cache is passed by.
    pub direct: bool,
    /// Why it is not io_uring past the page cache, a sentence for each of the two. Empty if it is, or if threads were asked for.
    pub why: Vec<String>,
}

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, read or extended.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An engine was asked for that this machine refuses.
    #[error("{path}: {engine} was asked for, but {why}; set the engine to `auto` or `threads`", path = path.display())]
    Engine {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        engine: Engine,
        /// What stands against it.
        why: String,
    },
}

/// Opens the device of a file, which is made if it is absent. Blocks; milliseconds.
///
/// Without an `engine`, io_uring where it is granted, else threads. The page cache is passed by where the filesystem can. Both are tried with a
/// real read before they are believed.
///
/// # Errors
/// [`OpenError`]: the file fails, or the engine that was asked for is refused.
pub fn open(path: &Path, engine: Option<Engine>) -> Result<(Arc<dyn Device>, Opened), OpenError> {
    let (file, not_direct) = open_file(path).map_err(|source| OpenError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut opened = Opened {
        engine: engine.unwrap_or(Engine::IoUring),
        direct: not_direct.is_none(),
        why: not_direct.into_iter().collect(),
    };
    let file = Arc::new(file);
    if opened.engine == Engine::IoUring {
        match (ring::probe(), engine) {
            (Ok(()), _) => return Ok((Arc::new(ByJobs(Uring::new(file))), opened)),
            (Err(why), Some(engine)) => {
                return Err(OpenError::Engine {
                    path: path.to_owned(),
                    engine,
                    why,
                });
            }
            (Err(why), None) => {
                opened.engine = Engine::Threads;
                opened.why.push(format!("{why}: threads move the blocks"));
            }
        }
    }
    Ok((Arc::new(ByJobs(ThreadPool::new(file))), opened))
}

/// The file, past the page cache if a read that way works, and what stood against it.
fn open_file(path: &Path) -> io::Result<(BlockFile, Option<String>)> {
    let refused = match BlockFile::open(path, true) {
        Ok(file) => match probe(&file) {
            Ok(()) => return Ok((file, None)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => error,
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => error,
        Err(error) => return Err(error),
    };
    let file = BlockFile::open(path, false)?;
    probe(&file)?;
    let why = format!("the filesystem refuses O_DIRECT ({refused}): the page cache is used");
    Ok((file, Some(why)))
}

/// Reads the first block, which an empty file gets for as long as that takes.
fn probe(file: &BlockFile) -> io::Result<()> {
    let first = Extent {
        offset: 0,
        len: BLOCK_BYTES,
    };
    let len = file.len();
    if len >= BLOCK_BYTES as u64 {
        return file.read(first).map(drop);
    }
    file.set_len(BLOCK_BYTES as u64)?;
    let read = file.read(first).map(drop);
    file.set_len(len)?;
    read
}

#[cfg(test)]
mod tests;
