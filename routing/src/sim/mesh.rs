//! Edges that announce, keep and forget as nodes do, in virtual time: each has its [`Holder`], its [`Table`] and the view it has by now.
//!
//! Who sees whom is the membership's matter and not simulated: when something changes, each edge learns of it after a while that
//! the scenario gives, and no two at the same moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Edges, Queue, Wire,
    seals::{Seal, Seals},
};
use crate::{
    Key, NodeId,
    index::{
        Answer, Holder, HolderLimits, HolderStep, Level, Owners, REPLICAS, Reply, Request, Table,
        TableLimits, WHOLE, answer,
    },
};

/// After how long an exchange that nobody answers has failed.
const SILENCE: Duration = Duration::from_secs(2);

/// How often an owner looks for leases that have lapsed.
const SWEEP: Duration = Duration::from_secs(30);

/// Wall time at the beginning, unix milliseconds.
const WALL_MS: u64 = 1_800_000_000_000;

/// By how many milliseconds clocks are wrong, either way.
const SKEW_MS: u64 = 2_000;

/// Steps of one holder at one moment: the 256 buckets of a move and what it sends. More is a holder that never rests.
const STEPS_MAX: usize = 100_000;

#[derive(Debug)]
enum Event {
    /// An edge is to step, if nothing has made it step since.
    Wake {
        edge: usize,
        number: u64,
    },
    /// An edge sees whom of these it can reach by now.
    Look {
        edge: usize,
        life: u64,
        others: Vec<usize>,
    },
    Request {
        from: usize,
        to: usize,
        exchange: u64,
        request: Request,
    },
    Reply {
        from: usize,
        to: usize,
        exchange: u64,
        reply: Reply,
    },
    Silence {
        from: usize,
        to: usize,
        exchange: u64,
    },
    Sweep,
}

#[derive(Debug)]
struct Edge {
    /// Of each edge whether it sees that.
    sees: Vec<bool>,
    owners: Arc<Owners>,
    holder: Holder,
    table: Table,
    holds: BTreeSet<Key>,
    /// Its clock is so much ahead of the slowest there may be.
    skew_ms: u64,
    /// Counts its steps: of its wakes only the one put last counts.
    number: u64,
    /// Counts its lives: what it was to do in one is nothing to the next.
    life: u64,
    /// The exchange with each owner that is under way.
    exchanges: BTreeMap<usize, u64>,
    is_up: bool,
}

/// What is not as it should be once all has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// Two edges do not see the same edges.
    Views,
    /// An owner does not know of a holder that sees it as an owner.
    Missing,
}

/// The edges.
#[derive(Debug)]
pub struct Mesh<'a> {
    edges: &'a Edges,
    wire: Wire<'a>,
    queue: Queue<Event>,
    all: Vec<Edge>,
    sides: Vec<u8>,
    rng: StdRng,
    limits: HolderLimits,
    exchanges: u64,
}

impl<'a> Mesh<'a> {
    /// Edges that all see each other, up for a moment, and hold nothing.
    #[must_use]
    pub fn new(edges: &'a Edges, wire: Wire<'a>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = HolderLimits::default();
        let all = (0..edges.len())
            .map(|at| Edge::new(edges, at, rng.random_range(0..=2 * SKEW_MS), limits))
            .collect();
        let mut mesh = Self {
            edges,
            wire,
            queue: Queue::default(),
            all,
            sides: vec![0; edges.len()],
            rng,
            limits,
            exchanges: 0,
        };
        let everyone: Vec<usize> = (0..edges.len()).collect();
        for at in 0..edges.len() {
            mesh.look(at, &everyone);
        }
        mesh.queue.after(SWEEP, Event::Sweep);
        mesh
    }

    /// How many there are.
    #[must_use]
    pub const fn edges(&self) -> usize {
        self.all.len()
    }

