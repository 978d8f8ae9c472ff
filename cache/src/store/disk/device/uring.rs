//! A device moved by io_uring: by the ring of whoever asks, or by threads where that one has none.

use std::{
    sync::{Arc, OnceLock, Weak},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    END_WAIT,
    file::BlockFile,
    job::{Job, Jobs},
    pool::ThreadPool,
    ring::Ring,
};

/// A device moved by io_uring.
#[derive(Debug)]
pub(super) struct Uring {
    file: Arc<BlockFile>,
    /// One to each runtime and thread that uses the device. They belong to the tasks that take their answers.
    rings: Mutex<Vec<Weak<Ring>>>,
    /// For runtimes that are refused a ring, and callers outside of one. Its threads start when there is work.
    threads: OnceLock<ThreadPool>,
}

impl Uring {
    pub(super) fn new(file: Arc<BlockFile>) -> Self {
        Self {
            file,
            rings: Mutex::default(),
            threads: OnceLock::new(),
        }
    }
}

impl Jobs for Uring {
    fn start(&self, jobs: Vec<Job>) {
        let refused = match Ring::of(&self.file, &self.rings) {
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
        let rings = self.rings.get_mut().iter().filter_map(Weak::upgrade);
        let rings: Vec<_> = rings.collect();
        let until = Instant::now() + END_WAIT;
        // Every operation holds the file; a ring that is ending with its runtime has them answered too.
        while Arc::strong_count(&self.file) > 1 {
            if Instant::now() > until {
                tracing::warn!("the disk does not answer: operations are left behind");
                break;
            }
            rings.iter().for_each(|ring| ring.reap());
            if Arc::strong_count(&self.file) > 1 {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
        rings.iter().for_each(|ring| ring.close());
    }
}
