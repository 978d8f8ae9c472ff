//! One search for the providers of a key, as a value: it is told answers and the time, and says whom to ask.
//!
//! With a complete view it is one hop. Of each level's owners the one with the lowest round trip is asked, all levels at once; the first answer with a
//! provider wins. An owner that is silent for about twice its round trip is not waited for: the next one of its level is asked beside it. An
//! owner's word that nobody holds the key settles a level; the world, which every holder announces to, is settled by
//! [`LookupLimits::denials`] of them, since one may have become an owner a moment ago.
//!
//! With a view that is not complete the world's part goes from node to node as in Kademlia: those closest to the key are asked, answers name closer
//! ones, and it ends when the closest that are known have all denied. A node can name closer nodes only, so each step leads
//! nearer to the key, and how many nodes are asked and for how long is bounded whatever they answer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    owners::{Level, Owners, REPLICAS},
    record::{ADDRESSES_MAX, Answer, CLOSER_MAX, PROVIDERS_MAX, Provider},
};
use crate::{Distance, Key, NodeId};

/// What a lookup may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupLimits {
    /// Owners of a key in each level, as holders reckon them; default [`REPLICAS`].
    pub replicas: usize,
    /// Owners in the world that have to deny before nobody holds the key; default 2.
    pub denials: usize,
    /// Nodes asked, all told; default 24. An answer is at most some 8 KiB.
    pub asked: usize,
    /// Nodes known by a lookup that goes from node to node; default 64.
    pub known: usize,
    /// How far from the own view nodes may be that others named; default 6 steps.
    pub rounds: u32,
    /// Nodes asked at once on the way from node to node; default 3, Kademlia's alpha.
    pub parallel: usize,
    /// The round trip to a node of which none is known; default 150 ms.
    pub rtt_unknown: Duration,
    /// The least silence after which the next owner is asked; default 10 ms.
    pub hedge_min: Duration,
    /// Silence after which a node counts as failed; default 1 s.
    pub silence: Duration,
    /// The whole lookup; default 3 s.
    pub time: Duration,
}

impl Default for LookupLimits {
    fn default() -> Self {
        Self {
            replicas: REPLICAS,
            denials: 2,
            asked: 24,
            known: 64,
            rounds: 6,
            parallel: 3,
            rtt_unknown: Duration::from_millis(150),
            hedge_min: Duration::from_millis(10),
            silence: Duration::from_secs(1),
            time: Duration::from_secs(3),
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask this node, which may be the node itself, and step again at once.
    Ask(NodeId),
    /// Nothing before this time, unless an answer or a failure comes first.
    Wait(Duration),
    /// These hold it, the end: those that hold all of it first. At least one, at most [`PROVIDERS_MAX`].
    Found(Vec<Provider>),
    /// Nobody does, or nobody could say in time, the end: [`Lookup::tally`] tells which.
    NotFound,
}

/// What a lookup has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nodes asked.
    pub asked: usize,
    /// Of these, those asked because another one was silent.
    pub hedges: usize,
    /// Of these, those that failed or were silent to the end.
    pub lost: usize,
    /// Of these, those that knew no provider.
    pub denied: usize,
    /// Answers of nodes that were not asked, or were asked once and answered twice: passed over.
    pub unasked: usize,
    /// Steps from the own view to the furthest node asked.
    pub rounds: u32,
    /// Whether it ended before enough owners had denied, by a bound or because they were lost: then [`Step::NotFound`] says little.
    pub cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// Asked: waited for alone until `hedge_at`, beside others until `until`.
    Asked {
        hedge_at: Duration,
        until: Duration,
    },
    /// Was silent for too long. Its answer still counts if it comes.
    Silent,
    Failed,
    Denied,
}

#[derive(Debug)]
struct Candidate {
    id: NodeId,
    /// Where it is said to be, for a node that the view does not have.
    addresses: Vec<SocketAddr>,
    distance: Distance,
    rtt: Duration,
    /// In which of [`Level::ALL`] it owns the key.
    levels: [bool; 3],
    /// Steps from the own view.
    depth: u32,
    state: State,
}

impl Candidate {
    fn owns(&self, level: Level) -> bool {
        let [metro, region, world] = self.levels;
        match level {
            Level::Metro => metro,
            Level::Region => region,
            Level::World => world,
        }
    }

