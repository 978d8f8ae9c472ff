//! The versions of the wire that this crate speaks.

/// The newest version of the frames described in the [module's header](super).
pub const VERSION: u8 = 2;

/// The oldest version still spoken: the one before it.
pub const VERSION_MIN: u8 = VERSION - 1;

/// The version in the header of every `HELLO`, whatever is being negotiated.
pub(super) const HELLO_VERSION: u8 = 1;

/// The first version with uni-stream messages, datagrams and flags of requests.
pub(crate) const MESSAGES_SINCE: u8 = 2;

/// A range of versions within what this crate speaks. Default: all of it.
///
/// To narrow it is for an upgrade that must be taken back: with [`up_to`](Self::up_to) the version before, a node talks to
/// every other exactly as it did before the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    min: u8,
    max: u8,
}

impl Versions {
    /// From the oldest spoken to `max`; `None` where that is not spoken.
    #[must_use]
    pub const fn up_to(max: u8) -> Option<Self> {
        if max < VERSION_MIN || max > VERSION {
            return None;
        }
        Some(Self {
            min: VERSION_MIN,
            max,
        })
    }

    /// From `min` to the newest; `None` where that is not spoken.
    #[must_use]
    pub const fn from(min: u8) -> Option<Self> {
        if min < VERSION_MIN || min > VERSION {
            return None;
        }
        Some(Self { min, max: VERSION })
    }

    /// The oldest.
    #[must_use]
    pub const fn min(self) -> u8 {
        self.min
    }

    /// The newest.
    #[must_use]
    pub const fn max(self) -> u8 {
        self.max
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            min: VERSION_MIN,
            max: VERSION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_what_is_spoken() {
        for version in 0..=u8::MAX {
            let spoken = (VERSION_MIN..=VERSION).contains(&version);
            assert_eq!(Versions::up_to(version).is_some(), spoken, "{version}");
            assert_eq!(Versions::from(version).is_some(), spoken, "{version}");
        }
        assert_eq!(Versions::up_to(VERSION), Some(Versions::default()));
        assert_eq!(Versions::from(VERSION_MIN), Some(Versions::default()));
    }
}
