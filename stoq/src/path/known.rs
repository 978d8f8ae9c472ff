//! What was learnt of the path to each address, for the next connection to it (RFC 9040 does the same for TCP).
//!
//! A congestion controller and a stream's window cannot be changed once a connection stands. So what one connection
//! learnt helps the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::class::PathClass;

/// Addresses remembered: 1,024 × about 100 B = 100 KiB; beyond it the one learnt of longest ago is forgotten.
const ADDRESSES_MAX: usize = 1_024;

/// Older knowledge is none: routes change.
const KEPT: Duration = Duration::from_secs(600);

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learnt {
    /// Its class.
    pub class: PathClass,
    /// Its least round trip.
    pub rtt_min: Duration,
    /// Share of packets lost, smoothed; `None`: too few were sent to tell.
    pub loss: Option<f64>,
}

/// What was learnt of each address.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<IpAddr, (Learnt, Instant)>>);

impl Known {
    /// Remembers.
    pub fn learn(&self, addr: IpAddr, learnt: Learnt, now: Instant) {
        let mut known = self.0.lock();
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&addr) {
            let oldest = known.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(addr, _)| *addr) {
                known.remove(&oldest);
            }
        }
        known.insert(addr, (learnt, now));
    }

    /// What is known of the path to this address, if it was learnt within ten minutes.
    #[must_use]
    pub fn of(&self, addr: IpAddr, now: Instant) -> Option<Learnt> {
        let known = self.0.lock();
        let (learnt, at) = known.get(&addr)?;
        (now.saturating_duration_since(*at) <= KEPT).then_some(*learnt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{Bandwidth, Distance};

    const LEARNT: Learnt = Learnt {
        class: PathClass {
            distance: Distance::Wan,
            bandwidth: Some(Bandwidth::Gbit1),
        },
        rtt_min: Duration::from_millis(80),
        loss: Some(0.01),
    };

    #[test]
    fn what_is_older_than_ten_minutes_is_not_known() {
        let (known, now) = (Known::default(), Instant::now());
        let addr = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(known.of(addr, now), None);
        known.learn(addr, LEARNT, now);
        assert_eq!(known.of(addr, now + KEPT), Some(LEARNT));
        assert_eq!(known.of(addr, now + KEPT + Duration::from_millis(1)), None);
    }

    #[test]
    fn at_the_bound_the_oldest_is_forgotten() {
        let (known, now) = (Known::default(), Instant::now());
        let addr = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..=ADDRESSES_MAX {
            let at = now + Duration::from_millis(number as u64);
            known.learn(addr(number), LEARNT, at);
        }
        assert_eq!(known.0.lock().len(), ADDRESSES_MAX);
        assert_eq!(known.of(addr(0), now), None);
        assert_eq!(known.of(addr(1), now), Some(LEARNT));
        assert_eq!(known.of(addr(ADDRESSES_MAX), now), Some(LEARNT));
    }
}
