//! The table: each scenario with its figures, and the bars they have to keep.
//!
//! Bars are written here once. A figure that misses its bar is printed as such, and makes the command fail.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    CITIES, Churn, Deaths, Edges, Figure, Knowledge, Learning, Lookups, Matrix, Regions, Section,
    Setting, Wire, against_measured, churn, draw, estimated, lookups, lost_by_choosing_ms,
    partitions,
};
use crate::{Candidate, Latency, NodeId, Residency, Wish, rank};

/// Milliseconds of a lookup when a tenth of the edges hold the object.
const WARM_MS: (f64, f64) = (15.0, 220.0);
/// And when one does.
const COLD_MS: (f64, f64) = (60.0, 260.0);
/// How many times the yardstick's median is the index's.
const FASTER: f64 = 5.0;
/// How many times the bars of [`WARM_MS`] lookups may take with a tenth of the edges dead.
const SLOWER: f64 = 1.2;
/// Milliseconds lost by the choice of a provider.
const LOST_MS: f64 = 10.0;

/// Whether a section has the yardstick in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yardstick {
    /// Kademlia is run beside the index.
    Beside,
    /// It is not.
    Left,
}

/// How much is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// From which all else follows.
    pub seed: u64,
    /// Edges of the usual mesh.
    pub edges: usize,
    /// Meshes over which the lookups of a row are spread, each with cities and round trips of its own.
    pub meshes: u64,
    /// Lookups of a row.
    pub lookups: usize,
    /// Partitions.
    pub partitions: usize,
    /// Round trips that were given, in place of those on earth.
    pub matrix: Option<Matrix>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            edges: 200,
            meshes: 5,
            lookups: 4_000,
            partitions: 1_000,
            matrix: None,
        }
    }
}

impl Plan {
    /// The round trips of one mesh.
    fn matrix(&self, mesh: u64, edges: usize, regions: Regions) -> Matrix {
        let on_earth = || Matrix::on_earth(edges, regions, self.seed.wrapping_add(mesh));
        self.matrix.clone().unwrap_or_else(on_earth)
    }

    /// What came out on each mesh.
    fn rows(
        &self,
        edges: usize,
        regions: Regions,
        setting: Setting,
        yardstick: Yardstick,
    ) -> Vec<Lookups> {
        let meshes = self.meshes.max(1);
        let each = self
            .lookups
            .div_ceil(usize::try_from(meshes).unwrap_or(usize::MAX));
        let row = |mesh| {
            let matrix = self.matrix(mesh, edges, regions);
            let seed = self.seed.wrapping_add(mesh);
            lookups(&matrix, setting, yardstick, each, seed)
        };
        (0..meshes).map(row).collect()
    }

    /// What came out on all of them together.
    fn row(
        &self,
        edges: usize,
        regions: Regions,
        setting: Setting,
        yardstick: Yardstick,
    ) -> Lookups {
        together(self.rows(edges, regions, setting, yardstick))
    }

