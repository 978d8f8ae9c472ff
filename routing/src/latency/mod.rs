//! How long a round trip between two nodes takes, and how that is known.
//!
//! The best that is known counts: what this node measured on its own path of late, else what both nodes' coordinates foretell where both
//! are sure of them, else the distance on the globe, else that they share a metro or a region. [`Source`] says which it was, so nobody takes a
//! guess for a measurement.
//!
//! It measures nothing itself: [`Latency::measured`] is told of round trips, and time is passed in.

mod globe;
mod vivaldi;
#[cfg(test)]
pub(crate) mod world;

use std::{collections::HashMap, fmt, time::Duration};

pub use globe::Geography;
pub use vivaldi::{BadSample, SampleCounts, Vivaldi};

use crate::{
    NodeId, NodeState, Position, View, Zone,
    geo::{names_metro, names_region},
};

/// How long a measured round trip is fresh.
const FRESH: Duration = Duration::from_secs(300);

/// How long the shortest round trip counts before the window moves on. Two windows are looked at, so a path that got longer is seen after
/// 30 to 60 s and one that got shorter at once.
const WINDOW: Duration = Duration::from_secs(30);

/// Paths remembered, 96 bytes each; beyond it the one measured longest ago is forgotten.
const PATHS_MAX: usize = 4_096;

/// The error up to which coordinates are trusted.
const TRUSTED_ERROR: f64 = 0.3;

/// What a round trip is taken for where nothing but the zones are known, milliseconds: within a metro, within a region, and beyond.
const WITHIN_METRO: f64 = 2.0;
const WITHIN_REGION: f64 = 35.0;
const BEYOND_REGION: f64 = 160.0;

/// How a round trip is known, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// It is the node itself.
    Itself,
    /// Measured on the path between both within the last 5 min.
    Path,
    /// The coordinates of both, which are sure of them.
    Coordinates,
    /// The distance on the globe.
    Geography,
    /// Whether they share a metro or a region.
    Zones,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Itself => "itself",
            Self::Path => "path",
            Self::Coordinates => "coordinates",
            Self::Geography => "geography",
            Self::Zones => "zones",
        })
    }
}

/// The shortest round trips of this window and the one before.
#[derive(Debug, Clone, Copy)]
struct Path {
    low: Duration,
    low_before: Duration,
    begun: Duration,
    measured: Duration,
}

/// What one node knows of round trips.
#[derive(Debug, Clone)]
pub struct Latency {
    me: NodeId,
    paths: HashMap<NodeId, Path>,
    geography: Geography,
}

