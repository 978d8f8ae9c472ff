//! The last step: each request is counted once and, where the operator wants it, written down once, under the same
//! word that its `Cache-Status` carried.
//!
//! Workers append records to a buffer of their own; one thread collects the buffers and writes them. So a hit costs
//! a record's formatting and an uncontended lock, and a slow terminal or pipe stalls no worker: a buffer that is
//! full drops its newcomers, and says how many.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use parking_lot::Mutex;

use super::metrics::ServeMetrics;
use super::record::{self, Ended};

/// 1 MiB a worker, some 3,000 records: what collects while the writer waits for its reader.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The writer is woken at this fill, before its next round.
const BATCH_BYTES_WAKE: usize = 64 << 10;

/// How long a record may wait in a batch that does not fill.
const ROUND: Duration = Duration::from_millis(200);

/// The thread that writes access records. Stopping it writes what is left.
#[derive(Debug)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    json: bool,
    stop: AtomicBool,
    batches: Mutex<Vec<Arc<Mutex<Batch>>>>,
    metrics: ServeMetrics,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    dropped: u64,
}

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct AccessWriter {
    shared: Arc<Shared>,
    batch: Arc<Mutex<Batch>>,
    writer: Thread,
}

impl AccessLog {
    /// Starts the writer on `out`.
    pub(crate) fn start(
        json: bool,
        metrics: ServeMetrics,
        mut out: Box<dyn Write + Send>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            json,
            stop: AtomicBool::new(false),
            batches: Mutex::new(Vec::new()),
            metrics,
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                while !theirs.stop.load(Ordering::Acquire) {
                    thread::park_timeout(ROUND);
                    theirs.collect(&mut *out);
                }
                theirs.collect(&mut *out);
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A writer for one worker. `None` once the log was stopped.
    pub(crate) fn writer(&self) -> Option<AccessWriter> {
        let writer = self.thread.as_ref()?.thread().clone();
        let batch = Arc::new(Mutex::new(Batch::default()));
        self.shared.batches.lock().push(Arc::clone(&batch));
        Some(AccessWriter {
            shared: Arc::clone(&self.shared),
            batch,
            writer,
        })
    }
}

impl Drop for AccessLog {
    /// Waits until everything recorded so far is written.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the access log's writer panicked");
            }
        }
    }
}

impl Shared {
    fn collect(&self, out: &mut dyn Write) {
        let batches: Vec<_> = self.batches.lock().iter().map(Arc::clone).collect();
        for batch in batches {
            let Batch { bytes, dropped } = std::mem::take(&mut *batch.lock());
            // A log that cannot be written is no reason to stop serving; the records are lost and counted.
            if !bytes.is_empty() && out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                self.metrics
                    .records_dropped(u64::try_from(lines).unwrap_or(u64::MAX));
            }
            if dropped > 0 {
                self.metrics.records_dropped(dropped);
            }
        }
    }
}

impl AccessWriter {
    /// Records one request that has ended. Does not wait.
    pub(crate) fn record(&self, ended: Ended<'_>) {
        let mut batch = self.batch.lock();
        let before = batch.bytes.len();
        if before >= BATCH_BYTES_MAX {
            batch.dropped += 1;
            return;
        }
        record::write(&mut batch.bytes, self.shared.json, ended);
        let wake = before < BATCH_BYTES_WAKE && batch.bytes.len() >= BATCH_BYTES_WAKE;
        drop(batch);
        if wake {
            self.writer.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use stoq_cache::time::Timestamp;

    use super::super::sample;
    use super::*;
    use crate::service::{End, Sent};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn sent() -> Sent {
        Sent {
            status: None,
            body_bytes: 0,
            request_body_bytes: 0,
            head_after: None,
            total: Duration::ZERO,
            end: End::ClientLeft,
            inline: false,
        }
    }

    #[test]
    fn every_record_of_every_worker_is_written_before_the_log_stops() {
        let page = Page::default();
        let metrics = ServeMetrics::register(&mut Registry::default());
        let log = AccessLog::start(true, metrics, Box::new(page.clone())).unwrap();
        let writers: Vec<_> = (0..3).map(|_| log.writer().unwrap()).collect();
        let head = sample::head("GET https://a.test/ 3");
        for _ in 0..1000 {
            for writer in &writers {
                let request = head.view();
                writer.record(Ended {
                    request: &request,
                    site: None,
                    outcome: None,
                    sent: &sent(),
                    now: Timestamp(0),
                });
            }
        }
        drop(log);
        let text = String::from_utf8(page.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 3000);
        assert!(
            text.lines()
                .all(|line| line.contains("\"outcome\":\"unanswered\""))
        );
    }

    #[test]
    fn a_log_nobody_reads_drops_records_and_counts_them() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                // Returns when the test lets go.
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut registry = Registry::default();
        let metrics = ServeMetrics::register(&mut registry);
        let (release, held) = std::sync::mpsc::sync_channel(0);
        let log = AccessLog::start(false, metrics, Box::new(Stuck(held))).unwrap();
        let writer = log.writer().unwrap();
        let head = sample::head("GET https://a.test/ 3");
        let request = head.view();
        let ended = Ended {
            request: &request,
            site: None,
            outcome: None,
            sent: &sent(),
            now: Timestamp(0),
        };
        // More than the stuck write and the batch behind it can hold.
        while writer.batch.lock().dropped == 0 {
            writer.record(ended);
        }
        drop(release);
        drop(log);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            !text.contains("stoq_edge_access_records_dropped_total 0"),
            "{text}"
        );
        assert!(
            text.contains("stoq_edge_access_records_dropped_total"),
            "{text}"
        );
    }
}
