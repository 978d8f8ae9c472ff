//! How far apart two places are on the globe, and how long a round trip over that distance takes.
//!
//! The second is a line, `base + distance × slope`, which a node fits to the round trips it has measured itself. A fit is held between
//! what light allows and what a bad path is seen to need, so no set of measurements makes it absurd.

use crate::Position;

/// Kilometres, of a sphere with the surface of the earth.
const EARTH_RADIUS: f64 = 6_371.0;

/// What light in glass needs for a kilometre and back (refractive index 1.468): no path is shorter than that.
pub(super) const LIGHT_MS_PER_KM: f64 = 2.0 * 1.468 / 299.792_458;

/// At most this much more than [`LIGHT_MS_PER_KM`]: five times the straight way.
const SLOPE_MAX: f64 = 5.0 * LIGHT_MS_PER_KM;

/// Milliseconds. A last mile can need so much, and a fit that says more has seen a queue.
const BASE_MAX: f64 = 50.0;

/// Measurements a fit takes, the rest is left out: 128 × 127 / 2 = 8,128 slopes.
pub(super) const FIT_SAMPLES_MAX: usize = 128;

/// Measurements below which nothing is fitted.
const FIT_SAMPLES_MIN: usize = 8;

/// Kilometres that two measurements must differ by for the slope between them to say something.
const FIT_SPREAD: f64 = 200.0;

impl Position {
    /// Whether it is a place on the globe at all: both finite and within their bounds.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (-90.0..=90.0).contains(&self.latitude) && (-180.0..=180.0).contains(&self.longitude)
    }

    /// Kilometres to another place along the great circle.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f64 {
        let (one, two) = (self.latitude.to_radians(), other.latitude.to_radians());
        let across = (other.longitude - self.longitude).to_radians();
        let half = |angle: f64| (angle / 2.0).sin().powi(2);
        let haversine = half(two - one) + one.cos() * two.cos() * half(across);
        2.0 * EARTH_RADIUS * haversine.clamp(0.0, 1.0).sqrt().asin()
    }

    /// The place as a point of a sphere around the origin, kilometres.
    pub(super) fn on_sphere(&self) -> [f64; 3] {
        let (latitude, longitude) = (self.latitude.to_radians(), self.longitude.to_radians());
        [
            EARTH_RADIUS * latitude.cos() * longitude.cos(),
            EARTH_RADIUS * latitude.cos() * longitude.sin(),
            EARTH_RADIUS * latitude.sin(),
        ]
    }
}

/// How long a round trip takes by the distance alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geography {
    /// Milliseconds of round trip a kilometre of great circle.
    pub ms_per_km: f64,
    /// Milliseconds that come on top at any distance: last miles, the machines.
    pub base_ms: f64,
    /// Round trips it was fitted to; 0 for the assumption that stands until there are enough.
    pub samples: usize,
}

impl Default for Geography {
    /// Light in glass with six tenths on top for the way cables lie, and 4 ms: an assumption until enough is measured, which
    /// `samples` says.
    fn default() -> Self {
        Self {
            ms_per_km: 1.6 * LIGHT_MS_PER_KM,
            base_ms: 4.0,
            samples: 0,
        }
    }
}

impl Geography {
    /// Milliseconds of round trip between two places.
    #[must_use]
    pub fn round_trip(&self, one: &Position, other: &Position) -> f64 {
        self.base_ms + self.ms_per_km * one.distance(other)
    }

