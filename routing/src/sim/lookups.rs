//! Lookups of the provider index on a mesh that stands still, driven as a node drives them: the same [`Lookup`], the same [`Owners`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Edges, Matrix, Queue, Times, Wire, Yardstick, draw,
    kademlia::{self, Rules, Tables},
    learn::{Learning, estimated},
};
use crate::{
    Key, NodeId,
    index::{
        Answer, Change, Level, Lookup, LookupLimits, Owners, Provider, REPLICAS, Record, Step,
        Table, TableLimits, Tally, Terms, WHOLE, answer,
    },
};

/// How a lookup went.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How long it took.
    pub took: Duration,
    /// Who holds the key; empty where it was not found.
    pub providers: Vec<Provider>,
    /// What it cost.
    pub tally: Tally,
}

#[derive(Debug)]
enum Event {
    Answer(usize),
    Wake,
}

/// Looks a key up from an edge. `knows` says what an edge answers that is asked.
pub fn look_up(
    wire: &mut Wire<'_>,
    edges: &Edges,
    owners: &Arc<Owners>,
    rtt: &dyn Fn(&NodeId) -> Option<Duration>,
    key: Key,
    limits: LookupLimits,
    knows: impl Fn(usize, bool) -> Answer,
) -> Ended {
    let mut queue = Queue::default();
    let from = edges.place(&owners.view().me);
    let mut lookup = Lookup::new(owners, rtt, key, limits, queue.now());
    let is_wide = lookup.is_wide();
    let providers = loop {
        match lookup.step(queue.now()) {
            Step::Found(providers) => break providers,
            Step::NotFound => break Vec::new(),
            Step::Ask(id) => {
                let (Some(from), Some(to)) = (from, edges.place(&id)) else {
                    lookup.failed(id, queue.now());
                    continue;
                };
                let takes = match from == to {
                    true => Some(Duration::ZERO),
                    false => wire.asked(from, to),
                };
                if let Some(takes) = takes {
                    queue.after(takes, Event::Answer(to));
                }
                continue;
            }
            Step::Wait(until) => queue.at(until, Event::Wake),
        }
        if let Some(Event::Answer(node)) = queue.pop() {
            let answer = knows(node, is_wide);
            lookup.answered(edges.state(node).id, answer, queue.now());
        }
    };
    Ended {
        took: queue.now(),
        providers,
        tally: lookup.tally(),
    }
}

/// What is wrong with the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaths {
    /// Nothing.
    None,
    /// Edges died a moment ago: all still see them.
    Unseen,
    /// Nobody sees them any more. What was announced to them is lost and not yet announced to those that own it now.
    Seen,
    /// And it was announced again.
    Mended,
}

/// What an edge knows of round trips to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// What they are.
    Exact,
    /// What coordinates say after 200 measurements of each edge, where they are trusted; else geography. No path between the two was measured.
    Coordinates,
    /// Where the others are on the globe.
    Geography,
    /// Nothing.
    Nothing,
}

/// A row of the table: what the mesh is like, and what is looked up in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// The part of edges that hold what is looked up, 0 for one edge.
    pub held_by: f64,
    /// What died.
    pub deaths: Deaths,
    /// The part of edges that it did to.
    pub dead: f64,
    /// The part of packets that is lost.
    pub loss: f64,
    /// What edges know of round trips.
    pub knowledge: Knowledge,
    /// The part of the others that an edge sees; below 1 its view is not complete.
    pub sees: f64,
    /// What a lookup may cost.
    pub limits: LookupLimits,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            held_by: 0.1,
            deaths: Deaths::None,
            dead: 0.0,
            loss: 0.0,
            knowledge: Knowledge::Coordinates,
            sees: 1.0,
            limits: LookupLimits::default(),
        }
    }
}

/// What came out of a [`Setting`].
#[derive(Debug, Clone, Default)]
pub struct Lookups {
    /// Lookups of the index.
    pub index: Times,
    /// Those of Kademlia that end with the first provider.
    pub early: Times,
    /// Those of Kademlia that run to their end.
    pub whole: Times,
    /// Nodes asked, on average by the index.
    pub asked: f64,
    /// Of the index's answers the part that named no edge that lives.
    pub dead_ends: f64,
}

/// Trials with one set of dead edges, before another is drawn.
const TRIALS_A_DRAW: usize = 100;

