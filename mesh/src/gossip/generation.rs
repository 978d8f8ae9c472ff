//! The number by which a process of a node is later than the one before: wall time, and more than the last one, which a file remembers.
//!
//! Others believe the latest process of a node and no other. So a clock that was set back must not make a new process look like an old one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const FILE: &str = "generation";

/// Unix milliseconds; 0 before 1970.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Gives generations, each greater than those before.
#[derive(Debug)]
pub(super) struct Generations {
    file: Option<PathBuf>,
    last: u64,
}

impl Generations {
    /// That are remembered in this directory, if there is one.
    pub(super) fn new(dir: Option<&Path>) -> Self {
        let file = dir.map(|dir| dir.join(FILE));
        let last = file.as_deref().map_or(0, |file| match read(file) {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "which process was the last is not known; the clock tells");
                0
            }
        });
        Self { file, last }
    }

    #[cfg(test)]
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// The next, greater than `above` too.
    pub(super) fn next(&mut self, above: u64, wall_ms: u64) -> u64 {
        let least = self.last.max(above).saturating_add(1);
        self.last = wall_ms.max(least);
        if let Some(file) = &self.file
            && let Err(error) = write(file, self.last)
        {
            tracing::warn!(file = %file.display(), %error, "this process is not remembered; after a restart the clock tells");
        }
        self.last
    }
}

fn read(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn write(file: &Path, generation: u64) -> io::Result<()> {
    let temporary = file.with_extension("new");
    fs::write(&temporary, format!("{generation}\n"))?;
    fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_has_a_greater_generation_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Generations::new(Some(dir.path()));
        assert_eq!(first.next(0, 1_000), 1_000);
        assert_eq!(first.next(5_000, 1_001), 5_001);
        let mut second = Generations::new(Some(dir.path()));
        assert_eq!(second.next(0, 400), 5_002);
        assert_eq!(second.next(0, 9_000), 9_000);
        fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert_eq!(Generations::new(Some(dir.path())).next(0, 7), 7);
    }
}
