//! Which class a path is in, without flapping.
//!
//! The first measurement decides by the plain border. To leave a class again, what is measured must be a quarter beyond
//! its upper border or a fifth below its lower one; two borders that far apart leave no value whose wobble of ±10 %
//! crosses both. And it must stay there: two samples in a row upwards; downwards three seconds in which the
//! sender was never short of data.
//!
//! A lower bound (see [`Evidence`]) moves a bandwidth up only: a quiet sender is no slow path.

use std::time::{Duration, Instant};

use super::class::{Bandwidth, Distance, PathClass};
use super::sampler::{Evidence, Rate, Sample};

/// How long nothing but lower rates must be seen until a bandwidth is lowered, and nothing but other round trips until
/// a distance changes.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Samples in a row above a class until it is raised: one may be a burst.
const UPWARDS: u8 = 2;

/// Full samples within [`PATIENCE`] below which a bandwidth is not lowered.
const DOWNWARDS: u8 = 5;

/// A quarter above a border.
fn beyond(border: u64) -> u64 {
    border.saturating_add(border / 4)
}

/// A fifth below a border.
fn short_of(border: u64) -> u64 {
    border - border / 5
}

/// The class of one path, from its samples.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    distance: Option<Distance>,
    /// Another distance, and since when nothing else was measured.
    moving: Option<(Distance, Instant)>,
    bandwidth: Option<Bandwidth>,
    above: u8,
    below: Option<Below>,
    /// Smoothed over some ten samples.
    loss: Option<f64>,
    changes: u64,
}

/// A run of full samples below the class.
#[derive(Debug, Clone, Copy)]
struct Below {
    since: Instant,
    samples: u8,
    fastest: u64,
}

impl Profile {
    /// A profile that begins where an earlier connection on this path ended.
    #[must_use]
    pub fn starting(class: PathClass) -> Self {
        Self {
            distance: Some(class.distance),
            bandwidth: class.bandwidth,
            ..Self::default()
        }
    }

    /// Where the path belongs; `None` before its first round trip.
    #[must_use]
    pub fn class(&self) -> Option<PathClass> {
        Some(PathClass {
            distance: self.distance?,
            bandwidth: self.bandwidth,
        })
    }

    /// Share of packets lost, smoothed; `None` before enough were sent.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// How often the class changed, the first classification included.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Takes a sample; the class, if this changed it. Samples come in the order of their times.
    pub fn observe(&mut self, now: Instant, sample: &Sample) -> Option<PathClass> {
        let before = self.class();
        if let Some(rtt) = sample.rtt_min {
            self.observe_rtt(now, rtt);
        }
        if let Some(rate) = sample.rate {
            self.observe_rate(now, rate);
        }
        if let Some(loss) = sample.loss {
            self.loss = Some(self.loss.map_or(loss, |old| old + (loss - old) / 8.0));
        }
        let class = self.class();
        if class == before {
            return None;
        }
        self.changes += 1;
        class
    }

    fn observe_rtt(&mut self, now: Instant, rtt: Duration) {
        let Some(current) = self.distance else {
            self.distance = Some(Distance::of(rtt));
            return;
        };
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        let border = |border: Duration| u64::try_from(border.as_nanos()).unwrap_or(u64::MAX);
        let farther = current
            .below()
            .is_some_and(|upper| nanos > beyond(border(upper)));
        let nearer = nanos < short_of(border(current.at_least()));
        if !farther && !nearer {
            self.moving = None;
            return;
        }
        let to = Distance::of(rtt);
        match self.moving {
            Some((candidate, since)) if candidate == to => {
                if now.saturating_duration_since(since) >= PATIENCE {
                    self.distance = Some(to);
                    self.moving = None;
                }
            }
            _ => self.moving = Some((to, now)),
        }
    }