/// Looks up so many keys, each from an edge that does not hold it: in the index, and where it is beside it in both forms of the yardstick.
#[must_use]
pub fn lookups(
    matrix: &Matrix,
    setting: Setting,
    yardstick: Yardstick,
    count: usize,
    seed: u64,
) -> Lookups {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut edges = Edges::new(matrix, rng.random());
    if setting.knowledge == Knowledge::Coordinates {
        let mut wire = Wire::new(matrix, rng.random());
        Learning::new(&edges, rng.random()).measure(&mut wire, &mut edges, 200);
    }
    let tables = Tables::new(&edges.ids(), Rules::default().k, rng.random());
    let mut index = Vec::with_capacity(count);
    let (mut early, mut whole) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let (mut asked, mut dead_ends) = (0, 0);
    while index.len() < count {
        let draw = Draw::new(matrix, &edges, setting, &mut rng);
        let mut wire = Wire::new(matrix, rng.random()).losing(setting.loss);
        wire.set_down(&draw.dead, true);
        let trials = match setting.deaths {
            Deaths::None => count,
            Deaths::Unseen | Deaths::Seen | Deaths::Mended => TRIALS_A_DRAW,
        };
        for _ in 0..trials.min(count - index.len()) {
            let key = Key(draw::point(&mut rng));
            let (from, holders) = draw.cast(&mut rng);
            let records = draw.announced(&edges, &holders, &key);
            let rtt = |id: &NodeId| {
                let to = edges.place(id)?;
                match setting.knowledge {
                    Knowledge::Exact => Some(matrix.round_trip(from, to)),
                    Knowledge::Coordinates | Knowledge::Geography => estimated(&edges, from, to),
                    Knowledge::Nothing => None,
                }
            };
            let asker = edges.state(from).id;
            let owners = &draw.seen[from];
            let ended = look_up(
                &mut wire,
                &edges,
                owners,
                &rtt,
                key,
                setting.limits,
                |node, wide| {
                    let table = records.get(&node).unwrap_or(&draw.empty);
                    answer(
                        &draw.seen[node],
                        None,
                        table,
                        &asker,
                        &key,
                        wide,
                        Duration::ZERO,
                    )
                },
            );
            asked += ended.tally.asked;
            let lives = |provider: &Provider| {
                edges
                    .place(&provider.holder)
                    .is_some_and(|node| !wire.is_down(node))
            };
            dead_ends +=
                usize::from(!ended.providers.is_empty() && !ended.providers.iter().any(lives));
            index.push((!ended.providers.is_empty()).then_some(ended.took));

            if yardstick == Yardstick::Left {
                continue;
            }
            let records = tables.holders_of_records(&key, Rules::default().k);
            let mut find = |ends_early| {
                let rules = Rules {
                    early: ends_early,
                    ..Rules::default()
                };
                kademlia::find(&mut wire, &tables, &records, from, &key, rules)
            };
            early.push(find(true).first);
            let run = find(false);
            whole.push(run.first.map(|_| run.end));
        }
    }
    Lookups {
        index: Times::of(index),
        early: Times::of(early),
        whole: Times::of(whole),
        asked: asked as f64 / count.max(1) as f64,
        dead_ends: dead_ends as f64 / count.max(1) as f64,
    }
}

/// Who is dead, and who sees whom.
struct Draw {
    dead: Vec<usize>,
    live: Vec<usize>,
    setting: Setting,
    /// What each edge saw when records were announced, and sees now.
    before: Vec<Arc<Owners>>,
    seen: Vec<Arc<Owners>>,
    /// Who owns what in truth, where edges do not see all.
    world: Owners,
    /// What an owner keeps of whom nobody told.
    empty: Table,
}

pub(super) fn part(of: usize, part: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a count that fits a usize"
    )]
    let some = (of as f64 * part.clamp(0.0, 1.0)).round() as usize;
    some
}