    /// The line through measurements of (kilometres, milliseconds) that the wrong ones among them move least: the median of the slopes of
    /// all pairs, and the median of what is left (Theil 1950, Sen 1968), so up to 29 % of them may be anything. The first
    /// 128 count. None where fewer than 8 are given or they lie too close together to tell a slope.
    #[must_use]
    pub fn fit(measured: &[(f64, f64)]) -> Option<Self> {
        let measured: Vec<_> = measured
            .iter()
            .filter(|(km, ms)| km.is_finite() && ms.is_finite())
            .take(FIT_SAMPLES_MAX)
            .copied()
            .collect();
        if measured.len() < FIT_SAMPLES_MIN {
            return None;
        }
        let mut slopes = Vec::new();
        for (at, one) in measured.iter().enumerate() {
            let others = measured.iter().skip(at + 1);
            let apart = others.filter(|other| (other.0 - one.0).abs() >= FIT_SPREAD);
            slopes.extend(apart.map(|other| (other.1 - one.1) / (other.0 - one.0)));
        }
        if slopes.len() < FIT_SAMPLES_MIN {
            return None;
        }
        let ms_per_km = median(&mut slopes)?.clamp(LIGHT_MS_PER_KM, SLOPE_MAX);
        let mut rest: Vec<_> = measured
            .iter()
            .map(|(km, ms)| ms - km * ms_per_km)
            .collect();
        Some(Self {
            ms_per_km,
            base_ms: median(&mut rest)?.clamp(0.0, BASE_MAX),
            samples: measured.len(),
        })
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRANKFURT: Position = Position {
        latitude: 50.11,
        longitude: 8.68,
    };
    const SYDNEY: Position = Position {
        latitude: -33.87,
        longitude: 151.21,
    };

    #[test]
    fn distances_are_those_of_the_great_circle() {
        let pole = |latitude| Position {
            latitude,
            longitude: 12.0,
        };
        let half_way_round = std::f64::consts::PI * EARTH_RADIUS;
        for (one, other, km, within) in [
            (FRANKFURT, FRANKFURT, 0.0, 1e-9),
            (FRANKFURT, SYDNEY, 16_480.0, 40.0),
            (pole(90.0), pole(-90.0), half_way_round, 1e-3),
            // Across the date line.
            (
                Position {
                    latitude: 0.0,
                    longitude: 179.5,
                },
                Position {
                    latitude: 0.0,
                    longitude: -179.5,
                },
                111.2,
                0.1,
            ),
        ] {
            let got = one.distance(&other);
            assert!((got - km).abs() <= within, "{got} km, not {km}");
            assert!((got - other.distance(&one)).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_no_place_is_known_as_none() {
        let place = |latitude, longitude| {
            Position {
                latitude,
                longitude,
            }
            .is_valid()
        };
        assert!(place(-90.0, 180.0));
        assert!(!place(90.1, 0.0) && !place(0.0, -180.1));
        assert!(!place(f64::NAN, 0.0) && !place(0.0, f64::INFINITY));
    }

    #[test]
    fn a_fit_finds_the_line_though_a_fifth_of_the_measurements_are_wrong() {
        let measured: Vec<_> = (0..50)
            .map(|at| {
                let km = f64::from(at) * 300.0;
                let ms = 3.0 + km * 0.017;
                (km, if at % 5 == 0 { ms * 4.0 + 80.0 } else { ms })
            })
            .collect();
        let fit = Geography::fit(&measured).unwrap();
        assert!((fit.ms_per_km - 0.017).abs() < 0.001, "{fit:?}");
        assert!((fit.base_ms - 3.0).abs() < 5.0, "{fit:?}");
        assert_eq!(fit.samples, 50);
    }

    #[test]
    fn no_measurements_make_a_fit_faster_than_light_or_absurdly_slow() {
        let line = |slope: f64| -> Vec<_> {
            (0..20)
                .map(|at| (f64::from(at) * 500.0, f64::from(at) * 500.0 * slope))
                .collect()
        };
        assert_eq!(
            Geography::fit(&line(0.0)).unwrap().ms_per_km,
            LIGHT_MS_PER_KM
        );
        assert_eq!(Geography::fit(&line(9.0)).unwrap().ms_per_km, SLOPE_MAX);
        assert_eq!(Geography::fit(&line(0.02)[..7]), None);
        assert_eq!(Geography::fit(&[(10.0, 1.0); 40]), None);
        assert_eq!(Geography::fit(&[(f64::NAN, 1.0); 40]), None);
    }
}