    /// What time it is.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.queue.now()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now() + time;
        while self.queue.next_at().is_some_and(|at| at <= until) {
            if let Some(event) = self.queue.pop() {
                self.happens(event);
            }
        }
        self.queue.pass_to(until);
    }

    /// An edge holds an object from now on.
    pub fn provide(&mut self, edge: usize, key: Key) {
        let now = self.now();
        let wall = self.wall(edge);
        let it = &mut self.all[edge];
        it.holds.insert(key);
        if it.is_up {
            it.holder.provide(key, [1; 32], WHOLE, now, wall);
            self.drive(edge);
        }
    }

    /// It holds it no longer.
    pub fn withdraw(&mut self, edge: usize, key: &Key) {
        let now = self.now();
        let it = &mut self.all[edge];
        it.holds.remove(key);
        if it.is_up {
            it.holder.withdraw(key, now);
            self.drive(edge);
        }
    }

    /// Cuts the network, or heals it where all are on one side. Each edge sees so after a while within `seen`.
    pub fn set_sides(&mut self, sides: &[u8], seen: &Range<Duration>) {
        self.sides.copy_from_slice(sides);
        self.wire.set_sides(sides);
        for edge in 0..self.all.len() {
            self.look_around(edge, seen);
        }
    }

    /// An edge dies, with all it knew in memory and on disk.
    pub fn kill(&mut self, edge: usize, seen: &Range<Duration>) {
        self.wire.set_down(&[edge], true);
        self.all[edge].is_up = false;
        self.all[edge].life += 1;
        self.look_at(edge, seen);
    }

    /// And is there again, with the objects that it held.
    pub fn revive(&mut self, edge: usize, seen: &Range<Duration>) {
        self.wire.set_down(&[edge], false);
        let before = &self.all[edge];
        let (life, skew_ms, holds) = (before.life, before.skew_ms, before.holds.clone());
        let now = self.now();
        let wall = self.wall(edge);
        let mut new = Edge::new(self.edges, edge, skew_ms, self.limits);
        new.holder = Holder::new(self.edges.state(edge).id, wall, self.limits, false);
        new.life = life + 1;
        for key in &holds {
            new.holder.provide(*key, [1; 32], WHOLE, now, wall);
        }
        new.holds = holds;
        self.all[edge] = new;
        self.look(edge, &[edge]);
        self.look_around(edge, seen);
        self.look_at(edge, seen);
    }

    /// Whether an edge is up.
    #[must_use]
    pub fn is_up(&self, edge: usize) -> bool {
        self.all[edge].is_up
    }

    /// What an edge sees, as owners of keys.
    #[must_use]
    pub fn owners(&self, edge: usize) -> &Arc<Owners> {
        &self.all[edge].owners
    }

    /// Who holds a key by what an edge knows.
    pub fn known(&self, edge: usize, key: &Key) -> BTreeSet<NodeId> {
        let table = &self.all[edge].table;
        table
            .holders(key, self.now())
            .map(|(holder, _)| holder)
            .collect()
    }

    /// What an edge answers `from`, who asks who holds a key.
    #[must_use]
    pub fn answer(&self, edge: usize, from: &NodeId, key: &Key, wide: bool) -> Answer {
        let it = &self.all[edge];
        answer(
            &it.owners,
            it.holder.held(key),
            &it.table,
            from,
            key,
            wide,
            self.now(),
        )
    }

    /// What an edge holds.
    #[must_use]
    pub fn holds(&self, edge: usize) -> &BTreeSet<Key> {
        &self.all[edge].holds
    }

    /// What is not yet as it should be when nothing is cut: all edges that are up see just those, and each owner of a key knows each of its holders.
    #[must_use]
    pub fn unsettled(&self) -> Option<Unsettled> {
        let up: Vec<usize> = (0..self.all.len()).filter(|at| self.is_up(*at)).collect();
        let ids: BTreeSet<_> = up.iter().map(|at| self.edges.state(*at).id).collect();
        for at in &up {
            let view = self.all[*at].owners.view();
            let sees = view.nodes().iter().map(|node| node.id);
            if !sees.eq(ids.iter().copied()) {
                return Some(Unsettled::Views);
            }
        }
        for at in &up {
            let (edge, id) = (&self.all[*at], self.edges.state(*at).id);
            for key in &edge.holds {
                for owner in edge.owners.of_key(key, REPLICAS) {
                    let known = self.edges.place(&owner).map(|owner| self.known(owner, key));
                    if !known.is_some_and(|known| known.contains(&id)) {
                        return Some(Unsettled::Missing);
                    }
                }
            }
        }
        None
    }

    /// Of what owners would answer now about these keys: hints to holders that hold the key no longer, and hints in all.
    #[must_use]
    pub fn stale_hints(&self, keys: &[Key]) -> (usize, usize) {
        let (mut stale, mut all) = (0, 0);
        for at in (0..self.all.len()).filter(|at| self.is_up(*at)) {
            for key in keys {
                let owners = &self.all[at].owners;
                let me = owners.view().me;
                let owns = |level| owners.closest(level, key, REPLICAS).contains(&me);
                if !Level::ALL.into_iter().any(owns) {
                    continue;
                }
                for holder in self.known(at, key) {
                    let holds = |edge: usize| self.all[edge].holds.contains(key);
                    all += 1;
                    stale += usize::from(!self.edges.place(&holder).is_some_and(holds));
                }
            }
        }
        (stale, all)
    }

    fn wall(&self, edge: usize) -> u64 {
        let since = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX);
        WALL_MS + since + self.all[edge].skew_ms
    }

    /// All others see, each after a while of its own, how it is with an edge.
    fn look_at(&mut self, other: usize, seen: &Range<Duration>) {
        for edge in 0..self.all.len() {
            self.look_after(edge, vec![other], seen);
        }
    }

    /// An edge sees how it is with all others, in three parts.
    fn look_around(&mut self, edge: usize, seen: &Range<Duration>) {
        let mut parts = [const { Vec::new() }; 3];
        for other in 0..self.all.len() {
            parts[self.rng.random_range(0..3)].push(other);
        }
        for part in parts {
            self.look_after(edge, part, seen);
        }
    }

    fn look_after(&mut self, edge: usize, others: Vec<usize>, seen: &Range<Duration>) {
        let look = Event::Look {
            edge,
            life: self.all[edge].life,
            others,
        };
        let wait = self.rng.random_range(seen.clone());
        self.queue.after(wait, look);
    }

    /// An edge sees whom of these it can reach now.
    fn look(&mut self, edge: usize, others: &[usize]) {
        let is_new = self.all[edge].owners.view().generation == 0;
        let mut changed = is_new;
        for other in others {
            let sees = self.all[*other].is_up && self.sides[*other] == self.sides[edge];
            changed |= std::mem::replace(&mut self.all[edge].sees[*other], sees) != sees;
        }
        if !changed {
            return;
        }
        let generation = self.all[edge].owners.view().generation + 1;
        let view = self
            .edges
            .view(edge, generation, |other| self.all[edge].sees[other]);
        let owners = Arc::new(Owners::of(Arc::new(view)));
        let now = self.now();
        let it = &mut self.all[edge];
        it.owners = Arc::clone(&owners);
        it.holder.follow(owners, now);
        self.drive(edge);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wake { edge, number } => {
                if self.all[edge].number == number {
                    self.drive(edge);
                }
            }
            Event::Look { edge, life, others } => {
                if self.all[edge].is_up && self.all[edge].life == life {
                    self.look(edge, &others);
                }
            }
            Event::Request {
                from,
                to,
                exchange,
                request,
            } => {
                let reply = self.reply(from, to, &request);
                if let (Some(reply), Some(takes)) = (reply, self.takes(to, from)) {
                    let reply = Event::Reply {
                        from,
                        to,
                        exchange,
                        reply,
                    };
                    self.queue.after(takes, reply);
                }
            }
            Event::Reply {
                from,
                to,
                exchange,
                reply,
            } => {
                if self.ends(from, to, exchange) {
                    let (owner, now) = (self.edges.state(to).id, self.now());
                    self.all[from].holder.replied(&owner, reply, now);
                    self.drive(from);
                }
            }
            Event::Silence { from, to, exchange } => {
                if self.ends(from, to, exchange) {
                    let (owner, now) = (self.edges.state(to).id, self.now());
                    self.all[from].holder.failed(&owner, now);
                    self.drive(from);
                }
            }
            Event::Sweep => {
                let now = self.now();
                for edge in &mut self.all {
                    while edge.table.sweep(now, 1 << 16) {}
                }
                self.queue.after(SWEEP, Event::Sweep);
            }
        }
    }

    /// Whether this exchange was under way; it is not any longer.
    fn ends(&mut self, from: usize, to: usize, exchange: u64) -> bool {
        let exchanges = &mut self.all[from].exchanges;
        let is_it = exchanges.get(&to) == Some(&exchange);
        if is_it {
            exchanges.remove(&to);
        }
        is_it && self.all[from].is_up
    }

    fn takes(&mut self, from: usize, to: usize) -> Option<Duration> {
        match from == to {
            true => Some(Duration::ZERO),
            false => self.wire.takes(from, to),
        }
    }

    /// Lets an edge do what it is to do now.
    fn drive(&mut self, edge: usize) {
        let (now, wall) = (self.now(), self.wall(edge));
        let seal = Seal(self.edges.state(edge).id);
        self.all[edge].number += 1;
        for _ in 0..STEPS_MAX {
            match self.all[edge].holder.step(now, wall, &seal) {
                HolderStep::Send { to, request } => {
                    let Some(to) = self.edges.place(&to) else {
                        continue;
                    };
                    self.exchanges += 1;
                    let exchange = self.exchanges;
                    self.all[edge].exchanges.insert(to, exchange);
                    if let Some(takes) = self.takes(edge, to) {
                        let request = Event::Request {
                            from: edge,
                            to,
                            exchange,
                            request,
                        };
                        self.queue.after(takes, request);
                    }
                    let silence = Event::Silence {
                        from: edge,
                        to,
                        exchange,
                    };
                    self.queue.after(SILENCE, silence);
                }
                HolderStep::Wait(until) if until <= now => {}
                HolderStep::Wait(until) => {
                    let number = self.all[edge].number;
                    self.queue.at(until, Event::Wake { edge, number });
                    return;
                }
                HolderStep::Idle => return,
            }
        }
        panic!("edge {edge} has no rest at {now:?}");
    }

    /// What an owner replies, where it is up.
    fn reply(&mut self, from: usize, to: usize, request: &Request) -> Option<Reply> {
        let (me, holder, now) = (
            self.edges.state(to).id,
            self.edges.state(from).id,
            self.now(),
        );
        let owner = &mut self.all[to];
        if !owner.is_up {
            return None;
        }
        let table = &mut owner.table;
        let replied = match request {
            Request::Find { .. } => return None,
            Request::Announce(signed) => signed.check(&me, &holder, &Seals).and_then(|()| {
                let said = &signed.statement;
                let refused = table.announce(&said.terms, &said.changes, now)?;
                Ok(Reply::Accepted { refused })
            }),
            Request::Renew(signed) => signed.check(&me, &holder, &Seals).and_then(|()| {
                let said = &signed.statement;
                let digests = table.renew(&said.terms, said.root, now)?;
                let room = table.has_room(&holder);
                Ok(
                    digests.map_or(Reply::Kept { room }, |digests| Reply::Differs {
                        digests,
                        room,
                    }),
                )
            }),
        };
        Some(replied.unwrap_or_else(Reply::Refused))
    }
}

