//! Which of the nodes that could be asked is asked: an order with its reasons.
//!
//! First the cuts, which no distance outweighs: residency, ill, draining, nearly full. What is left has a score in milliseconds: the round
//! trip, what waiting for a loaded node costs, and for a large object the time its bytes take. The terms are added; a factor for load would vanish
//! at a round trip of nothing. Degraded nodes come after all others.
//!
//! The choice is between those about as good as the best: two of them by chance, and of those the less loaded (Mitzenmacher 2001).
//! What is known of others' load is half a second old or more; all going to the one that looks least loaded would make it the most loaded.
//!
//! Nothing is hidden: [`Ranking`] keeps every candidate with the parts of its score, or why it was cut.

mod policy;
mod residency;
mod table;

use std::time::Duration;

pub use policy::{NoSuchPolicy, Policy};
use rand::Rng;
pub use residency::{BadPattern, Residency};
pub use table::Table;

use crate::{Health, Key, LOAD_MAX, Latency, NodeId, NodeState, Source, View, placement::weight};

/// Milliseconds that a node at half its capacity costs; the term grows as a queue does, load / (1 - load): 4 times that at 0.8, 8 at 0.89.
const LOAD_MS: f64 = 5.0;

/// Bytes from which on the time an object takes counts.
pub const LARGE: u64 = 1 << 20;

/// What a round trip is taken for of which nothing at all is known, milliseconds: more than any on earth that is well.
const UNKNOWN_MS: f64 = 400.0;

/// About as good as the best is what scores at most so many milliseconds more, or this share of the best.
const NEAR_MS: f64 = 3.0;
const NEAR_SHARE: f64 = 0.1;

/// Under [`Policy::LeastLoaded`] the same in thousandths of a node's capacity.
const NEAR_LOAD: f64 = 50.0;

/// A node that could be asked, and what the asker knows of the way to it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// What it says of itself.
    pub node: &'a NodeState,
    /// The round trip to it.
    pub rtt: Option<(Duration, Source)>,
    /// The round trip to it by where it is, whatever was measured.
    pub by_geography: Option<(Duration, Source)>,
    /// Bytes a second it has delivered of late, where it was measured.
    pub rate: Option<u64>,
}

impl<'a> Candidate<'a> {
    /// A node as `me` knows it. What it has delivered is not known yet.
    #[must_use]
    pub fn new(latency: &Latency, me: &NodeState, node: &'a NodeState, now: Duration) -> Self {
        Self {
            node,
            rtt: latency.estimate(me, node, now),
            by_geography: latency.by_geography(me, node),
            rate: None,
        }
    }
}

/// What is to be asked for, and how the site wants it.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// By what to order.
    pub policy: Policy,
    /// Where the bytes may be.
    pub residency: &'a Residency,
    /// Bytes of the object, where known; from 1 MiB on the time they take counts.
    pub bytes: Option<u64>,
    /// The object, for [`Policy::Affinity`]; without it that policy is [`Policy::Latency`].
    pub key: Option<&'a Key>,
    /// Whose turn it is, for [`Policy::RoundRobin`]: counts up with each request.
    pub turn: u64,
}

impl<'a> Wish<'a> {
    /// Anything from the nearest, within these zones.
    #[must_use]
    pub fn nearest(residency: &'a Residency) -> Self {
        Self {
            policy: Policy::Latency,
            residency,
            bytes: None,
            key: None,
            turn: 0,
        }
    }
}

/// Why a node is not asked at all.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Cut {
    /// The site's bytes may not be there.
    #[error("outside the site's zones")]
    Residency,
    /// It says that it does not serve.
    #[error("ill")]
    Ill,
    /// It is being emptied.
    #[error("draining")]
    Draining,
    /// It is nearly full.
    #[error("load {load:.2}, at most {LOAD_MAX}")]
    Load {
        /// What it says.
        load: f64,
    },
}

/// How a delivery rate is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateSource {
    /// It has delivered so much to this node.
    Measured,
    /// What is free of the capacity it publishes, but no more than the median of what was measured of others.
    Published,
    /// The median of what was measured of others, else of what they publish: nothing is known of it.
    Others,
}

/// What a score is made of, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// The round trip, or 400 where `rtt_source` is None.
    pub rtt_ms: f64,
    /// How it is known.
    pub rtt_source: Option<Source>,
    /// What its load costs.
    pub load_ms: f64,
    /// What the object's bytes take; 0 for one below 1 MiB and where no rate is known of any candidate.
    pub transfer_ms: f64,
    /// Bytes a second that this is reckoned with, and how they are known.
    pub rate: Option<(u64, RateSource)>,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// It may be asked.
    Fit {
        /// The lower the better. Milliseconds under `latency` and `geo`, thousandths of the capacity under `least-loaded`, thousandths of the
        /// hash space under `affinity`, places under `round-robin`.
        score: f64,
        /// What the parts come to, whether or not the policy goes by them.
        parts: Parts,
        /// It is degraded: asked after all that are not.
        is_last_resort: bool,
    },
    /// It is not asked.
    Cut(Cut),
}

