//! Where other nodes may be found: addresses from several sources, and when to ask a source again. Looking is for others; here nothing is resolved.
//!
//! A source only yields addresses. Who is there, is found out by certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Addresses kept of one source; those beyond are passed over. A source that yields more is a mistake, or hostile.
pub const PER_SOURCE_MAX: usize = 64;

/// Where an address was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A seed of the configuration, by its place in the list.
    Seed(usize),
    /// The SRV records of a name.
    Srv,
    /// Multicast DNS: nodes on the same link that say so themselves.
    Mdns,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(at) => write!(f, "cluster.seeds[{at}]"),
            Self::Srv => f.write_str("cluster.srv"),
            Self::Mdns => f.write_str("cluster.mdns"),
        }
    }
}

/// How often a source is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After a failure, doubled with each further one up to `every`. Default 1 s.
    pub retry: Duration,
    /// After a success. Default 30 s: a name that moved is found within that.
    pub every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(1),
            every: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    addresses: BTreeSet<SocketAddr>,
    failures: u32,
    /// When to ask again.
    next: Duration,
}

/// What all sources have yielded.
#[derive(Debug)]
pub struct Addresses {
    pace: Pace,
    sources: BTreeMap<Source, Found>,
}

impl Addresses {
    /// Of these sources, each to be asked at once.
    #[must_use]
    pub fn new(pace: Pace, sources: impl IntoIterator<Item = Source>) -> Self {
        let sources = sources.into_iter().map(|source| (source, Found::default()));
        Self {
            pace,
            sources: sources.collect(),
        }
    }

    /// The sources to be asked now.
    pub fn to_ask(&self, now: Duration) -> impl Iterator<Item = Source> + '_ {
        let due = move |(source, found): (&Source, &Found)| (found.next <= now).then_some(*source);
        self.sources.iter().filter_map(due)
    }

    /// When the next source is to be asked; `None` without sources.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.sources.values().map(|found| found.next).min()
    }

    /// What a source yielded when it was asked: all it has now. Returns how many were passed over at [`PER_SOURCE_MAX`].
    pub fn found(
        &mut self,
        source: Source,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Duration,
    ) -> usize {
        if let Some(found) = self.sources.get_mut(&source) {
            found.failures = 0;
            found.next = now.saturating_add(self.pace.every);
        }
        self.news(source, addresses)
    }

    /// What a source yields unasked: all it has now. It is asked when it would have been. Returns as [`found`](Self::found).
    pub fn news(
        &mut self,
        source: Source,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> usize {
        let Some(found) = self.sources.get_mut(&source) else {
            return 0;
        };
        let usable = |addr: &SocketAddr| addr.port() != 0 && !addr.ip().is_unspecified();
        let mut passed_over = 0;
        found.addresses.clear();
        for addr in addresses.into_iter().filter(usable) {
            if found.addresses.len() < PER_SOURCE_MAX || found.addresses.contains(&addr) {
                found.addresses.insert(addr);
            } else {
                passed_over += 1;
            }
        }
        passed_over
    }

    /// A source could not be asked. What it yielded before is used on.
    pub fn failed(&mut self, source: Source, now: Duration) {
        let Pace { retry, every } = self.pace;
        let Some(found) = self.sources.get_mut(&source) else {
            return;
        };
        let wait = retry.saturating_mul(2u32.saturating_pow(found.failures.min(16)));
        found.failures = found.failures.saturating_add(1);
        found.next = now.saturating_add(wait.min(every));
    }

    /// All addresses to try, each once, without this node's own. What a source yielded counts until it yields anew: a name that does not resolve
    /// now names the same machines as before.
    #[must_use]
    pub fn current(&self, own: &[SocketAddr]) -> BTreeSet<SocketAddr> {
        let addresses = self.sources.values().flat_map(|found| &found.addresses);
        addresses
            .filter(|addr| !own.contains(addr))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn addr(last: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], last))
    }

    #[test]
    fn a_source_is_asked_at_once_then_in_its_pace_and_later_after_each_failure() {
        let mut addresses = Addresses::new(Pace::default(), [Source::Seed(0), Source::Srv]);
        assert_eq!(addresses.to_ask(S(0)).count(), 2);
        addresses.found(Source::Srv, [addr(1)], S(0));
        let waits: Vec<_> = (0..7)
            .scan(S(0), |now, _| {
                addresses.failed(Source::Seed(0), *now);
                let before = std::mem::replace(now, addresses.next().unwrap().min(S(1000)));
                Some((*now).checked_sub(before))
            })
            .collect();
        assert_eq!(waits[..3], [Some(S(1)), Some(S(2)), Some(S(4))]);
        assert_eq!(addresses.to_ask(S(30)).next(), Some(Source::Srv));
    }

    #[test]
    fn what_a_source_yielded_is_used_while_it_fails_and_until_it_yields_anew() {
        let mut addresses = Addresses::new(Pace::default(), [Source::Seed(0), Source::Srv]);
        addresses.found(Source::Srv, [addr(1)], S(0));
        addresses.found(Source::Seed(0), [addr(2)], S(0));
        addresses.failed(Source::Srv, S(30));
        assert_eq!(addresses.current(&[]), [addr(1), addr(2)].into());
        addresses.found(Source::Srv, [addr(3)], S(60));
        assert_eq!(addresses.current(&[]), [addr(2), addr(3)].into());
        assert_eq!(addresses.current(&[addr(3)]), [addr(2)].into());
    }

    #[test]
    fn news_puts_off_no_asking() {
        let mut addresses = Addresses::new(Pace::default(), [Source::Mdns]);
        addresses.found(Source::Mdns, [addr(1)], S(0));
        assert_eq!(addresses.news(Source::Mdns, [addr(2)]), 0);
        assert_eq!(addresses.current(&[]), [addr(2)].into());
        assert_eq!(addresses.next(), Some(S(30)));
        // Nor is an asking that failed taken for one that did not.
        addresses.failed(Source::Mdns, S(30));
        addresses.news(Source::Mdns, [addr(1)]);
        addresses.failed(Source::Mdns, S(31));
        assert_eq!(addresses.next(), Some(S(33)));
    }

    #[test]
    fn addresses_of_a_source_are_bounded_and_usable() {
        let mut addresses = Addresses::new(Pace::default(), [Source::Srv]);
        let many = (0..200).chain(0..200).map(addr);
        let passed_over = addresses.found(Source::Srv, many, S(0));
        assert_eq!(addresses.current(&[]).len(), PER_SOURCE_MAX);
        assert!(passed_over > 0);
        assert_eq!(addresses.found(Source::Seed(9), [addr(1)], S(0)), 0);
    }
}