    fn observe_rate(&mut self, now: Instant, rate: Rate) {
        let full = rate.evidence == Evidence::Full;
        let rate = rate.bytes_per_second;
        let Some(current) = self.bandwidth else {
            self.bandwidth = Some(Bandwidth::of(rate));
            return;
        };
        if current.below().is_some_and(|upper| rate > beyond(upper)) {
            self.below = None;
            self.above += 1;
            if self.above >= UPWARDS {
                self.above = 0;
                self.bandwidth = Some(Bandwidth::of(rate));
            }
            return;
        }
        self.above = 0;
        if rate >= short_of(current.at_least()) {
            self.below = None;
            return;
        }
        if !full {
            // It says nothing against the class, nor for it.
            return;
        }
        let below = self.below.get_or_insert(Below {
            since: now,
            samples: 0,
            fastest: 0,
        });
        below.samples = below.samples.saturating_add(1);
        below.fastest = below.fastest.max(rate);
        if below.samples >= DOWNWARDS && now.saturating_duration_since(below.since) >= PATIENCE {
            self.bandwidth = Some(Bandwidth::of(below.fastest));
            self.below = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SPAN: Duration = Duration::from_millis(100);

    fn full(rate: u64) -> Sample {
        at(Some(MS * 5), rate, Evidence::Full)
    }

    fn at(rtt_min: Option<Duration>, rate: u64, evidence: Evidence) -> Sample {
        Sample {
            rtt_min,
            rate: Some(Rate {
                bytes_per_second: rate,
                evidence,
            }),
            loss: None,
        }
    }

    /// Feeds a sample each 100 ms; the classes the path went through.
    fn through(
        profile: &mut Profile,
        began: Instant,
        samples: impl IntoIterator<Item = Sample>,
    ) -> Vec<PathClass> {
        samples
            .into_iter()
            .zip(0u32..)
            .filter_map(|(sample, number)| profile.observe(began + SPAN * number, &sample))
            .collect()
    }

    /// Around each border, and anywhere.
    fn rates() -> impl Strategy<Value = u64> {
        let near = prop::sample::select(vec![39_500_000_u64, 197_500_000, 625_000_000]);
        prop_oneof![
            (near, 700_u64..1_400).prop_map(|(border, permille)| border / 1000 * permille),
            1_000_000_u64..3_000_000_000,
        ]
    }

    proptest! {
        #[test]
        fn a_wobble_of_a_tenth_never_flaps(
            rate in rates(), wobble in prop::collection::vec(-100_i64..=100, 300), history in rates(),
        ) {
            let began = Instant::now();
            let wobbly = |permille: &i64| {
                full(u64::try_from(i64::try_from(rate).unwrap() / 1000 * (1000 + permille)).unwrap())
            };
            // From nothing: one classification, and none after it.
            let mut fresh = Profile::default();
            let classes = through(&mut fresh, began, wobble.iter().map(wobbly));
            prop_assert_eq!(classes.len(), 1, "{:?}", classes);
            // After another rate: it moves once at most, and never back.
            let mut moved = Profile::default();
            through(&mut moved, began, std::iter::repeat_n(full(history), 100));
            let later = began + SPAN * 100;
            let classes = through(&mut moved, later, wobble.iter().map(wobbly));
            prop_assert!(classes.len() <= 1, "{:?}", classes);
        }

        #[test]
        fn a_round_trip_that_wobbles_never_flaps(
            micros in prop_oneof![1_500_u64..2_600, 15_000_u64..26_000, 10_u64..300_000],
            wobble in prop::collection::vec(-100_i64..=100, 300),
        ) {
            let mut profile = Profile::default();
            let samples = wobble.iter().map(|permille| {
                let wobbled = i64::try_from(micros).unwrap() * (1000 + permille) / 1000;
                Sample { rtt_min: Some(Duration::from_micros(wobbled.try_into().unwrap())), rate: None, loss: None }
            });
            prop_assert_eq!(through(&mut profile, Instant::now(), samples).len(), 1);
        }

        #[test]
        fn a_new_rate_settles_within_five_seconds(from in rates(), to in rates()) {
            let began = Instant::now();
            let mut profile = Profile::default();
            through(&mut profile, began, std::iter::repeat_n(full(from), 100));
            let later = began + SPAN * 100;
            through(&mut profile, later, std::iter::repeat_n(full(to), 50));
            let settled = profile.class();
            // Either in its class, or so near the border that the old class may stay.
            let class = profile.class().unwrap().bandwidth.unwrap();
            let fits = to <= beyond(class.below().unwrap_or(u64::MAX)) && to >= short_of(class.at_least());
            prop_assert!(fits, "{to} is {class:?}");
            through(&mut profile, later + SPAN * 50, std::iter::repeat_n(full(to), 200));
            prop_assert_eq!(profile.class(), settled);
        }

        #[test]
        fn a_quiet_sender_never_lowers_a_class(rates in prop::collection::vec(0_u64..3_000_000_000, 1..300)) {
            let mut profile = Profile::default();
            let samples = rates.iter().map(|rate| at(Some(MS), *rate, Evidence::AtLeast));
            let classes = through(&mut profile, Instant::now(), samples);
            prop_assert!(classes.is_sorted_by_key(|class| class.bandwidth), "{:?}", classes);
        }
    }

    #[test]
    fn one_burst_raises_nothing_two_do() {
        let mut profile = Profile::default();
        let (slow, fast) = (full(12_000_000), full(300_000_000));
        let classes = through(&mut profile, Instant::now(), [slow, fast, slow, fast, slow]);
        assert_eq!(classes.len(), 1);
        let later = Instant::now();
        let classes = through(&mut profile, later, [fast, fast]);
        assert_eq!(classes.last().unwrap().bandwidth, Some(Bandwidth::Gbit2_5));
    }

    #[test]
    fn a_pause_is_no_slow_path_but_three_seconds_of_slowness_are() {
        let began = Instant::now();
        let mut profile = Profile::default();
        let (slow, fast) = (full(12_000_000), full(125_000_000));
        through(&mut profile, began, [fast, fast]);
        // Five samples, too soon; then the same again with fast ones between.
        let samples = [slow; 25].into_iter().chain([fast]).chain([slow; 25]);
        assert!(through(&mut profile, began + MS * 200, samples).is_empty());
        let classes = through(&mut profile, began + MS * 10_000, [slow; 40]);
        assert_eq!(classes.len(), 1);
        assert_eq!(classes[0].bandwidth, Some(Bandwidth::Mbit100));
    }

    #[test]
    fn what_was_learnt_before_is_where_a_profile_starts() {
        let class = PathClass {
            distance: Distance::Wan,
            bandwidth: Some(Bandwidth::Gbit1),
        };
        let mut profile = Profile::starting(class);
        assert_eq!(profile.class(), Some(class));
        let near = at(Some(MS * 80), 125_000_000, Evidence::Full);
        assert_eq!(profile.observe(Instant::now(), &near), None);
        assert_eq!(profile.changes(), 0);
    }
}
