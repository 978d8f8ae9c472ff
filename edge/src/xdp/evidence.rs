//! Who gave reason to be trusted less: what only the server sees, counted by where it comes from, and what follows.
//!
//! A source (an IPv4 address, or an IPv6 /64) that within [`WINDOW`] leaves handshakes unfinished, asks for protocols nobody has, asks for what is not
//! there, or asks for what was never asked for before, each time, gets a tenth of the budgets by which connections are opened, for a minute; then it is as
//! everyone. Who does it again at once has it for twice as long, up to [`LOWERED_MAX_FOR`]. Nobody is shut out by this, since a whole
//! office may stand behind one address.
//!
//! Only what cannot be forged counts: handshakes over UDP only where the client had proven its address, and what is done on a connection for the address of its
//! handshake, also where the client has moved. Bounded: a table that is full takes no one new. Time is passed in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What is counted is counted over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// How long less is allowed at first, and at most.
const LOWERED_FOR: Duration = Duration::from_secs(60);
const LOWERED_MAX_FOR: Duration = Duration::from_secs(600);
/// Sources at once: 4,096 × about 100 B = 400 KiB.
pub(super) const SOURCES_MAX: usize = 4096;

/// Handshakes begun and not finished in a window, and at least half of those begun.
const UNFINISHED: u32 = 50;
/// Handshakes in a window for a protocol that is not spoken here.
const FOREIGN: u32 = 20;
/// Requests answered 4xx in a window, and nine of ten at least.
const ERRORS: u32 = 500;
/// Requests in a window for what nothing was stored of, and nineteen of twenty at least. A crawler asks for less than 100 a second.
const MISSES: u32 = 1000;

/// What was seen of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Handshakes completed.
    pub(super) completed: u32,
    /// Handshakes begun and not finished.
    pub(super) unfinished: u32,
    /// Handshakes for a protocol that is not spoken here.
    pub(super) foreign: u32,
    /// Requests that ended with an answer.
    pub(super) requests: u32,
    /// Of them, with a status of 4xx.
    pub(super) errors: u32,
    /// Of them, for what nothing was stored of.
    pub(super) misses: u32,
}

impl Counts {
    pub(super) fn add(&mut self, more: Self) {
        let of = |sum: &mut u32, more| *sum = sum.saturating_add(more);
        of(&mut self.completed, more.completed);
        of(&mut self.unfinished, more.unfinished);
        of(&mut self.foreign, more.foreign);
        of(&mut self.requests, more.requests);
        of(&mut self.errors, more.errors);
        of(&mut self.misses, more.misses);
    }

    /// What these counts are reason for.
    fn reason(&self) -> Option<Cause> {
        let part = |part: u32, of: u32, numerator: u64, denominator: u64| {
            u64::from(part) * denominator >= u64::from(of) * numerator
        };
        let begun = self.completed.saturating_add(self.unfinished);
        if self.foreign >= FOREIGN {
            Some(Cause::ForeignProtocols)
        } else if self.unfinished >= UNFINISHED && part(self.unfinished, begun, 1, 2) {
            Some(Cause::UnfinishedHandshakes)
        } else if self.errors >= ERRORS && part(self.errors, self.requests, 9, 10) {
            Some(Cause::ClientErrors)
        } else if self.misses >= MISSES && part(self.misses, self.requests, 19, 20) {
            Some(Cause::CacheBusting)
        } else {
            None
        }
    }
}

/// Why a source has less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// It begins handshakes and does not finish them.
    UnfinishedHandshakes,
    /// It asks for protocols that are not spoken here.
    ForeignProtocols,
    /// Nearly all it asks for is refused or not there.
    ClientErrors,
    /// Nearly all it asks for was never asked for before.
    CacheBusting,
}

impl Cause {
    pub(super) const ALL: [Self; 4] = [
        Self::UnfinishedHandshakes,
        Self::ForeignProtocols,
        Self::ClientErrors,
        Self::CacheBusting,
    ];

    /// The word for reports and metrics.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::UnfinishedHandshakes => "unfinished-handshakes",
            Self::ForeignProtocols => "foreign-protocols",
            Self::ClientErrors => "client-errors",
            Self::CacheBusting => "cache-busting",
        }
    }
}

