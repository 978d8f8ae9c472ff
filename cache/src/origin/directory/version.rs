//! Which version of a file this is, as a validator.
//!
//! The entity tag is made of size, modification time, change time and inode number. A file that is replaced gets
//! another inode or change time; one that is written in place gets another modification time, and setting that back
//! (`touch -r`, `rsync -t`) leaves a change time nobody can set. Both move in steps of the kernel's clock, at most
//! 10 ms: within one step a file can be written twice and show the same times.
//!
//! So a tag is strong only for a file that has been left alone for [`SETTLED`]; after that, any write shows. A
//! younger file gets a weak tag, and a different one from its later strong tag, for a weak comparison must not take a
//! version of the unsettled time for the settled one. Not covered: writes through a shared memory mapping, whose
//! times move only when the kernel writes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_std::fs::{Metadata, MetadataExt};
use http::HeaderValue;

/// How long a file must not have changed for its tag to be strong: 200 of the kernel's longest clock steps, and the
/// whole second that RFC 9110 §8.8.2.2 asks for between a change and a strong date.
pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// A file's size and times at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) len: u64,
    /// Nanoseconds since the epoch; before it, negative.
    modified: i128,
    changed: i128,
    inode: u64,
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            len: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Whether the content is the one `earlier` was taken of. The change time is left out: it also moves when another
    /// file is renamed over this one or a link to it made, which does nothing to the bytes being read.
    pub(super) fn same_content(&self, earlier: &Self) -> bool {
        (self.len, self.modified, self.inode) == (earlier.len, earlier.modified, earlier.inode)
    }

    /// The entity tag at `now`.
    pub(super) fn tag(&self, now: SystemTime) -> HeaderValue {
        let now = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let last = self.modified.max(self.changed);
        // A time in the future says nothing about when the file was left alone.
        let settled =
            u128::try_from(last.max(0)).is_ok_and(|last| now >= last + SETTLED.as_nanos());
        let opaque = format!(
            "{:x}-{:x}-{:x}-{:x}",
            self.len, self.modified, self.changed, self.inode
        );
        let tag = if settled {
            format!("\"{opaque}\"")
        } else {
            format!("W/\"{opaque}-new\"")
        };
        HeaderValue::try_from(tag).expect("hexadecimal digits and dashes")
    }

    /// `Last-Modified` in whole seconds, never later than `now`.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.8.2.1
    //# An origin server with a clock (as defined in Section 5.6.7) MUST NOT
    //# generate a Last-Modified date that is later than the server's time of
    //# message origination (Date).
    pub(super) fn last_modified(&self, now: SystemTime) -> SystemTime {
        let seconds = u64::try_from(self.modified / 1_000_000_000).unwrap_or(0);
        UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .map_or(now, |time| time.min(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Version = Version {
        len: 3,
        modified: 100_000_000_000,
        changed: 100_000_000_000,
        inode: 7,
    };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_just_written_has_a_weak_tag_that_its_strong_one_does_not_match() {
        let (young, settled) = (FILE.tag(at(101)), FILE.tag(at(103)));
        let (young, settled) = (young.to_str().unwrap(), settled.to_str().unwrap());
        assert!(young.starts_with("W/") && settled.starts_with('"'));
        assert_ne!(young.strip_prefix("W/"), Some(settled));
    }

    #[test]
    fn a_change_time_alone_makes_another_version() {
        let relinked = Version {
            changed: 101_000_000_000,
            ..FILE
        };
        assert_ne!(relinked.tag(at(200)), FILE.tag(at(200)));
        assert!(
            relinked.same_content(&FILE),
            "but not for the bytes being read"
        );
    }

    #[test]
    fn a_date_in_the_future_is_not_sent() {
        let file = Version {
            modified: 500_000_000_000,
            ..FILE
        };
        assert_eq!(file.last_modified(at(200)), at(200));
        assert!(file.tag(at(200)).to_str().unwrap().starts_with("W/"));
    }
}
