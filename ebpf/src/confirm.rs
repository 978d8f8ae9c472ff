//! Enabling on trial: what was enabled is taken back unless somebody who still reaches the machine confirms it; and the
//! record of a confirmed enable, without which nothing is attached at a start.
//!
//! An operator who cuts off their own way in cannot confirm, so the way in comes back by itself. Time is passed in.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::probe::Mode;

/// The shortest trial: long enough to type the confirmation.
pub const TRIAL_MIN: Duration = Duration::from_secs(1);
/// The longest trial: an hour. Who wants longer wants to confirm.
pub const TRIAL_MAX: Duration = Duration::from_secs(3600);

/// Whether what is attached stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It is taken back at this instant unless it is confirmed before.
    Until(Instant),
    /// Somebody confirmed it, or it was on record.
    Confirmed,
}

impl Trial {
    /// A trial that begins now; its length is brought between [`TRIAL_MIN`] and [`TRIAL_MAX`].
    #[must_use]
    pub fn begin(now: Instant, length: Duration) -> Self {
        Self::Until(now + length.clamp(TRIAL_MIN, TRIAL_MAX))
    }

    /// Confirms. False where the trial is over already: what was enabled goes, or has gone.
    #[must_use]
    pub fn confirm(&mut self, now: Instant) -> bool {
        if self.is_over(now) {
            return false;
        }
        *self = Self::Confirmed;
        true
    }

    /// Whether the time to confirm has passed.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        matches!(self, Self::Until(end) if now >= *end)
    }

    /// How long is left to confirm; none where nothing waits for it.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Until(end) => Some(end.saturating_duration_since(now)),
            Self::Confirmed => None,
        }
    }
}

/// The file's name in a node's state directory.
const FILE: &str = "xdp-confirmed.json";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 4096;
/// The form the file has; another is not understood.
const FORM: u32 = 1;

/// What somebody confirmed. Attaching at a start is allowed for exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    form: u32,
    /// The interface.
    pub interface: String,
    /// How it ran there.
    pub mode: Mode,
    /// SHA-256 of the program's object, in hex.
    pub object: String,
    /// The driver, where there was one to name.
    pub driver: Option<String>,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Ourselves, or the disk.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not one of ours. It counts as no record.
    #[error("{path}: not a record of a confirmed enable: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a start may not attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unconfirmed {
    /// Nobody has confirmed anything on this machine.
    Never,
    /// Something else was confirmed: what, then and now.
    Differs {
        /// Which part.
        part: &'static str,
        /// As it was confirmed.
        then: String,
        /// As it would be.
        now: String,
    },
}

impl fmt::Display for Unconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("no enable has been confirmed on this machine"),
            Self::Differs { part, then, now } => {
                write!(f, "the {part} is {now}, and {then} was confirmed")
            }
        }
    }
}