    /// All sections, each made when it is asked for.
    pub fn sections(&self) -> impl Iterator<Item = Section> + '_ {
        let make: [fn(&Self) -> Section; 9] = [
            Self::model,
            Self::warm,
            Self::dead,
            Self::cold,
            Self::otherwise,
            Self::many,
            Self::choice,
            Self::partitioned,
            Self::churning,
        ];
        // What the model is worth says nothing of round trips that were given, and partitions draw meshes of their own.
        let given = self.matrix.is_some();
        let sections = make.into_iter().enumerate();
        let sections = sections.filter(move |(at, _)| !given || ![0, 4, 5, 7].contains(at));
        sections.map(move |(_, make)| {
            let mut section = make(self);
            if given {
                // Bars are of 200 edges on earth.
                section
                    .figures
                    .iter_mut()
                    .for_each(|figure| figure.bar = None);
            }
            section
        })
    }

    fn scene(&self) -> String {
        match &self.matrix {
            Some(matrix) => format!("{} edges of the given matrix", matrix.nodes()),
            None => format!("{} edges, {} meshes", self.edges, self.meshes),
        }
    }

    fn model(&self) -> Section {
        let mut ratios: Vec<_> = against_measured()
            .iter()
            .map(|pair| pair.model_ms / pair.measured_ms)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let at = |at: usize| ratios.get(at).copied().unwrap_or(f64::NAN);
        let mut section = Section::new(format!(
            "the model's round trips between {} cities, as parts of {} that were measured between a cloud's data centres",
            CITIES.len(),
            ratios.len()
        ));
        section.figures = vec![
            Figure::new("the median pair", at(ratios.len() / 2), "×"),
            Figure::new("the pair that is most too short", at(0), "×"),
            Figure::new("the second of these", at(1), "×"),
            Figure::new(
                "the pair that is most too long",
                at(ratios.len().wrapping_sub(1)),
                "×",
            ),
        ];
        section
    }

    fn warm(&self) -> Section {
        let rows = self.rows(
            self.edges,
            Regions::Parts,
            Setting::default(),
            Yardstick::Beside,
        );
        let faster = |row: &Lookups| row.early.p50_ms() / row.index.p50_ms();
        let slowest = rows
            .iter()
            .map(|row| row.index.p50_ms())
            .fold(0.0, f64::max);
        let least = rows.iter().map(faster).fold(f64::INFINITY, f64::min);
        let row = together(rows);
        let mut section = Section::new(format!(
            "lookups, {}, one edge in ten holds the object, {} lookups",
            self.scene(),
            row.index.tries()
        ));
        section.figures = vec![
            Figure::new("index p50", row.index.p50_ms(), "ms").at_most(WARM_MS.0),
            Figure::new("index p95", row.index.p95_ms(), "ms").at_most(WARM_MS.1),
            Figure::new("index, not found", 100.0 * row.index.failed_part(), "%").at_most(0.0),
            Figure::new("index, edges asked", row.asked, ""),
            Figure::new("Kademlia, first answer p50", row.early.p50_ms(), "ms"),
            Figure::new("Kademlia, first answer p95", row.early.p95_ms(), "ms"),
            Figure::new("Kademlia, to its end p50", row.whole.p50_ms(), "ms"),
            Figure::new("Kademlia, to its end p95", row.whole.p95_ms(), "ms"),
            Figure::new(
                "Kademlia's first answer p50 to the index's",
                faster(&row),
                "×",
            )
            .at_least(FASTER),
            Figure::new("the mesh with the longest index p50", slowest, "ms"),
            Figure::new("the mesh with the least of that ratio", least, "×"),
        ];
        section
    }

    fn dead(&self) -> Section {
        let row = |deaths, dead, yardstick| {
            let setting = Setting {
                deaths,
                dead,
                ..Setting::default()
            };
            self.row(self.edges, Regions::Parts, setting, yardstick)
        };
        let well = row(Deaths::None, 0.0, Yardstick::Left);
        let mut section = Section::new(format!(
            "one edge in ten dead, {}, one in ten holds the object; times as parts of those with none dead",
            self.scene()
        ));
        for (what, deaths) in [
            ("not seen yet", Deaths::Unseen),
            ("seen, nothing announced anew yet", Deaths::Seen),
            ("seen, announced anew", Deaths::Mended),
        ] {
            let row = row(deaths, 0.1, Yardstick::Left);
            let slower = |of: f64| row.index.quantile_ms(of) / well.index.quantile_ms(of);
            section.figures.extend([
                Figure::new(format!("{what}: p50"), row.index.p50_ms(), "ms")
                    .at_most(SLOWER * WARM_MS.0),
                Figure::new(format!("{what}: p95"), row.index.p95_ms(), "ms")
                    .at_most(SLOWER * WARM_MS.1),
                Figure::new(
                    format!("{what}: p50 to the same with none dead"),
                    slower(0.5),
                    "×",
                ),
                Figure::new(
                    format!("{what}: p95 to the same with none dead"),
                    slower(0.95),
                    "×",
                ),
                Figure::new(
                    format!("{what}: not found"),
                    100.0 * row.index.failed_part(),
                    "%",
                ),
                Figure::new(
                    format!("{what}: all providers named dead"),
                    100.0 * row.dead_ends,
                    "%",
                ),
            ]);
        }
        section
    }

    fn cold(&self) -> Section {
        let setting = Setting {
            held_by: 0.0,
            ..Setting::default()
        };
        let row = self.row(self.edges, Regions::Parts, setting, Yardstick::Beside);
        let mut section = Section::new(format!(
            "lookups, {}, one edge holds the object",
            self.scene()
        ));
        section.figures = vec![
            Figure::new("index p50", row.index.p50_ms(), "ms").at_most(COLD_MS.0),
            Figure::new("index p95", row.index.p95_ms(), "ms").at_most(COLD_MS.1),
            Figure::new("index, not found", 100.0 * row.index.failed_part(), "%").at_most(0.0),
            Figure::new("Kademlia, first answer p50", row.early.p50_ms(), "ms"),
            Figure::new("Kademlia, first answer p95", row.early.p95_ms(), "ms"),
        ];
        section
    }

    fn otherwise(&self) -> Section {
        let mut section = Section::new(format!(
            "the same lookups where something else is otherwise, {}; of one edge in ten, and of one edge",
            self.scene()
        ));
        let base = Setting::default();
        let knowing = |knowledge| Setting { knowledge, ..base };
        let losing = |loss| Setting { loss, ..base };
        for (what, regions, setting) in [
            (
                "round trips known exactly",
                Regions::Parts,
                knowing(Knowledge::Exact),
            ),
            (
                "known by geography alone",
                Regions::Parts,
                knowing(Knowledge::Geography),
            ),
            (
                "not known at all",
                Regions::Parts,
                knowing(Knowledge::Nothing),
            ),
            ("regions are continents", Regions::Continents, base),
            ("2 % of packets lost", Regions::Parts, losing(0.02)),
            ("5 % of packets lost", Regions::Parts, losing(0.05)),
        ] {
            for (held, held_by) in [("tenth", base.held_by), ("one", 0.0)] {
                let setting = Setting { held_by, ..setting };
                let row = self.row(self.edges, regions, setting, Yardstick::Left);
                section.figures.extend([
                    Figure::new(format!("{what}, {held}: p50"), row.index.p50_ms(), "ms"),
                    Figure::new(format!("{what}, {held}: p95"), row.index.p95_ms(), "ms"),
                ]);
            }
        }
        section
    }

    fn many(&self) -> Section {
        let few = Self {
            meshes: 2,
            lookups: self.lookups.min(2_000),
            ..self.clone()
        };
        let setting = |sees| Setting {
            held_by: 0.05,
            sees,
            ..Setting::default()
        };
        let mut section = Section::new(format!(
            "1,000 edges, {} meshes, one edge in twenty holds the object, {} lookups",
            few.meshes, few.lookups
        ));
        let all = few.row(1_000, Regions::Parts, setting(1.0), Yardstick::Beside);
        section.figures = vec![
            Figure::new("index p50", all.index.p50_ms(), "ms"),
            Figure::new("index p95", all.index.p95_ms(), "ms"),
            Figure::new("Kademlia, first answer p50", all.early.p50_ms(), "ms"),
            Figure::new("Kademlia, first answer p95", all.early.p95_ms(), "ms"),
        ];
        for (what, sees) in [("half", 0.5), ("a tenth", 0.1)] {
            let row = few.row(1_000, Regions::Parts, setting(sees), Yardstick::Left);
            section.figures.extend([
                Figure::new(
                    format!("edges see {what} of the others: p50"),
                    row.index.p50_ms(),
                    "ms",
                ),
                Figure::new(
                    format!("edges see {what} of the others: p95"),
                    row.index.p95_ms(),
                    "ms",
                ),
                Figure::new(
                    format!("edges see {what} of the others: not found"),
                    100.0 * row.index.failed_part(),
                    "%",
                ),
            ]);
        }
        section
    }

    fn choice(&self) -> Section {
        let mut section = Section::new(format!(
            "milliseconds lost by taking one of five holders, {}, on average",
            self.scene()
        ));
        let names = [
            "by chance",
            "by geography",
            "by estimate, 50 round trips measured",
            "by estimate, 200 measured",
            "by rank and choice, 200 measured",
            "by estimate, 600 measured",
        ];
        let mut sums = [0.0; 6];
        for mesh in 0..self.meshes {
            let matrix = self.matrix(mesh, self.edges, Regions::Parts);
            let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(mesh));
            let mut edges = Edges::new(&matrix, rng.random());
            let mut wire = Wire::new(&matrix, rng.random());
            let mut learning = Learning::new(&edges, rng.random());
            let choices = rng.random();
            let lost = |wire: &Wire<'_>, edges: &Edges| {
                lost_by_choosing_ms(wire, edges, 2_000, choices, |me, holders| {
                    holders
                        .iter()
                        .copied()
                        .min_by_key(|holder| estimated(edges, me, *holder))
                })
            };
            sums[0] += lost_by_choosing_ms(&wire, &edges, 2_000, choices, |_, holders| {
                draw::some(&mut rng, holders, 1).first().copied()
            });
            sums[1] += lost_by_choosing_ms(&wire, &edges, 2_000, choices, |me, holders| {
                holders.iter().copied().min_by_key(|holder| {
                    let (me, holder) = (edges.state(me), edges.state(*holder));
                    Latency::new(me.id)
                        .by_geography(me, holder)
                        .map(|(rtt, _)| rtt)
                })
            });
            learning.measure(&mut wire, &mut edges, 50);
            sums[2] += lost(&wire, &edges);
            learning.measure(&mut wire, &mut edges, 150);
            sums[3] += lost(&wire, &edges);
            sums[4] += lost_by_choosing_ms(&wire, &edges, 2_000, choices, |me, holders| {
                edges.place(&ranked(&edges, me, holders, &mut rng)?)
            });
            learning.measure(&mut wire, &mut edges, 400);
            sums[5] += lost(&wire, &edges);
        }
        for (at, (name, sum)) in names.into_iter().zip(sums).enumerate() {
            let figure = Figure::new(name, sum / self.meshes.max(1) as f64, "ms");
            section.figures.push(match at {
                3 | 4 => figure.at_most(LOST_MS),
                _ => figure,
            });
        }
        section
    }

    fn partitioned(&self) -> Section {
        let result = partitions(self.partitions, self.seed);
        let mut section = Section::new(format!(
            "{} partitions of meshes of 8 to 40 edges into 2 to 4 sides, 1 % loss, clocks wrong by up to 2 s",
            result.converged.tries()
        ));
        section.figures = vec![
            Figure::new(
                "not converged 2 min after the heal",
                result.failed.len() as f64,
                "",
            )
            .at_most(0.0),
            Figure::new(
                "all owners knew all holders: p50",
                result.converged.p50_ms() / 1e3,
                "s",
            ),
            Figure::new(
                "all owners knew all holders: p95",
                result.converged.p95_ms() / 1e3,
                "s",
            ),
            Figure::new(
                "all owners knew all holders: the longest",
                result.converged.quantile_ms(1.0) / 1e3,
                "s",
            ),
            Figure::new("hints that were stale then", 100.0 * result.stale, "%"),
        ];
        section
    }

    fn churning(&self) -> Section {
        let what = Churn {
            lives: Duration::from_mins(10),
            away: Duration::from_mins(1),
            held_by: 0.1,
            objects: 100,
            lasts: Duration::from_mins(3),
            loss: 0.02,
        };
        let matrix = self.matrix(0, self.edges, Regions::Parts);
        let result = churn(&matrix, what, self.seed);
        let mut section = Section::new(format!(
            "{} edges of a mesh that live 10 min and are away 1 min on average, 2 % loss: {} deaths in 3 min, {} lookups",
            matrix.nodes(),
            result.deaths,
            result.lookups.tries()
        ));
        section.figures = vec![
            Figure::new("index p50", result.lookups.p50_ms(), "ms"),
            Figure::new("index p95", result.lookups.p95_ms(), "ms"),
            Figure::new("not found", 100.0 * result.lookups.failed_part(), "%"),
            Figure::new("all providers named dead", 100.0 * result.dead_ends, "%"),
        ];
        section
    }
}

