//! Nodes in their cities, and the round trip between each two of them.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    cities::{CITIES, City},
    draw,
    earth::round_trips_ms,
};

/// Which part of a [`City`] the zone's region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Regions {
    /// A continent, or a part of one: North America is three, Asia four. 13 in all.
    #[default]
    Parts,
    /// A continent. Seven in all.
    Continents,
}

/// A node's place.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The region of its zone.
    pub region: String,
    /// The metro of its zone.
    pub metro: String,
    /// Degrees north and east, where known.
    pub position: Option<(f64, f64)>,
}

/// Why a matrix in text is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// A line is not `region-metro`, an optional position and a number for each line.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It has fewer than 2 nodes or more than 4,096.
    #[error("{nodes} nodes, but a matrix has 2 to 4,096")]
    Size {
        /// How many there are.
        nodes: usize,
    },
}

/// The most nodes of a matrix: 4,096² × 4 B = 64 MiB.
pub const NODES_MAX: usize = 4096;

/// Nodes and the round trips between them. Both directions of a pair take half of its round trip.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    places: Vec<Place>,
    /// Milliseconds, row by row.
    ms: Vec<f32>,
}

impl Matrix {
    /// `nodes` nodes in the cities of [`CITIES`], drawn by their weights. To the cities' round trips come
    ///
    /// - what this pair of cities differs by from the model, the same for all of their nodes: a factor with a
    ///   spread of a tenth, so that the shortest way is not always by the nearest city;
    /// - each node's last mile: 0.1 to 1 ms in a data centre, which nine of ten are in, 2 to 10 ms else.
    ///
    /// # Panics
    /// Where `nodes` is above [`NODES_MAX`].
    #[must_use]
    pub fn on_earth(nodes: usize, regions: Regions, seed: u64) -> Self {
        assert!(nodes <= NODES_MAX, "{nodes} nodes are too many");
        let mut rng = StdRng::seed_from_u64(seed);
        let model = round_trips_ms();
        // Of a pair of cities the one that is later in the list has its factor.
        let mut factors: Vec<Vec<f64>> = Vec::with_capacity(CITIES.len());
        for at in 0..CITIES.len() {
            let row = (0..=at).map(|_| (0.1 * draw::normal(&mut rng)).exp());
            factors.push(row.collect());
        }
        let between =
            |one: usize, other: usize| model[one][other] * factors[one.max(other)][one.min(other)];
        let stand: Vec<usize> = (0..nodes).map(|_| weighted(&mut rng)).collect();
        let miles: Vec<f64> = (0..nodes)
            .map(|_| match rng.random_bool(0.9) {
                true => rng.random_range(0.1..1.0),
                false => rng.random_range(2.0..10.0),
            })
            .collect();
        let mut ms = Vec::with_capacity(nodes * nodes);
        for at in 0..nodes {
            for to in 0..nodes {
                let trip = match at == to {
                    true => 0.0,
                    false => between(stand[at], stand[to]) + miles[at] + miles[to],
                };
                ms.push(narrow(trip));
            }
        }
        let place = |at: &usize| Place::of(&CITIES[*at], regions);
        Self {
            places: stand.iter().map(place).collect(),
            ms,
        }
    }

    /// Reads what [`Matrix::to_text`] wrote, or a person: a line for each node, `region-metro [latitude,longitude] ms ms …` with the round
    /// trip to each node in milliseconds. Empty lines and what follows a `#` are passed over.
    ///
    /// # Errors
    /// The first line that is not so.
    pub fn from_text(text: &str) -> Result<Self, MatrixError> {
        let mut places = Vec::new();
        let mut ms = Vec::new();
        let mut ends = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |problem| MatrixError::Line {
                line: at + 1,
                problem,
            };
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace().peekable();
            let Some(zone) = words.next() else { continue };
            let (region, metro) = zone
                .split_once('-')
                .ok_or_else(|| wrong("no region-metro at its start"))?;
            let position = match words.next_if(|word| word.contains(',')) {
                Some(word) => Some(
                    word.split_once(',')
                        .and_then(|(north, east)| Some((north.parse().ok()?, east.parse().ok()?)))
                        .filter(|(north, east): &(f64, f64)| {
                            north.abs() <= 90.0 && east.abs() <= 180.0
                        })
                        .ok_or_else(|| wrong("a position that is no latitude,longitude"))?,
                ),
                None => None,
            };
            places.push(Place {
                region: region.to_owned(),
                metro: metro.to_owned(),
                position,
            });
            if places.len() > NODES_MAX {
                return Err(MatrixError::Size {
                    nodes: places.len(),
                });
            }
            for word in words {
                let trip: f32 = word
                    .parse()
                    .map_err(|_| wrong("a time that is no number"))?;
                if !(0.0..=60_000.0).contains(&trip) {
                    return Err(wrong("a time that is not 0 to 60,000 ms"));
                }
                ms.push(trip);
            }
            ends.push((at + 1, ms.len()));
        }
        if places.len() < 2 {
            return Err(MatrixError::Size {
                nodes: places.len(),
            });
        }
        for (row, (line, end)) in ends.iter().enumerate() {
            if *end != (row + 1) * places.len() {
                return Err(MatrixError::Line {
                    line: *line,
                    problem: "not as many times as there are nodes",
                });
            }
        }
        Ok(Self { places, ms })
    }

    /// As text, which [`Matrix::from_text`] reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (place, row) in self.places.iter().zip(self.ms.chunks(self.nodes())) {
            text += &format!("{}-{}", place.region, place.metro);
            if let Some((north, east)) = place.position {
                text += &format!(" {north},{east}");
            }
            for ms in row {
                text += &format!(" {ms}");
            }
            text.push('\n');
        }
        text
    }

    /// How many nodes there are.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.places.len()
    }

    /// Where a node stands.
    ///
    /// # Panics
    /// Where there is no such node.
    #[must_use]
    pub fn place(&self, node: usize) -> &Place {
        &self.places[node]
    }

    /// The round trip of two nodes when nothing else happens.
    ///
    /// # Panics
    /// Where there is no such node.
    #[must_use]
    pub fn round_trip(&self, one: usize, other: usize) -> Duration {
        Duration::from_secs_f64(f64::from(self.ms[one * self.nodes() + other]) / 1e3)
    }
}