impl Edge {
    fn new(edges: &Edges, at: usize, skew_ms: u64, limits: HolderLimits) -> Self {
        let id = edges.state(at).id;
        let table = TableLimits {
            lease: limits.lease,
            ..TableLimits::default()
        };
        Self {
            sees: vec![false; edges.len()],
            owners: Arc::new(Owners::of(Arc::new(edges.view(at, 0, |_| false)))),
            holder: Holder::new(id, WALL_MS + skew_ms, limits, false),
            table: Table::new(table, false),
            holds: BTreeSet::new(),
            skew_ms,
            number: 0,
            life: 0,
            exchanges: BTreeMap::new(),
            is_up: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Matrix, Regions};

    const SOON: Range<Duration> = Duration::from_millis(100)..Duration::from_millis(200);

    #[test]
    fn what_is_not_settled_is_said_until_it_is() {
        let matrix = Matrix::on_earth(12, Regions::Parts, 3);
        let edges = Edges::new(&matrix, 3);
        let mut mesh = Mesh::new(&edges, Wire::new(&matrix, 3), 3);
        let key = Key([7; 32]);
        mesh.provide(4, key);
        assert_eq!(mesh.unsettled(), Some(Unsettled::Missing));
        mesh.run_for(Duration::from_secs(5));
        assert_eq!(mesh.unsettled(), None);
        assert_eq!(mesh.stale_hints(&[key]).0, 0);

        let sides: Vec<u8> = (0..12).map(|at| at % 2).collect();
        mesh.set_sides(&sides, &SOON);
        mesh.run_for(Duration::from_secs(1));
        assert_eq!(mesh.unsettled(), Some(Unsettled::Views));
        mesh.withdraw(4, &key);
        assert!(mesh.stale_hints(&[key]).0 > 0);
        mesh.set_sides(&[0; 12], &SOON);
        mesh.run_for(Duration::from_secs(10));
        assert_eq!(mesh.unsettled(), None);
    }

    #[test]
    fn an_edge_that_comes_back_with_nothing_else_announces_what_it_holds() {
        let matrix = Matrix::on_earth(12, Regions::Parts, 3);
        let edges = Edges::new(&matrix, 3);
        let mut mesh = Mesh::new(&edges, Wire::new(&matrix, 3), 3);
        let key = Key([7; 32]);
        mesh.provide(4, key);
        mesh.run_for(Duration::from_secs(5));
        mesh.kill(4, &SOON);
        mesh.run_for(Duration::from_secs(5));
        assert_eq!(mesh.unsettled(), None);
        mesh.revive(4, &SOON);
        mesh.run_for(Duration::from_secs(10));
        assert_eq!(mesh.unsettled(), None);
        let owner = mesh.owners(4).of_key(&key, REPLICAS)[0];
        let known = mesh.known(edges.place(&owner).unwrap(), &key);
        assert!(known.contains(&edges.state(4).id));
    }
}
