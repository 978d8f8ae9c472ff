//! Audit events as lines of JSON in files of bounded size.
//!
//! A thread writes; who records an event never waits for the disk. When events come faster than the disk takes them, or
//! the disk fails, those that find the queue full are counted, and the next line that can be written says how many are
//! missing: a gap in the file is seen in the file. So are those of a peer that is refused so often that its lines would push out all others: a node has 64 at once and six a minute, all
//! strangers together 1,024 and one a second. That a node joined always has its line.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::allowance::Allowances;
use super::audit::{AuditEvent, AuditSink, AuditWhat};
use super::error::IdentityError;

/// Events that wait for the writer: 1,024, some 512 KiB. The next is counted and left out.
const QUEUE: usize = 1024;

/// Bounds of an [`AuditFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditLimits {
    /// Bytes of one file, from which on the next is begun. Default 16 MiB, some 60,000 events.
    pub file_bytes: u64,
    /// Files kept, the one being written included: `audit.log`, `audit.log.1`, … the last of them the oldest.
    /// Default 4, so 64 MiB in all.
    pub files: u32,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self {
            file_bytes: 16 * 1024 * 1024,
            files: 4,
        }
    }
}

/// Writes events to a file (mode 0600), a line each, on a thread of its own. Dropping it writes what is queued and waits
/// for the disk.
pub struct AuditFile {
    /// Taken when dropped, which ends the thread.
    queue: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    missing: Arc<AtomicU64>,
    allowances: Mutex<Allowances>,
}

impl fmt::Debug for AuditFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditFile")
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

impl AuditFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be opened for writing, or no thread can be started.
    pub fn open(path: &Path, limits: AuditLimits) -> Result<Self, IdentityError> {
        let at = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        let mut log = Log {
            path: path.to_owned(),
            limits,
            file: None,
            bytes: 0,
        };
        log.open().map_err(at)?;
        let (queue, lines) = sync_channel(QUEUE);
        let missing = Arc::new(AtomicU64::new(0));
        let counter = missing.clone();
        let writer = thread::Builder::new()
            .name("stoq-audit".into())
            .spawn(move || write(&mut log, &lines, &counter))
            .map_err(at)?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            missing,
            allowances: Mutex::default(),
        })
    }
}

impl AuditSink for AuditFile {
    fn record(&self, event: &AuditEvent) {
        let Some(queue) = &self.queue else { return };
        let allowed = event.what == AuditWhat::Joined || {
            let mut allowances = self.allowances.lock();
            allowances.take(event.proven(), Instant::now())
        };
        if !allowed {
            self.missing.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            queue.try_send(event.to_json())
        {
            self.missing.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for AuditFile {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the audit file panicked");
        }
    }
}

/// Writes lines until nobody can send another.
fn write(log: &mut Log, lines: &Receiver<String>, missing: &AtomicU64) {
    let mut failing = false;
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            let lost = missing.swap(0, Ordering::Relaxed);
            let told = log.gap(lost);
            let untold = if told.is_ok() { 0 } else { lost };
            let written = told.and_then(|()| log.line(&line));
            if let Err(error) = &written {
                missing.fetch_add(untold + 1, Ordering::Relaxed);
                log.file = None;
                if !failing {
                    tracing::error!(path = %log.path.display(), %error, "audit lines are lost");
                }
            }
            failing = written.is_err();
            next = lines.try_recv().ok();
        }
        // All that came is on the device before the next wait.
        if let Some(file) = &log.file
            && let Err(error) = file.sync_data()
        {
            tracing::error!(path = %log.path.display(), %error, "audit lines may be lost");
        }
    }
}

struct Log {
    path: PathBuf,
    limits: AuditLimits,
    /// `None` after a fault: opened anew for the next line.
    file: Option<File>,
    bytes: u64,
}

impl Log {
    fn open(&mut self) -> io::Result<&mut File> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        self.bytes = file.metadata()?.len();
        if self.bytes > 0 {
            // A process that was killed may have left half a line.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                self.bytes += 1;
            }
        }
        Ok(self.file.insert(file))
    }

    fn gap(&mut self, lost: u64) -> io::Result<()> {
        if lost == 0 {
            return Ok(());
        }
        self.line(&format!("{{\"event\":\"missing\",\"count\":{lost}}}"))
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        let bytes = line.len() as u64 + 1;
        if self.bytes > 0 && self.bytes + bytes > self.limits.file_bytes {
            self.rotate()?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.open()?,
        };
        // One call, so that a line is there whole or, on a full disk, cut at the end of the file.
        file.write_all(format!("{line}\n").as_bytes())?;
        self.bytes += bytes;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            file.sync_data()?;
        }
        for number in (1..self.limits.files.max(1)).rev() {
            let from = match number {
                1 => self.path.clone(),
                older => self.numbered(older - 1),
            };
            match fs::rename(from, self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.limits.files <= 1 {
            fs::remove_file(&self.path)?;
        }
        // If it cannot be opened now, what is tried next is that, and not to rename once more: the oldest files would be lost.
        self.bytes = 0;
        self.open().map(drop)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::identity::NodeId;
    use crate::wire::CloseCode;

    fn event(n: usize) -> AuditEvent {
        AuditEvent::new(None, AuditWhat::Joined, &format!("event {n:04}"))
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn events_are_there_in_order_after_a_drop_and_beside_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        for round in 0..2 {
            let file = AuditFile::open(&path, AuditLimits::default()).unwrap();
            (0..100).for_each(|n| file.record(&event(100 * round + n)));
        }
        let found = lines(&path);
        assert_eq!(found.len(), 200);
        for (n, line) in found.iter().enumerate() {
            assert_eq!(line, &event(n).to_json());
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn files_and_their_number_are_bounded_and_hold_the_latest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let line = event(0).to_json().len() as u64 + 1;
        let limits = AuditLimits {
            file_bytes: 10 * line,
            files: 3,
        };
        let file = AuditFile::open(&path, limits).unwrap();
        (0..95).for_each(|n| file.record(&event(n)));
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let kept: Vec<_> = ["audit.log.2", "audit.log.1", "audit.log"]
            .iter()
            .flat_map(|name| lines(&folder.path().join(name)))
            .collect();
        let latest: Vec<_> = (70..95).map(|n| event(n).to_json()).collect();
        assert_eq!(kept, latest);
    }

    #[test]
    fn half_a_line_of_a_killed_process_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(&path, "{\"time\"").unwrap();
        let file = AuditFile::open(&path, AuditLimits::default()).unwrap();
        file.record(&event(1));
        drop(file);
        assert_eq!(lines(&path), ["{\"time\"".to_owned(), event(1).to_json()]);
    }

    #[test]
    fn strangers_push_nothing_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let file = AuditFile::open(&path, AuditLimits::default()).unwrap();
        let what = AuditWhat::Handshake(CloseCode::Foreign);
        let mut stranger = AuditEvent::new(None, what, "flood");
        for number in 0..100_000_u32 {
            // Whatever they call themselves.
            stranger.node_id = Some(NodeId::of_spki(&number.to_be_bytes()));
            file.record(&stranger);
        }
        drop(file);
        // The bound, and one for each second that this took.
        let lines = lines(&path).len();
        assert!((1..2_000).contains(&lines), "{lines}");
    }

    #[test]
    fn gap_is_written_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let file = AuditFile::open(&path, AuditLimits::default()).unwrap();
        file.missing.store(7, Ordering::Relaxed);
        file.record(&event(1));
        drop(file);
        assert_eq!(
            lines(&path),
            [
                "{\"event\":\"missing\",\"count\":7}".to_owned(),
                event(1).to_json()
            ]
        );
    }
}
