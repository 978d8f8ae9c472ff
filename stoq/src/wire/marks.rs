//! How a request or a message wants to be treated.

/// What is sent first where not everything can be: 0 before 7, after RFC 9218. Default 3.
///
/// It orders the streams of one connection in both directions, and promises nothing beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Urgency(u8);

impl Urgency {
    /// Before all others.
    pub const FIRST: Self = Self(0);
    /// After all others.
    pub const LAST: Self = Self(7);

    //= https://www.rfc-editor.org/rfc/rfc9218#section-4.1
    //# The urgency (u) parameter value is Integer (see Section 3.3.1 of [STRUCTURED-FIELDS]), between 0 and 7
    //# inclusive, in descending order of priority.
    /// The urgency of this level; `None` above 7.
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        if level <= Self::LAST.0 {
            Some(Self(level))
        } else {
            None
        }
    }

    /// 0 to 7.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }

    /// As the priority of a [stream](crate::quic::SendStream::set_priority), where higher is first: 3 to −4, and 0 by default.
    #[must_use]
    pub fn priority(self) -> i32 {
        i32::from(Self::default().0) - i32::from(self.0)
    }
}

impl Default for Urgency {
    fn default() -> Self {
        Self(3)
    }
}

/// The flags of `REQUEST` and `TELL`. Version 1 of the wire carries none of them: there everything has the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Its place among the streams of its connection.
    pub urgency: Urgency,
    /// To act on it twice does no harm beyond the work: only what is marked so may be sent, or acted on, before
    /// the handshake has ended. Default no.
    pub replay_safe: bool,
}

const URGENCY: u32 = 0b0111;
const REPLAY_SAFE: u32 = 0b1000;

impl Marks {
    pub(super) fn bits(self) -> u32 {
        u32::from(self.urgency.0) | if self.replay_safe { REPLAY_SAFE } else { 0 }
    }

    /// Bits without a meaning are for later versions.
    pub(super) fn of(bits: u32) -> Self {
        let [.., lowest] = (bits & URGENCY).to_be_bytes();
        Self {
            urgency: Urgency::new(lowest).unwrap_or_default(),
            replay_safe: bits & REPLAY_SAFE != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_marks_are_inverse_and_other_bits_are_ignored() {
        for bits in 0..16 {
            assert_eq!(Marks::of(bits).bits(), bits);
            assert_eq!(Marks::of(bits | 0xffff_fff0), Marks::of(bits));
        }
        assert_eq!(Marks::default().bits(), 3);
    }

    #[test]
    fn urgencies_have_eight_levels_and_more_urgent_is_a_higher_priority() {
        let levels: Vec<_> = (0..=u8::MAX).filter_map(Urgency::new).collect();
        assert_eq!(levels.len(), 8);
        let priorities: Vec<_> = levels.iter().map(|each| each.priority()).collect();
        assert_eq!(priorities, [3, 2, 1, 0, -1, -2, -3, -4]);
        assert_eq!(Urgency::default().priority(), 0);
        assert!(Urgency::FIRST < Urgency::default() && Urgency::default() < Urgency::LAST);
    }
}