#[derive(Debug)]
struct Source {
    since: Instant,
    counts: Counts,
    lowered: Option<(Cause, Instant)>,
    /// How long it had less the last time, and until when that is remembered.
    last: Option<(Duration, Instant)>,
}

/// What is to be changed for a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It has less from now on.
    Lower(Cause),
    /// It is as everyone again.
    LetGo,
}

/// What is known of whom.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    sources: HashMap<IpNet, Source>,
    /// Sources that were not taken note of, for want of room.
    pub(super) overlooked: u64,
}

impl Evidence {
    /// Takes note of what was seen of a source since the last time.
    pub(super) fn note(&mut self, source: IpNet, counts: Counts, now: Instant) {
        let is_full = self.sources.len() >= SOURCES_MAX;
        let known = match self.sources.entry(source) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if is_full => {
                self.overlooked += 1;
                return;
            }
            Entry::Vacant(free) => free.insert(Source {
                since: now,
                counts: Counts::default(),
                lowered: None,
                last: None,
            }),
        };
        if now.saturating_duration_since(known.since) >= WINDOW {
            known.since = now;
            known.counts = Counts::default();
        }
        known.counts.add(counts);
    }

    /// What follows now. Forgets whom nothing is to be said of. To be called about once a second.
    pub(super) fn turn(&mut self, now: Instant) -> Vec<(IpNet, Change)> {
        let mut changes = Vec::new();
        self.sources.retain(|prefix, source| {
            if let Some((_, until)) = source.lowered
                && now >= until
            {
                source.lowered = None;
                changes.push((*prefix, Change::LetGo));
            }
            if let Some(cause) = source.counts.reason() {
                source.counts = Counts::default();
                source.since = now;
                let length = match source.last {
                    Some((last, known_until)) if now < known_until => {
                        (last * 2).min(LOWERED_MAX_FOR)
                    }
                    _ => LOWERED_FOR,
                };
                // While it has less it is not held to have done it again: what it had under way still ends.
                if source.lowered.is_none() {
                    source.lowered = Some((cause, now + length));
                    source.last = Some((length, now + length * 2));
                    changes.push((*prefix, Change::Lower(cause)));
                }
            }
            let counted = now.saturating_duration_since(source.since) < WINDOW;
            let remembered = source.last.is_some_and(|(_, until)| now < until);
            counted || source.lowered.is_some() || remembered
        });
        changes
    }

    /// Forgets all that is known of these. Says who of them had less.
    pub(super) fn forget(&mut self, forgotten: impl Fn(&IpNet) -> bool) -> Vec<IpNet> {
        let gone = self.sources.extract_if(|source, _| forgotten(source));
        gone.filter(|(_, known)| known.lowered.is_some())
            .map(|(source, _)| source)
            .collect()
    }

    /// Who has less, why, and until when.
    pub(super) fn lowered(&self) -> impl Iterator<Item = (IpNet, Cause, Instant)> {
        self.sources.iter().filter_map(|(prefix, source)| {
            source.lowered.map(|(cause, until)| (*prefix, cause, until))
        })
    }
}