impl Draw {
    fn new(matrix: &Matrix, edges: &Edges, setting: Setting, rng: &mut StdRng) -> Self {
        let all: Vec<usize> = (0..matrix.nodes()).collect();
        let dead = match setting.deaths {
            Deaths::None => Vec::new(),
            Deaths::Unseen | Deaths::Seen | Deaths::Mended => {
                draw::some(rng, &all, part(all.len(), setting.dead))
            }
        };
        let is_dead: BTreeSet<usize> = dead.iter().copied().collect();
        let mut sights = vec![vec![setting.sees >= 1.0; all.len()]; all.len()];
        for sight in sights.iter_mut().filter(|_| setting.sees < 1.0) {
            for node in draw::some(rng, &all, part(all.len(), setting.sees)) {
                sight[node] = true;
            }
        }
        let see = |without_dead: bool| -> Vec<_> {
            let owners = |me: &usize| {
                let is_seen =
                    |node| sights[*me][node] && !(without_dead && is_dead.contains(&node));
                let mut view = edges.view(*me, 1, is_seen);
                view.complete = setting.sees >= 1.0;
                Arc::new(Owners::of(Arc::new(view)))
            };
            all.iter().map(owners).collect()
        };
        let before = see(setting.deaths == Deaths::Mended);
        let seen = match setting.deaths {
            Deaths::Seen => see(true),
            Deaths::None | Deaths::Unseen | Deaths::Mended => before.clone(),
        };
        Self {
            world: Owners::of(Arc::new(edges.view(0, 1, |_| true))),
            empty: Table::new(TableLimits::default(), false),
            live: all.into_iter().filter(|at| !is_dead.contains(at)).collect(),
            dead,
            setting,
            before,
            seen,
        }
    }

    /// An edge that seeks, and those that hold what it seeks. A single holder lives; of many a part may be dead.
    fn cast(&self, rng: &mut StdRng) -> (usize, Vec<usize>) {
        let of: Vec<usize> = match self.setting.held_by > 0.0 {
            true => (0..self.seen.len()).collect(),
            false => self.live.clone(),
        };
        let count = part(self.seen.len(), self.setting.held_by).max(1);
        loop {
            let holders = draw::some(rng, &of, count);
            let from = self.live[rng.random_range(0..self.live.len())];
            if !holders.contains(&from) && holders.iter().any(|holder| self.live.contains(holder)) {
                return (from, holders);
            }
        }
    }

    /// What each owner keeps, after all holders announced to the owners they saw. With views that are not complete holders go from node to
    /// node to find the world's owners: that is taken to have found them.
    fn announced(&self, edges: &Edges, holders: &[usize], key: &Key) -> BTreeMap<usize, Table> {
        let world = match self.setting.sees < 1.0 {
            true => self.world.closest(Level::World, key, REPLICAS),
            false => Vec::new(),
        };
        let mut tables: BTreeMap<usize, Table> = BTreeMap::new();
        for holder in holders {
            if self.setting.deaths == Deaths::Mended && self.dead.contains(holder) {
                continue;
            }
            let mut owners = self.before[*holder].of_key(key, REPLICAS);
            owners.extend(
                world
                    .iter()
                    .filter(|id| !owners.contains(id))
                    .copied()
                    .collect::<Vec<_>>(),
            );
            for owner in owners {
                let Some(at) = edges.place(&owner) else {
                    continue;
                };
                let terms = Terms {
                    holder: edges.state(*holder).id,
                    owner,
                    generation: 1,
                    sequence: 1,
                };
                let record = Record {
                    key: *key,
                    manifest: [1; 32],
                    fraction: WHOLE,
                    generation: 1,
                };
                let table = tables
                    .entry(at)
                    .or_insert_with(|| Table::new(TableLimits::default(), false));
                let refused = table.announce(&terms, &[Change::Add(record)], Duration::ZERO);
                debug_assert_eq!(refused, Ok(Vec::new()));
            }
        }
        tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Regions, seed};

    fn row(seed: u64, setting: Setting) -> Lookups {
        let matrix = Matrix::on_earth(200, Regions::Parts, seed);
        lookups(&matrix, setting, Yardstick::Beside, 300, seed)
    }

    #[test]
    fn a_seed_gives_the_same_figures_each_time() {
        let matrix = Matrix::on_earth(60, Regions::Parts, 5);
        let setting = Setting {
            deaths: Deaths::Seen,
            dead: 0.1,
            loss: 0.02,
            ..Setting::default()
        };
        let once = || {
            let row = lookups(&matrix, setting, Yardstick::Beside, 100, 5);
            [
                row.index.p50_ms(),
                row.index.p95_ms(),
                row.early.p95_ms(),
                row.whole.p95_ms(),
            ]
        };
        assert_eq!(once(), once());
    }

    #[test]
    fn edges_that_see_half_of_the_others_find_what_they_seek_from_node_to_node() {
        let setting = Setting {
            held_by: 0.0,
            sees: 0.5,
            ..Setting::default()
        };
        let row = row(seed(1), setting);
        println!("{} of {} not found", row.index.failed, row.index.tries());
        assert!(row.index.failed_part() <= 0.01);
    }
}
