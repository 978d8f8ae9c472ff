//! Classes of paths and their borders.

use std::fmt;
use std::time::Duration;

/// How far away the other end is, by the least round trip seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// One building: less than 2 ms.
    Lan,
    /// One city or region: less than 20 ms.
    Metro,
    /// Farther.
    Wan,
}

/// What a path was seen to carry. A class is named after the link speed in its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bandwidth {
    /// Up to 316 Mbit/s.
    Mbit100,
    /// Up to 1.58 Gbit/s.
    Gbit1,
    /// Up to 5 Gbit/s.
    Gbit2_5,
    /// Above.
    Gbit10,
}

/// Bytes a second in a megabit a second.
const MBIT: u64 = 1_000_000 / 8;

impl Distance {
    /// All, nearest first.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Metro, Self::Wan];

    /// The class of a round trip.
    #[must_use]
    pub fn of(rtt: Duration) -> Self {
        Self::ALL
            .into_iter()
            .find(|class| class.below().is_none_or(|border| rtt < border))
            .unwrap_or(Self::Wan)
    }

    /// Round trips of this class are shorter than this; `None`: there is no border.
    #[must_use]
    pub const fn below(self) -> Option<Duration> {
        match self {
            Self::Lan => Some(Duration::from_millis(2)),
            Self::Metro => Some(Duration::from_millis(20)),
            Self::Wan => None,
        }
    }

    /// Round trips of this class are at least this.
    #[must_use]
    pub const fn at_least(self) -> Duration {
        match self {
            Self::Lan => Duration::ZERO,
            Self::Metro => Duration::from_millis(2),
            Self::Wan => Duration::from_millis(20),
        }
    }

    /// As a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Metro => "metro",
            Self::Wan => "wan",
        }
    }
}

impl Bandwidth {
    /// All, slowest first.
    pub const ALL: [Self; 4] = [Self::Mbit100, Self::Gbit1, Self::Gbit2_5, Self::Gbit10];

    /// The class of a rate in bytes a second.
    #[must_use]
    pub fn of(rate: u64) -> Self {
        Self::ALL
            .into_iter()
            .find(|class| class.below().is_none_or(|border| rate < border))
            .unwrap_or(Self::Gbit10)
    }

    /// Rates of this class are below this many bytes a second: the geometric middle between its link speed and the next.
    /// `None`: there is no border.
    #[must_use]
    pub const fn below(self) -> Option<u64> {
        match self {
            Self::Mbit100 => Some(316 * MBIT),
            Self::Gbit1 => Some(1_580 * MBIT),
            Self::Gbit2_5 => Some(5_000 * MBIT),
            Self::Gbit10 => None,
        }
    }

    /// Rates of this class are at least this many bytes a second.
    #[must_use]
    pub const fn at_least(self) -> u64 {
        match self {
            Self::Mbit100 => 0,
            Self::Gbit1 => 316 * MBIT,
            Self::Gbit2_5 => 1_580 * MBIT,
            Self::Gbit10 => 5_000 * MBIT,
        }
    }

    /// The link speed it is named after, bytes a second.
    #[must_use]
    pub const fn nominal(self) -> u64 {
        match self {
            Self::Mbit100 => 100 * MBIT,
            Self::Gbit1 => 1_000 * MBIT,
            Self::Gbit2_5 => 2_500 * MBIT,
            Self::Gbit10 => 10_000 * MBIT,
        }
    }

    /// As a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mbit100 => "100mbit",
            Self::Gbit1 => "1gbit",
            Self::Gbit2_5 => "2.5gbit",
            Self::Gbit10 => "10gbit",
        }
    }
}

/// Where a path belongs, as far as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathClass {
    /// From the round trip.
    pub distance: Distance,
    /// From what was delivered. `None`: too little was sent to tell.
    pub bandwidth: Option<Bandwidth>,
}

impl fmt::Display for PathClass {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bandwidth = self.bandwidth.map_or("unmeasured", Bandwidth::label);
        write!(out, "{} {bandwidth}", self.distance.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_meet_and_a_link_speed_is_in_its_own_class() {
        for two in Distance::ALL.windows(2) {
            assert_eq!(two[0].below(), Some(two[1].at_least()));
        }
        for two in Bandwidth::ALL.windows(2) {
            assert_eq!(two[0].below(), Some(two[1].at_least()));
        }
        for class in Distance::ALL {
            assert_eq!(Distance::of(class.at_least()), class);
        }
        for class in Bandwidth::ALL {
            assert_eq!(Bandwidth::of(class.at_least()), class);
            // As measured on a link of that speed: headers cost some per cent.
            for per_cent in [75, 90, 95, 100, 110] {
                assert_eq!(Bandwidth::of(class.nominal() / 100 * per_cent), class);
            }
        }
    }
}
