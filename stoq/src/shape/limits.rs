//! The settings of a shaper: rates, weights, and whose bytes count as what.

use std::num::{NonZeroU16, NonZeroU64};

/// What bytes are sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// For a client that waits.
    Serve,
    /// For another node, whose client waits.
    Fill,
    /// For nobody yet: copies made ahead of need.
    Replicate,
}

impl Class {
    /// All of them. Of two that are equally far behind their share, the earlier goes first.
    pub const ALL: [Self; 3] = [Self::Serve, Self::Fill, Self::Replicate];

    /// Its place in [`ALL`](Self::ALL).
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Serve => 0,
            Self::Fill => 1,
            Self::Replicate => 2,
        }
    }

    /// Its name in metrics and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Fill => "fill",
            Self::Replicate => "replicate",
        }
    }
}

/// A limit: bytes a second, and how many may pass at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    bytes_per_second: NonZeroU64,
    burst_bytes: NonZeroU64,
}

impl Rate {
    /// The least burst of [`new`](Self::new): 64 KiB.
    const BURST_MIN: NonZeroU64 = match NonZeroU64::new(super::PIECE_BYTES_MAX) {
        Some(bytes) => bytes,
        None => NonZeroU64::MIN,
    };

    /// So many bytes a second, with a burst of what passes in 8 ms, but at least 64 KiB. Timers are 1 ms coarse, so a
    /// burst of a few milliseconds is needed to reach the rate.
    #[must_use]
    pub const fn new(bytes_per_second: NonZeroU64) -> Self {
        let burst = match NonZeroU64::new(bytes_per_second.get() / 125) {
            Some(burst) if burst.get() > Self::BURST_MIN.get() => burst,
            _ => Self::BURST_MIN,
        };
        Self {
            bytes_per_second,
            burst_bytes: burst,
        }
    }

    /// The same rate with another burst.
    #[must_use]
    pub const fn with_burst(self, burst_bytes: NonZeroU64) -> Self {
        Self {
            burst_bytes,
            ..self
        }
    }

    /// Bytes a second.
    #[must_use]
    pub const fn bytes_per_second(self) -> u64 {
        self.bytes_per_second.get()
    }

    /// Bytes that may pass at once after a pause.
    #[must_use]
    pub const fn burst_bytes(self) -> u64 {
        self.burst_bytes.get()
    }
}

/// What holds for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassLimits {
    /// Its part of the node's rate while others wait too: weight over the sum of the weights of all who wait.
    pub weight: NonZeroU16,
    /// What it never exceeds, also when nobody else sends. Default: the node's rate.
    pub cap: Option<Rate>,
}

impl ClassLimits {
    /// A class of this weight without a cap.
    #[must_use]
    pub const fn weighing(weight: NonZeroU16) -> Self {
        Self { weight, cap: None }
    }
}

/// What a [`Shaper`](super::Shaper) holds a node to. The default limits nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What the node sends in all. Without it, classes without a cap of their own are never held back: then the
    /// network is the limit, and weights mean nothing.
    pub node: Option<Rate>,
    /// [`Class::Serve`]; weight 16.
    pub serve: ClassLimits,
    /// [`Class::Fill`]; weight 4.
    pub fill: ClassLimits,
    /// [`Class::Replicate`]; weight 1.
    pub replicate: ClassLimits,
}

impl Default for Limits {
    fn default() -> Self {
        const fn weight(weight: u16) -> ClassLimits {
            ClassLimits::weighing(match NonZeroU16::new(weight) {
                Some(weight) => weight,
                None => NonZeroU16::MIN,
            })
        }
        Self {
            node: None,
            serve: weight(16),
            fill: weight(4),
            replicate: weight(1),
        }
    }
}

impl Limits {
    /// Of one class.
    #[must_use]
    pub const fn of(&self, class: Class) -> &ClassLimits {
        match class {
            Class::Serve => &self.serve,
            Class::Fill => &self.fill,
            Class::Replicate => &self.replicate,
        }
    }
}