    /// Asked, and not silent for too long to be waited for alone.
    fn is_live(&self, now: Duration) -> bool {
        matches!(self.state, State::Asked { hedge_at, .. } if now < hedge_at)
    }

    fn is_asked(&self) -> bool {
        matches!(self.state, State::Asked { .. })
    }
}

/// One search for the providers of a key.
#[derive(Debug)]
pub struct Lookup {
    owners: Arc<Owners>,
    key: Key,
    limits: LookupLimits,
    deadline: Duration,
    /// At most three times `replicas` and eight of the own view, and `known` in all.
    candidates: Vec<Candidate>,
    found: Option<Vec<Provider>>,
    ended: bool,
    tally: Tally,
}

impl Lookup {
    /// Begins. `rtt` gives the expected round trip to a node, None where nothing is known of it.
    #[must_use]
    pub fn new(
        owners: &Arc<Owners>,
        rtt: &dyn Fn(&NodeId) -> Option<Duration>,
        key: Key,
        limits: LookupLimits,
        now: Duration,
    ) -> Self {
        let mut lookup = Self {
            owners: Arc::clone(owners),
            key,
            limits,
            deadline: now.saturating_add(limits.time),
            candidates: Vec::with_capacity(3 * limits.replicas),
            found: None,
            ended: false,
            tally: Tally::default(),
        };
        let me = owners.view().me;
        let mut add = |id: NodeId, level: Option<Level>| {
            let at = lookup.candidates.iter().position(|known| known.id == id);
            let at = at.unwrap_or_else(|| {
                lookup.candidates.push(Candidate {
                    id,
                    addresses: Vec::new(),
                    distance: id.distance(&key),
                    rtt: if id == me {
                        Duration::ZERO
                    } else {
                        rtt(&id).unwrap_or(limits.rtt_unknown)
                    },
                    levels: [false; 3],
                    depth: 0,
                    state: State::New,
                });
                lookup.candidates.len() - 1
            });
            if let (Some(candidate), Some(level)) = (lookup.candidates.get_mut(at), level) {
                let [metro, region, world] = &mut candidate.levels;
                match level {
                    Level::Metro => *metro = true,
                    Level::Region => *region = true,
                    Level::World => *world = true,
                }
            }
        };
        for level in Level::ALL {
            for id in owners.closest(level, &key, limits.replicas) {
                add(id, Some(level));
            }
        }
        if !owners.view().complete {
            for id in owners.closest(Level::World, &key, CLOSER_MAX) {
                add(id, None);
            }
        }
        lookup
    }

    /// The key it searches for.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether it goes from node to node: whoever is asked is to name closer nodes, and where they are.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        !self.owners.view().complete
    }

    /// Where a node that it said to ask is: what the view has, else what others named. Empty for a node it does not know.
    #[must_use]
    pub fn addresses(&self, id: &NodeId) -> Vec<SocketAddr> {
        if let Some(node) = self.owners.view().get(id) {
            return node.addresses.clone();
        }
        let known = self.candidates.iter().find(|known| known.id == *id);
        known.map_or_else(Vec::new, |known| known.addresses.clone())
    }