impl Record {
    /// What is confirmed now.
    #[must_use]
    pub fn new(
        interface: &str,
        mode: Mode,
        object: &str,
        driver: Option<&str>,
        at: std::time::SystemTime,
    ) -> Self {
        Self {
            form: FORM,
            interface: interface.to_owned(),
            mode,
            object: object.to_owned(),
            driver: driver.map(str::to_owned),
            at: at
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }

    /// Writes it into `state_dir`, whole or not at all, and returns once it is on the device.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be written to.
    pub fn store(&self, state_dir: &Path) -> Result<(), RecordError> {
        let path = state_dir.join(FILE);
        let fail = |error| RecordError::Io {
            path: path.clone(),
            error,
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| fail(error.into()))?;
        let beside = state_dir.join(format!("{FILE}.new"));
        // A leftover of a write that was cut off, and never somebody's link.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .map_err(fail)?;
        file.write_all(&text).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        fs::rename(&beside, &path).map_err(fail)?;
        File::open(state_dir)
            .and_then(|directory| directory.sync_all())
            .map_err(fail)
    }

    /// Reads what was confirmed; `None` where nothing was.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or is not one of ours: no record then either.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = state_dir.join(FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RecordError::Io { path, error }),
            Ok(file) => file,
        };
        let mut text = Vec::new();
        if let Err(error) = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text) {
            return Err(RecordError::Io { path, error });
        }
        let reason = if text.len() as u64 > FILE_BYTES_MAX {
            format!("more than {FILE_BYTES_MAX} bytes")
        } else {
            match serde_json::from_slice::<Self>(&text) {
                Ok(record) if record.form == FORM => return Ok(Some(record)),
                Ok(record) => format!("form {}, this program knows {FORM}", record.form),
                Err(error) => error.to_string(),
            }
        };
        Err(RecordError::Malformed { path, reason })
    }

    /// Forgets what was confirmed: what `disable` does.
    ///
    /// # Errors
    ///
    /// Where the file is there and cannot be removed.
    pub fn remove(state_dir: &Path) -> Result<(), RecordError> {
        let path = state_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::Io { path, error })
            }
            _ => Ok(()),
        }
    }

    /// Whether a start may attach what `now` describes. Everything but the date has to be the same: another driver, mode
    /// or program is one that nobody has seen the machine survive.
    ///
    /// # Errors
    ///
    /// What differs, or that there is no record.
    pub fn allows(record: Option<&Self>, now: &Self) -> Result<(), Unconfirmed> {
        let Some(record) = record else {
            return Err(Unconfirmed::Never);
        };
        let none = || "unknown".to_owned();
        let parts = [
            ("interface", record.interface.clone(), now.interface.clone()),
            ("mode", record.mode.to_string(), now.mode.to_string()),
            ("program", record.object.clone(), now.object.clone()),
            (
                "driver",
                record.driver.clone().unwrap_or_else(none),
                now.driver.clone().unwrap_or_else(none),
            ),
        ];
        match parts.into_iter().find(|(_, then, now)| then != now) {
            None => Ok(()),
            Some((part, then, now)) => Err(Unconfirmed::Differs { part, then, now }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn record() -> Record {
        Record::new("eth0", Mode::Native, "aa", Some("ixgbe"), SystemTime::now())
    }

    #[test]
    fn a_trial_that_nobody_confirms_is_over_at_its_end_and_not_before() {
        let start = Instant::now();
        let trial = Trial::begin(start, Duration::from_secs(60));
        assert!(!trial.is_over(start + Duration::from_millis(59_999)));
        assert!(trial.is_over(start + Duration::from_secs(60)));
        assert_eq!(
            trial.left(start + Duration::from_secs(20)),
            Some(Duration::from_secs(40))
        );
    }

    #[test]
    fn confirmed_in_time_it_stays() {
        let start = Instant::now();
        let mut trial = Trial::begin(start, Duration::from_secs(60));
        assert!(trial.confirm(start + Duration::from_secs(59)));
        assert!(!trial.is_over(start + Duration::from_secs(1_000_000)));
        assert_eq!(trial.left(start), None);
    }

    #[test]
    fn a_confirmation_that_comes_too_late_confirms_nothing() {
        let start = Instant::now();
        let mut trial = Trial::begin(start, Duration::from_secs(60));
        let late = start + Duration::from_secs(60);
        assert!(!trial.confirm(late));
        assert!(trial.is_over(late));
    }

    #[test]
    fn a_trial_is_neither_nothing_nor_for_ever() {
        let start = Instant::now();
        assert_eq!(
            Trial::begin(start, Duration::ZERO).left(start),
            Some(TRIAL_MIN)
        );
        assert_eq!(
            Trial::begin(start, Duration::MAX).left(start),
            Some(TRIAL_MAX)
        );
    }

    #[test]
    fn what_was_confirmed_is_what_a_later_start_finds() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), None);
        record().store(dir.path()).unwrap();
        let mut second = record();
        second.interface = "eth1".to_owned();
        second.store(dir.path()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), Some(second));
        Record::remove(dir.path()).unwrap();
        Record::remove(dir.path()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_not_one_of_ours_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let good = serde_json::to_string(&record()).unwrap();
        for text in [
            String::new(),
            "{}".to_owned(),
            good.replace("\"form\":1", "\"form\":2"),
            good.replace("{", "{\"more\":1,"),
            " ".repeat(5000),
        ] {
            fs::write(dir.path().join(FILE), &text).unwrap();
            assert!(
                matches!(Record::load(dir.path()), Err(RecordError::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn only_exactly_what_was_confirmed_may_be_attached_at_a_start() {
        let then = record();
        assert_eq!(Record::allows(None, &then), Err(Unconfirmed::Never));
        assert_eq!(Record::allows(Some(&then), &record()), Ok(()));
        type Change = fn(&mut Record);
        let changes: [(&str, Change); 4] = [
            ("interface", |now| now.interface = "eth1".to_owned()),
            ("mode", |now| now.mode = Mode::Generic),
            ("program", |now| now.object = "bb".to_owned()),
            ("driver", |now| now.driver = None),
        ];
        for (part, change) in changes {
            let mut now = record();
            change(&mut now);
            let refusal = Record::allows(Some(&then), &now).unwrap_err();
            assert!(refusal.to_string().contains(part), "{refusal}");
        }
    }
}