/// A candidate with what became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Which.
    pub id: NodeId,
    /// Its load, as it says.
    pub load: f64,
    /// What became of it.
    pub verdict: Verdict,
}

impl Row {
    /// Score and whether it is a last resort, of one that may be asked.
    fn standing(&self) -> Option<(bool, f64)> {
        match self.verdict {
            Verdict::Fit {
                score,
                is_last_resort,
                ..
            } => Some((is_last_resort, score)),
            Verdict::Cut(_) => None,
        }
    }
}

/// All candidates, the best first, those that were cut last.
#[derive(Debug, Clone)]
pub struct Ranking {
    policy: Policy,
    rows: Vec<Row>,
    /// So many of `rows` may be asked.
    fit: usize,
}

/// Orders the candidates.
#[must_use]
pub fn rank(candidates: &[Candidate<'_>], wish: &Wish<'_>) -> Ranking {
    let policy = match (wish.policy, wish.key) {
        (Policy::Affinity, None) => Policy::Latency,
        (policy, _) => policy,
    };
    let size = wish.bytes.filter(|bytes| *bytes >= LARGE);
    let cuts: Vec<_> = candidates
        .iter()
        .map(|candidate| cut(candidate.node, wish.residency))
        .collect();
    let rates = match size {
        Some(_) => rates(candidates, &cuts),
        None => vec![None; candidates.len()],
    };
    let row = |((candidate, cut), rate): ((&Candidate<'_>, &Option<Cut>), &_)| {
        let node = candidate.node;
        let verdict = cut.map_or_else(
            || {
                let parts = parts(candidate, policy, size, *rate);
                Verdict::Fit {
                    score: score(node, &parts, policy, wish.key),
                    parts,
                    is_last_resort: node.health == Health::Degraded,
                }
            },
            Verdict::Cut,
        );
        Row {
            id: node.id,
            load: node.load,
            verdict,
        }
    };
    let mut rows: Vec<_> = candidates.iter().zip(&cuts).zip(&rates).map(row).collect();
    // Equal scores stand by what else speaks for one, and last by id, so that the same question has the same order.
    rows.sort_by(|one, other| {
        let key = |row: &Row| match row.verdict {
            Verdict::Fit {
                score,
                parts,
                is_last_resort,
            } => (0, is_last_resort, score, parts.rtt_ms),
            Verdict::Cut(_) => (1, false, 0.0, 0.0),
        };
        let ((cut, last, score, rtt), (cut_2, last_2, score_2, rtt_2)) = (key(one), key(other));
        (cut, last)
            .cmp(&(cut_2, last_2))
            .then(score.total_cmp(&score_2))
            .then(rtt.total_cmp(&rtt_2))
            .then(one.id.cmp(&other.id))
    });
    let fit = rows.iter().filter(|row| row.standing().is_some()).count();
    if policy == Policy::RoundRobin {
        take_turns(&mut rows, wish.turn);
    }
    Ranking { policy, rows, fit }
}

impl Ranking {
    /// All candidates, the best first, those that were cut last.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// All of it for people, with the names that nodes have in this view.
    #[must_use]
    pub fn table<'a>(&'a self, view: &'a View) -> Table<'a> {
        Table::new(self, view)
    }

    /// Those that may be asked, the best first.
    pub fn fit(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.rows.iter().take(self.fit).map(|row| row.id)
    }

    /// Which one to ask: of two by chance among those about as good as the best, the less loaded. Under [`Policy::Affinity`] and
    /// [`Policy::RoundRobin`] the first. None where all were cut.
    pub fn choose(&self, rng: &mut (impl Rng + ?Sized)) -> Option<NodeId> {
        let near = self.rows.get(..self.about_as_good())?;
        let (one, other) = match near {
            [] => return None,
            [one] => (one, one),
            [one, other] => (one, other),
            near => {
                let one = rng.random_range(0..near.len());
                // Another one, each as likely.
                let other = (one + rng.random_range(1..near.len())) % near.len();
                (near.get(one.min(other))?, near.get(one.max(other))?)
            }
        };
        // The better of both where they are loaded alike.
        let chosen = if other.load < one.load { other } else { one };
        Some(chosen.id)
    }

    /// Those that may be asked in the order to ask them: the one that [`Self::choose`] takes, then the others, the best first.
    pub fn order(&self, rng: &mut (impl Rng + ?Sized)) -> Vec<NodeId> {
        let chosen = self.choose(rng);
        let others = self.fit().filter(|id| Some(*id) != chosen);
        chosen.into_iter().chain(others).collect()
    }

    /// How many are about as good as the best, itself included.
    fn about_as_good(&self) -> usize {
        let Some((is_last_resort, best)) = self.rows.first().and_then(Row::standing) else {
            return 0;
        };
        let reach = match self.policy {
            Policy::Latency | Policy::Geo => best + NEAR_MS.max(best * NEAR_SHARE),
            Policy::LeastLoaded => best + NEAR_LOAD,
            Policy::Affinity | Policy::RoundRobin => return 1,
        };
        let near = self.rows.iter().map_while(Row::standing);
        near.take_while(|(last, score)| *last == is_last_resort && *score <= reach)
            .count()
    }
}

fn cut(node: &NodeState, residency: &Residency) -> Option<Cut> {
    if !residency.allows(&node.zone) {
        Some(Cut::Residency)
    } else if node.health == Health::Ill {
        Some(Cut::Ill)
    } else if node.draining {
        Some(Cut::Draining)
    } else if node.load.is_nan() || node.load >= LOAD_MAX {
        Some(Cut::Load { load: node.load })
    } else {
        None
    }
}

fn parts(
    candidate: &Candidate<'_>,
    policy: Policy,
    size: Option<u64>,
    rate: Option<(u64, RateSource)>,
) -> Parts {
    let rtt = match policy {
        Policy::Geo => candidate.by_geography,
        _ => candidate.rtt,
    };
    let load = candidate.node.load.clamp(0.0, LOAD_MAX);
    let transfer_ms = match (size, rate) {
        #[expect(clippy::cast_precision_loss, reason = "it is a score")]
        (Some(bytes), Some((rate, _))) => bytes as f64 / rate as f64 * 1_000.0,
        _ => 0.0,
    };
    Parts {
        rtt_ms: rtt.map_or(UNKNOWN_MS, |(rtt, _)| rtt.as_secs_f64() * 1_000.0),
        rtt_source: rtt.map(|(_, source)| source),
        load_ms: LOAD_MS * load / (1.0 - load),
        transfer_ms,
        rate,
    }
}

fn score(node: &NodeState, parts: &Parts, policy: Policy, key: Option<&Key>) -> f64 {
    match policy {
        Policy::Latency => parts.rtt_ms + parts.load_ms + parts.transfer_ms,
        Policy::Geo => parts.rtt_ms,
        Policy::LeastLoaded => node.load.max(0.0) * 1_000.0,
        #[expect(clippy::cast_precision_loss, reason = "it is a score")]
        Policy::Affinity => key.map_or(0.0, |key| {
            let below = u64::MAX - weight(&node.id, key);
            below as f64 / u64::MAX as f64 * 1_000.0
        }),
        // Its place follows once all are known.
        Policy::RoundRobin => 0.0,
    }
}

/// Bytes a second that each candidate is reckoned with, never 0. None only where nothing is known of any that may be asked: who says nothing must
/// not seem faster than who says something.
fn rates(candidates: &[Candidate<'_>], cuts: &[Option<Cut>]) -> Vec<Option<(u64, RateSource)>> {
    let measured = |candidate: &Candidate<'_>| candidate.rate.filter(|rate| *rate > 0);
    let fit = || {
        let all = candidates.iter().zip(cuts);
        all.filter(|(_, cut)| cut.is_none())
            .map(|(candidate, _)| candidate)
    };
    let of_measured = median(fit().filter_map(measured).collect());
    // What a node could give to all is no promise of what the way to it lets through.
    let published = |candidate: &Candidate<'_>| {
        let free = free(candidate.node);
        (free > 0).then(|| of_measured.map_or(free, |measured| free.min(measured)))
    };
    let of_others = of_measured.or_else(|| median(fit().filter_map(published).collect()));
    let rate = |candidate| {
        let known = measured(candidate).map(|rate| (rate, RateSource::Measured));
        known
            .or_else(|| published(candidate).map(|rate| (rate, RateSource::Published)))
            .or_else(|| of_others.map(|rate| (rate, RateSource::Others)))
    };
    candidates.iter().map(rate).collect()
}

/// What of a node's capacity is free, by its own word.
fn free(node: &NodeState) -> u64 {
    let share = 1.0 - node.load.clamp(0.0, 1.0);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a whole number, not above it; that of no number is 0"
    )]
    let free = (node.capacity as f64 * share) as u64;
    free
}

fn median(mut rates: Vec<u64>) -> Option<u64> {
    rates.sort_unstable();
    rates.get(rates.len() / 2).copied()
}

/// Of each group that is asked as one (well, then degraded) the one whose turn it is first, the others behind it by id.
fn take_turns(rows: &mut [Row], turn: u64) {
    let fit = rows
        .iter()
        .take_while(|row| row.standing().is_some())
        .count();
    let well = rows
        .iter()
        .take_while(|row| matches!(row.standing(), Some((false, _))))
        .count();
    let Some(fit) = rows.get_mut(..fit) else {
        return;
    };
    let (well, degraded) = fit.split_at_mut(well);
    for group in [well, degraded] {
        if group.is_empty() {
            continue;
        }
        group.sort_by_key(|row| row.id);
        let first = turn % group.len() as u64;
        group.rotate_left(usize::try_from(first).unwrap_or(0));
        for (at, row) in group.iter_mut().enumerate() {
            if let Verdict::Fit { score, .. } = &mut row.verdict {
                #[expect(clippy::cast_precision_loss, reason = "a place among some nodes")]
                let place = at as f64;
                *score = place;
            }
        }
    }
}

#[cfg(test)]
mod tests;