/// What a client is known by: its IPv4 address, or the /64 of its IPv6 address.
pub(super) fn source(address: IpAddr) -> IpNet {
    let address = address.to_canonical();
    let bits = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 64,
    };
    IpNet::new(address, bits).map_or_else(|_| IpNet::from(address), |prefix| prefix.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn prefix(number: u32) -> IpNet {
        source(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn a_client_is_known_by_its_address_or_its_64() {
        for (address, prefix) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(source(address.parse().unwrap()).to_string(), prefix);
        }
    }

    #[test]
    fn each_reason_has_its_number_and_its_part() {
        let counts = |completed, unfinished, foreign, requests, errors, misses| Counts {
            completed,
            unfinished,
            foreign,
            requests,
            errors,
            misses,
        };
        for (counts, cause) in [
            (counts(0, 49, 0, 0, 0, 0), None),
            (counts(0, 50, 0, 0, 0, 0), Some(Cause::UnfinishedHandshakes)),
            // Many that finish, and a few that do not: an office on a bad line.
            (counts(51, 50, 0, 0, 0, 0), None),
            (counts(900, 0, 19, 0, 0, 0), None),
            (counts(900, 0, 20, 0, 0, 0), Some(Cause::ForeignProtocols)),
            (counts(0, 0, 0, 500, 499, 0), None),
            (counts(0, 0, 0, 555, 500, 0), Some(Cause::ClientErrors)),
            (counts(0, 0, 0, 556, 500, 0), None),
            (counts(0, 0, 0, 1052, 0, 1000), Some(Cause::CacheBusting)),
            (counts(0, 0, 0, 1053, 0, 1000), None),
            (counts(0, 0, 0, 100_000, 0, 5_000), None),
            (
                counts(0, 0, 0, u32::MAX, u32::MAX, 0),
                Some(Cause::ClientErrors),
            ),
        ] {
            assert_eq!(counts.reason(), cause, "{counts:?}");
        }
    }

    #[test]
    fn the_operator_is_told_these_numbers() {
        let page = include_str!("../../../docs/xdp.md");
        let window = WINDOW.as_secs();
        for said in [
            format!("({UNFINISHED} in {window} s, and half of all)"),
            format!("spoken here ({FOREIGN})"),
            format!("4xx ({ERRORS}, and nine of ten)"),
            format!(
                "({},{:03}, and nineteen of twenty)",
                MISSES / 1000,
                MISSES % 1000
            ),
        ] {
            assert!(page.contains(&said), "{said}");
        }
        let (first, most) = (LOWERED_FOR.as_secs(), LOWERED_MAX_FOR.as_secs());
        assert_eq!((first, most), (60, 600), "`for a minute … at most ten`");
    }

    #[test]
    fn a_source_has_less_for_a_minute_and_then_as_much_as_everyone() {
        let start = Instant::now();
        let mut evidence = Evidence::default();
        let bad = Counts {
            foreign: 10,
            ..Counts::default()
        };
        evidence.note(prefix(1), bad, start);
        assert_eq!(evidence.turn(start), []);
        evidence.note(prefix(1), bad, start + SECOND);
        let lowered = (prefix(1), Change::Lower(Cause::ForeignProtocols));
        assert_eq!(evidence.turn(start + SECOND), [lowered]);
        assert_eq!(evidence.lowered().count(), 1);
        assert_eq!(evidence.turn(start + 60 * SECOND), []);
        assert_eq!(
            evidence.turn(start + 61 * SECOND),
            [(prefix(1), Change::LetGo)]
        );
        assert_eq!(evidence.lowered().count(), 0);
        assert_eq!(evidence.turn(start + 200 * SECOND), []);
        assert!(evidence.sources.is_empty());
    }

    #[test]
    fn who_goes_on_has_less_for_twice_as_long_up_to_ten_minutes() {
        let mut now = Instant::now();
        let mut evidence = Evidence::default();
        let bad = Counts {
            foreign: FOREIGN,
            ..Counts::default()
        };
        let mut lengths = Vec::new();
        let mut began = now;
        while lengths.len() < 6 {
            evidence.note(prefix(1), bad, now);
            for (_, change) in evidence.turn(now) {
                match change {
                    Change::Lower(_) => began = now,
                    Change::LetGo => lengths.push((now - began).as_secs()),
                }
            }
            now += SECOND;
        }
        assert_eq!(lengths, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn what_comes_slowly_is_forgotten() {
        let start = Instant::now();
        let mut evidence = Evidence::default();
        let one = Counts {
            foreign: 1,
            ..Counts::default()
        };
        for second in 0..1000 {
            let now = start + second * SECOND;
            evidence.note(prefix(1), one, now);
            assert_eq!(evidence.turn(now), []);
        }
    }

    #[test]
    fn a_full_table_takes_no_one_new_until_others_are_forgotten() {
        let start = Instant::now();
        let mut evidence = Evidence::default();
        for number in 0..5000 {
            evidence.note(prefix(number), Counts::default(), start);
        }
        assert_eq!(evidence.sources.len(), SOURCES_MAX);
        assert_eq!(evidence.overlooked, 5000 - SOURCES_MAX as u64);
        evidence.turn(start + WINDOW);
        assert!(evidence.sources.is_empty());
    }
}
