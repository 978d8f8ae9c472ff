//! A device moved by io_uring: by the ring of whoever asks, or by threads where that one has none.

use std::sync::{Arc, OnceLock};

use super::{
    file::BlockFile,
    job::{Job, Jobs},
    pool::ThreadPool,
    ring::Ring,
};

/// A device moved by io_uring.
#[derive(Debug)]
pub(super) struct Uring {
    file: Arc<BlockFile>,
    /// For runtimes that are refused a ring, and callers outside of one. Its threads start when there is work.
    threads: OnceLock<ThreadPool>,
}

impl Uring {
    pub(super) fn new(file: Arc<BlockFile>) -> Self {
        let threads = OnceLock::new();
        Self { file, threads }
    }
}

impl Jobs for Uring {
    fn start(&self, jobs: Vec<Job>) {
        let refused = match Ring::current() {
            Some(ring) => ring.start(&self.file, jobs),
            None => Err(jobs),
        };
        if let Err(jobs) = refused {
            let threads = self
                .threads
                .get_or_init(|| ThreadPool::new(Arc::clone(&self.file)));
            threads.start(jobs);
        }
    }

    fn file(&self) -> &BlockFile {
        &self.file
    }
}

impl Drop for Uring {
    /// Waits for what is under way, so that nothing is written after whoever comes next has opened the file.
    fn drop(&mut self) {
        drop(self.threads.take());
        if !Ring::quiesce(&self.file) {
            tracing::warn!("the disk does not answer: operations are left behind");
        }
    }
}