    /// What it has done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What to do now. After an `Ask` it is to be called again at once; after the end it says the same again.
    pub fn step(&mut self, now: Duration) -> Step {
        if let Some(found) = &self.found {
            return Step::Found(found.clone());
        }
        if self.ended {
            return Step::NotFound;
        }
        self.expire(now);
        if now >= self.deadline {
            return self.end();
        }
        let next = self.next(now);
        if let Some((at, hedges)) = next
            && self.tally.asked < self.limits.asked
        {
            return self.ask(at, hedges, now);
        }
        let waits = self
            .candidates
            .iter()
            .filter_map(|known| match known.state {
                State::Asked { hedge_at, until } => {
                    Some(if now < hedge_at { hedge_at } else { until })
                }
                State::New | State::Silent | State::Failed | State::Denied => None,
            });
        match waits.min() {
            Some(until) if !self.is_settled(now) => Step::Wait(until.min(self.deadline)),
            Some(_) | None => self.end(),
        }
    }

    /// What a node answered. Nothing of it is believed further than the module says; lists that are too long are cut.
    pub fn answered(&mut self, from: NodeId, answer: Answer, _now: Duration) {
        let asked = self.candidates.iter().position(|known| {
            known.id == from && matches!(known.state, State::Asked { .. } | State::Silent)
        });
        let Some(candidate) = asked.and_then(|at| self.candidates.get_mut(at)) else {
            self.tally.unasked += 1;
            return;
        };
        if candidate.state == State::Silent {
            self.tally.lost -= 1;
        }
        candidate.state = State::Denied;
        let (distance, depth) = (candidate.distance, candidate.depth + 1);
        let providers = self.worthwhile(answer.providers);
        if !providers.is_empty() {
            if self.found.is_none() && !self.ended {
                self.found = Some(providers);
            }
            return;
        }
        self.tally.denied += 1;
        if !self.is_wide() || depth > self.limits.rounds {
            return;
        }
        for contact in answer.closer.into_iter().take(CLOSER_MAX) {
            let mut addresses = contact.addresses;
            addresses.truncate(ADDRESSES_MAX);
            let closer = contact.id.distance(&self.key);
            let known = self.candidates.iter().any(|known| known.id == contact.id);
            if known
                || closer >= distance
                || contact.id == self.owners.view().me
                || addresses.is_empty()
                || self.candidates.len() >= self.limits.known
            {
                continue;
            }
            self.candidates.push(Candidate {
                id: contact.id,
                addresses,
                distance: closer,
                rtt: self.limits.rtt_unknown,
                levels: [false; 3],
                depth,
                state: State::New,
            });
        }
    }

    /// A node could not be asked, or its answer was none.
    pub fn failed(&mut self, from: NodeId, _now: Duration) {
        let asked = self.candidates.iter_mut().find(|known| known.id == from);
        match asked {
            Some(candidate) if candidate.is_asked() => {
                candidate.state = State::Failed;
                self.tally.lost += 1;
            }
            // Counted when it fell silent.
            Some(candidate) if candidate.state == State::Silent => candidate.state = State::Failed,
            Some(_) | None => self.tally.unasked += 1,
        }
    }

    fn end(&mut self) -> Step {
        self.ended = true;
        self.tally.cut = !self.is_denied();
        Step::NotFound
    }

    fn expire(&mut self, now: Duration) {
        for candidate in &mut self.candidates {
            if matches!(candidate.state, State::Asked { until, .. } if until <= now) {
                candidate.state = State::Silent;
                self.tally.lost += 1;
            }
        }
    }

    fn ask(&mut self, at: usize, hedges: bool, now: Duration) -> Step {
        let Some(candidate) = self.candidates.get_mut(at) else {
            return self.end();
        };
        let silence = candidate.rtt.saturating_mul(2).max(self.limits.hedge_min);
        let until = now.saturating_add(self.limits.silence);
        candidate.state = State::Asked {
            hedge_at: now.saturating_add(silence).min(until),
            until,
        };
        self.tally.asked += 1;
        self.tally.hedges += usize::from(hedges);
        self.tally.rounds = self.tally.rounds.max(candidate.depth);
        Step::Ask(candidate.id)
    }