fn together(rows: Vec<Lookups>) -> Lookups {
    let meshes = rows.len().max(1) as f64;
    let all = Lookups::default();
    rows.into_iter().fold(all, |all, these| Lookups {
        index: all.index.with(these.index),
        early: all.early.with(these.early),
        whole: all.whole.with(these.whole),
        asked: all.asked + these.asked / meshes,
        dead_ends: all.dead_ends + these.dead_ends / meshes,
    })
}

/// The holder that a node would ask.
fn ranked(edges: &Edges, me: usize, holders: &[usize], rng: &mut StdRng) -> Option<NodeId> {
    let here = edges.state(me);
    let latency = Latency::new(here.id);
    let candidates: Vec<_> = holders
        .iter()
        .map(|holder| Candidate::new(&latency, here, edges.state(*holder), Duration::ZERO))
        .collect();
    let anywhere = Residency::default();
    rank(&candidates, &Wish::nearest(&anywhere)).choose(rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::seed;

    fn small() -> Plan {
        Plan {
            seed: seed(1),
            lookups: 1_000,
            ..Plan::default()
        }
    }

    fn keeps_its_bars(section: &Section) {
        println!("{section}");
        assert!(section.figures.iter().any(|figure| figure.bar.is_some()));
        let missed: Vec<_> = section.missed().collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn lookups_among_200_edges_keep_their_bars_and_beat_kademlia_five_times() {
        keeps_its_bars(&small().warm());
    }

    #[test]
    fn lookups_of_what_one_edge_holds_keep_their_bars() {
        keeps_its_bars(&small().cold());
    }

    #[test]
    fn lookups_with_a_tenth_of_the_edges_dead_keep_their_bars() {
        keeps_its_bars(&small().dead());
    }

    #[test]
    fn a_matrix_that_is_given_is_simulated_in_place_of_the_earth() {
        let matrix = Matrix::on_earth(30, Regions::Parts, 4);
        let plan = Plan {
            meshes: 1,
            lookups: 50,
            matrix: Some(matrix),
            ..small()
        };
        let sections: Vec<_> = plan.sections().collect();
        assert_eq!(sections.len(), 5);
        for section in sections {
            assert!(section.heading.contains("30 edges"), "{section}");
            assert!(section.figures.iter().all(|figure| figure.bar.is_none()));
        }
    }
}