impl Latency {
    /// What a node knows at first: nothing of paths, and of geography the assumption.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            paths: HashMap::new(),
            geography: Geography::default(),
        }
    }

    /// A round trip to `peer` was measured. Zero is no measurement and is left out.
    pub fn measured(&mut self, peer: NodeId, rtt: Duration, now: Duration) {
        if rtt.is_zero() || peer == self.me {
            return;
        }
        if self.paths.len() >= PATHS_MAX && !self.paths.contains_key(&peer) {
            let oldest = self
                .paths
                .iter()
                .min_by_key(|(id, path)| (path.measured, **id))
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.paths.remove(&oldest);
            }
        }
        let path = self.paths.entry(peer).or_insert(Path {
            low: rtt,
            low_before: rtt,
            begun: now,
            measured: now,
        });
        let age = now.saturating_sub(path.begun);
        if age >= WINDOW {
            // A window in which nothing was measured says nothing.
            path.low_before = if age < 2 * WINDOW { path.low } else { rtt };
            path.low = rtt;
            path.begun = now;
        }
        path.low = path.low.min(rtt);
        path.measured = now;
    }

    /// Forgets a peer, when it left.
    pub fn forget(&mut self, peer: &NodeId) {
        self.paths.remove(peer);
    }

    /// The round trip to a peer as it was measured within the last 5 min.
    #[must_use]
    pub fn path(&self, peer: &NodeId, now: Duration) -> Option<Duration> {
        let path = self.paths.get(peer)?;
        let is_fresh = now.saturating_sub(path.measured) <= FRESH;
        is_fresh.then(|| path.low.min(path.low_before))
    }

    /// How long a round trip between two nodes takes, and how that is known. None where not even their zones are.
    #[must_use]
    pub fn estimate(
        &self,
        one: &NodeState,
        other: &NodeState,
        now: Duration,
    ) -> Option<(Duration, Source)> {
        if one.id == other.id {
            return Some((Duration::ZERO, Source::Itself));
        }
        let far_end = if one.id == self.me {
            Some(other)
        } else if other.id == self.me {
            Some(one)
        } else {
            None
        };
        if let Some(rtt) = far_end.and_then(|peer| self.path(&peer.id, now)) {
            return Some((rtt, Source::Path));
        }
        by_coordinates(one, other).or_else(|| self.by_geography(one, other))
    }

    /// As [`Self::estimate`], from this node to another one of its view.
    #[must_use]
    pub fn to(&self, view: &View, other: &NodeId, now: Duration) -> Option<(Duration, Source)> {
        self.estimate(view.get(&self.me)?, view.get(other)?, now)
    }

    /// How long a round trip between two nodes should take by where they are: the distance on the globe, else the zones. No measurement between
    /// them counts.
    #[must_use]
    pub fn by_geography(&self, one: &NodeState, other: &NodeState) -> Option<(Duration, Source)> {
        if one.id == other.id {
            return Some((Duration::ZERO, Source::Itself));
        }
        let places = valid(one.position.as_ref()).zip(valid(other.position.as_ref()));
        if let Some((one, other)) = places {
            let ms = self.geography.round_trip(one, other);
            return Some((milliseconds(ms), Source::Geography));
        }
        by_zones(&one.zone, &other.zone)
    }

    /// How round trips follow from distance, as far as this node knows.
    #[must_use]
    pub fn geography(&self) -> Geography {
        self.geography
    }

    /// Fits [`Self::geography`] to the fresh paths of this node. Costs a pass over up to 8,128 slopes; once a minute is plenty. With too few paths, or too
    /// few distances, it stays as it is.
    pub fn learn_geography(&mut self, view: &View, now: Duration) {
        let Some(here) = view
            .get(&self.me)
            .and_then(|me| valid(me.position.as_ref()))
        else {
            return;
        };
        let measured: Vec<_> = view
            .nodes()
            .iter()
            .filter_map(|node| {
                let there = valid(node.position.as_ref())?;
                let rtt = self.path(&node.id, now)?;
                Some((here.distance(there), rtt.as_secs_f64() * 1_000.0))
            })
            .take(globe::FIT_SAMPLES_MAX)
            .collect();
        if let Some(fit) = Geography::fit(&measured) {
            self.geography = fit;
        }
    }
}

fn valid(position: Option<&Position>) -> Option<&Position> {
    position.filter(|position| position.is_valid())
}

/// What the coordinates of both foretell, where both are sure of them; never less than light needs between where they say they are.
fn by_coordinates(one: &NodeState, other: &NodeState) -> Option<(Duration, Source)> {
    let sure = |node: &NodeState| {
        node.coordinates
            .filter(|at| at.are_valid() && at.error <= TRUSTED_ERROR)
    };
    let foretold = sure(one)?.round_trip(&sure(other)?);
    let places = valid(one.position.as_ref()).zip(valid(other.position.as_ref()));
    let light = places.map_or(0.0, |(one, other)| {
        one.distance(other) * globe::LIGHT_MS_PER_KM
    });
    Some((milliseconds(foretold.max(light)), Source::Coordinates))
}

fn by_zones(one: &Zone, other: &Zone) -> Option<(Duration, Source)> {
    if !names_region(one) || !names_region(other) {
        return None;
    }
    let ms = if one.region != other.region {
        BEYOND_REGION
    } else if one.metro != other.metro || !names_metro(one) {
        WITHIN_REGION
    } else {
        WITHIN_METRO
    };
    Some((milliseconds(ms), Source::Zones))
}

/// Of what is not a time the longest that is: it is never preferred.
fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
