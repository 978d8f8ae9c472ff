//! Connections by where they come from: an IPv4 address, or the first 64 bits of an IPv6 address.
//!
//! Counted by an endpoint for itself, or for a whole process where its endpoints and listeners are given the same
//! [`Prefixes`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// An IPv4 address, or the first 64 bits of an IPv6 address: what one client is likely to have at its disposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4(u32),
    V6(u64),
}

impl Prefix {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr.to_bits()),
            IpAddr::V6(addr) => {
                let [a, b, c, d, ..] = addr.segments();
                let upper = [a, b, c, d].into_iter();
                Self::V6(upper.fold(0, |bits, segment| bits << 16 | u64::from(segment)))
            }
        }
    }
}

/// Places taken by prefix. Cheap to clone; the clones count together. About 50 bytes a prefix that has any place; no more
/// prefixes than places.
#[derive(Debug, Clone, Default)]
pub struct Prefixes(Arc<Mutex<HashMap<Prefix, usize>>>);

impl Prefixes {
    /// A place among those of this address's prefix, given back when dropped; `None` where `max` are taken.
    #[must_use]
    pub fn take(&self, addr: IpAddr, max: usize) -> Option<PrefixPlace> {
        let prefix = Prefix::of(addr);
        let mut counts = self.0.lock();
        let count = counts.entry(prefix).or_default();
        if *count >= max {
            // Not left behind: with a bound of none the entry is new.
            if *count == 0 {
                counts.remove(&prefix);
            }
            return None;
        }
        *count += 1;
        Some(PrefixPlace {
            prefixes: self.clone(),
            prefix,
        })
    }

    /// Places taken by this address's prefix.
    #[must_use]
    pub fn count(&self, addr: IpAddr) -> usize {
        let counts = self.0.lock();
        counts.get(&Prefix::of(addr)).copied().unwrap_or(0)
    }
}

/// A place of [`Prefixes`], held until it is dropped.
#[derive(Debug)]
#[must_use = "dropped, the place is given back"]
pub struct PrefixPlace {
    prefixes: Prefixes,
    prefix: Prefix,
}

impl Drop for PrefixPlace {
    fn drop(&mut self) {
        let mut counts = self.prefixes.0.lock();
        if let Entry::Occupied(mut count) = counts.entry(self.prefix) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_an_ipv4_address_or_64_bits_of_an_ipv6_one() {
        let of = |addr: &str| Prefix::of(addr.parse().unwrap());
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("::1"), of("2001:db8::1"));
    }

    #[test]
    fn places_are_bounded_by_prefix_and_given_back_leave_nothing() {
        let prefixes = Prefixes::default();
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let places = [one, one, other].map(|addr| prefixes.take(addr, 2));
        assert!(places.iter().all(Option::is_some));
        assert!(prefixes.clone().take(one, 2).is_none());
        assert!(prefixes.take(IpAddr::from([192, 0, 2, 3]), 0).is_none());
        assert_eq!((prefixes.count(one), prefixes.count(other)), (2, 1));
        drop(places);
        assert_eq!(prefixes.count(one), 0);
        assert!(prefixes.0.lock().is_empty());
    }
}