impl Place {
    fn of(city: &City, regions: Regions) -> Self {
        Self {
            region: match regions {
                Regions::Parts => city.region,
                Regions::Continents => city.continent,
            }
            .to_owned(),
            metro: city.metro.to_owned(),
            position: Some((city.latitude, city.longitude)),
        }
    }
}

/// A city's place in [`CITIES`], by its weight.
fn weighted(rng: &mut StdRng) -> usize {
    let all: u32 = CITIES.iter().map(|city| city.weight).sum();
    let mut left = rng.random_range(0..all);
    for (at, city) in CITIES.iter().enumerate() {
        match left.checked_sub(city.weight) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    0
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "milliseconds of a round trip, to seven digits"
)]
const fn narrow(ms: f64) -> f32 {
    ms as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_matrix() {
        let one = Matrix::on_earth(60, Regions::Parts, 7);
        assert_eq!(one, Matrix::on_earth(60, Regions::Parts, 7));
        assert_ne!(one, Matrix::on_earth(60, Regions::Parts, 8));
    }

    #[test]
    fn a_matrix_reads_as_it_was_written() {
        let matrix = Matrix::on_earth(20, Regions::Continents, 7);
        assert_eq!(Matrix::from_text(&matrix.to_text()), Ok(matrix));
    }

    #[test]
    fn what_is_no_matrix_is_refused_with_its_line() {
        let two = |second: &str| Matrix::from_text(&format!("eu-fra 0 1\n\n{second} # so\n"));
        assert!(two("eu-ams 52,4 1 0").is_ok());
        for (second, line) in [
            ("eu-ams 1", 3),
            ("eu-ams 1 0 2", 3),
            ("euams 1 0", 3),
            ("eu-ams 1 nine", 3),
            ("eu-ams 1 -1", 3),
            ("eu-ams NaN 0", 3),
            ("eu-ams 99,4 1 0", 3),
            ("eu-ams 1 0\nus-nyc 1 1 0", 1),
        ] {
            match two(second) {
                Err(MatrixError::Line { line: at, .. }) => assert_eq!(at, line, "{second}"),
                other => panic!("{second}: {other:?}"),
            }
        }
        assert_eq!(
            Matrix::from_text("eu-fra 0"),
            Err(MatrixError::Size { nodes: 1 })
        );
    }

    #[test]
    fn nodes_of_a_metro_are_near_and_those_of_a_region_nearer_than_others() {
        let matrix = Matrix::on_earth(200, Regions::Parts, 1);
        let mut sums = [(0.0, 0_u32); 3];
        for one in 0..200 {
            for other in 0..one {
                let (a, b) = (matrix.place(one), matrix.place(other));
                let level = match (a.region == b.region, a.metro == b.metro) {
                    (_, true) => 0,
                    (true, false) => 1,
                    (false, false) => 2,
                };
                sums[level].0 += matrix.round_trip(one, other).as_secs_f64() * 1e3;
                sums[level].1 += 1;
            }
        }
        let [metro, region, world] = sums.map(|(sum, pairs)| sum / f64::from(pairs));
        println!("mean ms: metro {metro:.1}, region {region:.1}, world {world:.1}");
        assert!(metro < 5.0 && region > 10.0 && region < 50.0 && world > 100.0);
    }
}