    /// Whom to ask now, and whether that is because another is silent.
    fn next(&self, now: Duration) -> Option<(usize, bool)> {
        for level in Level::ALL {
            if level == Level::World && self.is_wide() {
                return self.next_wide(now);
            }
            let owners = || self.candidates.iter().filter(|known| known.owns(level));
            if self.denials(level) >= self.denials_needed(level)
                || owners().any(|known| known.is_live(now))
            {
                continue;
            }
            let new = self.candidates.iter().enumerate();
            let new = new.filter(|(_, known)| known.owns(level) && known.state == State::New);
            if let Some((at, _)) = new.min_by_key(|(_, known)| (known.rtt, known.distance)) {
                return Some((at, owners().any(Candidate::is_asked)));
            }
        }
        None
    }

    /// The closest nodes that have not failed, as many as own a key.
    fn front(&self) -> Vec<usize> {
        let mut front: Vec<_> = (0..).zip(&self.candidates).collect();
        front.retain(|(_, known)| !matches!(known.state, State::Failed | State::Silent));
        front.sort_unstable_by_key(|(_, known)| known.distance);
        front.truncate(self.limits.replicas);
        front.into_iter().map(|(at, _)| at).collect()
    }

    fn next_wide(&self, now: Duration) -> Option<(usize, bool)> {
        let live = self.candidates.iter().filter(|known| known.is_live(now));
        if live.count() >= self.limits.parallel {
            return None;
        }
        // One that is silent holds its place in the front until it counts as failed; so that it does not hold all up, the front is
        // that much longer.
        let mut near: Vec<_> = (0..).zip(&self.candidates).collect();
        near.retain(|(_, known)| {
            known.state == State::New || known.state == State::Denied || known.is_live(now)
        });
        near.sort_unstable_by_key(|(_, known)| known.distance);
        near.truncate(self.limits.replicas);
        let next = near.iter().find(|(_, known)| known.state == State::New);
        let late = |known: &Candidate| known.is_asked() && !known.is_live(now);
        next.map(|(at, _)| (*at, self.candidates.iter().any(late)))
    }

    fn denials(&self, level: Level) -> usize {
        let denied = |known: &&Candidate| known.owns(level) && known.state == State::Denied;
        self.candidates.iter().filter(denied).count()
    }

    fn denials_needed(&self, level: Level) -> usize {
        match level {
            Level::Metro | Level::Region => 1,
            Level::World => self.limits.denials.max(1),
        }
    }

    /// Whether nobody holds the key, where nobody is left to be asked: the world has said so, and nobody is waited for who is not late.
    fn is_settled(&self, now: Duration) -> bool {
        if self.candidates.iter().any(|known| known.is_live(now)) {
            return false;
        }
        self.is_denied()
    }

    /// Whether the world has said that nobody holds the key.
    fn is_denied(&self) -> bool {
        if self.is_wide() {
            let front = self.front();
            let denied = |at: &usize| {
                let known = self.candidates.get(*at);
                known.is_some_and(|known| known.state == State::Denied)
            };
            return !front.is_empty() && front.iter().all(denied);
        }
        let owners = self
            .candidates
            .iter()
            .filter(|known| known.owns(Level::World));
        let needed = self.denials_needed(Level::World).min(owners.count());
        needed > 0 && self.denials(Level::World) >= needed
    }

    /// Of the providers an answer names, those worth asking: each once, not this node, and seen, where all are seen.
    fn worthwhile(&self, mut providers: Vec<Provider>) -> Vec<Provider> {
        let view = self.owners.view();
        providers.truncate(PROVIDERS_MAX);
        providers.retain(|provider| {
            provider.fraction > 0
                && provider.holder != view.me
                && (!view.complete || view.get(&provider.holder).is_some())
        });
        // Of two of the same holder the newer.
        providers.sort_by_key(|provider| (provider.holder, std::cmp::Reverse(provider.generation)));
        providers.dedup_by_key(|provider| provider.holder);
        providers.sort_by_key(|provider| std::cmp::Reverse(provider.fraction));
        for provider in &mut providers {
            provider.addresses.truncate(ADDRESSES_MAX);
        }
        providers
    }
}

#[cfg(test)]
mod tests;
