//! Round trips between cities: shortest ways over land networks and cables, and how far that is from round trips that were measured.
//!
//! A great circle is not a cable: Frankfurt and Tokyo are 9,300 km apart and 233 ms, Dallas and Tokyo 10,400 km and 143 ms. So the model
//! has the cables ([`CABLES`]), and three figures set by the 45 measured pairs below: how much longer than a straight line
//! ways over land and under the sea are, and what each stretch adds.

use super::cities::{CABLES, CITIES, City};

/// Milliseconds of round trip for 100 km in a straight line of glass: light does 204 km in a millisecond there.
const MS_PER_100_KM: f64 = 0.98;
/// How much longer than the great circle a way over land is.
const LAND_STRETCH: f64 = 1.7;
/// How much longer a cable is.
const CABLE_STRETCH: f64 = 1.35;
/// Milliseconds of round trip that each stretch between two cities adds: the ways into them and the routers.
const HOP_MS: f64 = 1.0;
/// Milliseconds of round trip between two machines of one metro that stand as data centres do, without their own last miles.
pub(super) const METRO_MS: f64 = 0.3;

/// Kilometres of the mean radius.
const RADIUS_KM: f64 = 6371.0;

/// Kilometres of the great circle between two places in degrees north and east.
fn great_circle_km(one: &City, other: &City) -> f64 {
    let (from, to) = (one.latitude.to_radians(), other.latitude.to_radians());
    let north = (to - from) / 2.0;
    let east = (other.longitude - one.longitude).to_radians() / 2.0;
    let chord = north.sin().powi(2) + from.cos() * to.cos() * east.sin().powi(2);
    2.0 * RADIUS_KM * chord.sqrt().min(1.0).asin()
}

/// Milliseconds of round trip between each two of [`CITIES`], by their places in it, without last miles.
#[must_use]
pub fn round_trips_ms() -> Vec<Vec<f64>> {
    let mut ms = vec![vec![f64::INFINITY; CITIES.len()]; CITIES.len()];
    for (at, one) in CITIES.iter().enumerate() {
        for (to, other) in CITIES.iter().enumerate() {
            let straight = great_circle_km(one, other) / 100.0 * MS_PER_100_KM;
            let cable = CABLES.iter().any(|(a, b)| {
                (*a, *b) == (one.metro, other.metro) || (*b, *a) == (one.metro, other.metro)
            });
            ms[at][to] = if at == to {
                METRO_MS
            } else if cable {
                HOP_MS + straight * CABLE_STRETCH
            } else if one.land == other.land && one.land != super::cities::Land::Island {
                HOP_MS + straight * LAND_STRETCH
            } else {
                f64::INFINITY
            };
        }
    }
    // Floyd and Warshall: the shortest way over any cities between.
    for over in 0..CITIES.len() {
        for at in 0..CITIES.len() {
            for to in 0..CITIES.len() {
                if at != to && ms[at][over] + ms[over][to] < ms[at][to] {
                    ms[at][to] = ms[at][over] + ms[over][to];
                }
            }
        }
    }
    ms
}

/// Cities of [`MEASURED`].
const MEASURED_CITIES: [&str; 10] = [
    "dfw", "tor", "iad", "fra", "lon", "mad", "osa", "syd", "tyo", "gru",
];

/// Round trips in milliseconds that were measured between data centres: IBM Cloud's means of 27 July to 25 August 2024
/// (github.com/ibm-cloud-docs/vpc, `network-latency.md`). Row and column as in [`MEASURED_CITIES`]; what is below the diagonal.
const MEASURED: [&[f64]; 10] = [
    &[],
    &[34.0],
    &[31.0, 19.0],
    &[123.0, 93.0, 91.0],
    &[113.0, 83.0, 75.0, 13.0],
    &[122.0, 106.0, 88.0, 29.0, 27.0],
    &[150.0, 169.0, 172.0, 231.0, 243.0, 257.0],
    &[186.0, 214.0, 214.0, 249.0, 261.0, 275.0, 122.0],
    &[143.0, 162.0, 166.0, 233.0, 244.0, 256.0, 9.0, 115.0],
    &[
        144.0, 128.0, 119.0, 196.0, 187.0, 208.0, 291.0, 328.0, 283.0,
    ],
];

/// Two metros with the milliseconds that the model gives them and those that were measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// One metro.
    pub one: &'static str,
    /// The other.
    pub other: &'static str,
    /// Milliseconds of the model, two data centres' last miles of 0.5 ms included.
    pub model_ms: f64,
    /// Milliseconds measured.
    pub measured_ms: f64,
}

/// The model beside the 45 pairs of a cloud's data centres that were measured.
#[must_use]
pub fn against_measured() -> Vec<Compared> {
    let ms = round_trips_ms();
    let place = |metro: &str| CITIES.iter().position(|city| city.metro == metro);
    let mut pairs = Vec::new();
    for (row, measured) in MEASURED.iter().enumerate() {
        for (column, measured_ms) in measured.iter().enumerate() {
            let (one, other) = (MEASURED_CITIES[row], MEASURED_CITIES[column]);
            if let (Some(at), Some(to)) = (place(one), place(other)) {
                pairs.push(Compared {
                    one,
                    other,
                    model_ms: ms[at][to] + 1.0,
                    measured_ms: *measured_ms,
                });
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_city_is_reached_and_named_once() {
        let ms = round_trips_ms();
        for (at, row) in ms.iter().enumerate() {
            for (to, ms) in row.iter().enumerate() {
                assert!(ms.is_finite() && *ms < 450.0, "{at} {to}: {ms}");
            }
        }
        let mut names: Vec<_> = CITIES.iter().map(|city| city.metro).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CITIES.len());
        for (one, other) in CABLES {
            assert!(
                names.contains(one) && names.contains(other),
                "{one} {other}"
            );
        }
    }

    #[test]
    fn the_model_is_near_what_was_measured() {
        let mut ratios: Vec<_> = against_measured()
            .iter()
            .map(|pair| {
                let ratio = pair.model_ms / pair.measured_ms;
                println!(
                    "{}-{} {:.0} for {:.0}: {ratio:.2}",
                    pair.one, pair.other, pair.model_ms, pair.measured_ms
                );
                ratio
            })
            .collect();
        assert_eq!(ratios.len(), 45);
        ratios.sort_by(f64::total_cmp);
        assert!((0.95..1.05).contains(&ratios[22]), "median {}", ratios[22]);
        // Toronto and Washington, 560 km apart, were 19 ms: a detour of that cloud's, left as it is.
        assert!(ratios[1] > 0.8 && ratios[44] < 1.15, "{ratios:?}");
    }
}
