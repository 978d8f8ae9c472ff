//! Axes: from values to places between 0 and 1, with round ticks.
//!
//! Whatever the values, an axis has a positive length and a bounded number of ticks.

/// More than this between the smallest and the largest time, and the axis is logarithmic.
const LOG_FROM: f64 = 8.0;
/// Whatever is larger is drawn at the end of the axis; in no unit is it a measurement.
const LARGEST: f64 = 1e15;
/// A nanosecond: shorter times are drawn as it.
const SMALLEST_US: f64 = 1e-3;
/// Percentiles that are marked, where a run has so many answers.
const PERCENTILES: [(f64, &str); 7] = [
    (0.0, "0"),
    (0.5, "50"),
    (0.9, "90"),
    (0.99, "99"),
    (0.999, "99.9"),
    (0.9999, "99.99"),
    (0.99999, "99.999"),
];

/// A direction of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// What it shows, with its unit where the ticks have none.
    pub(super) title: String,
    /// Marked values and what stands there.
    pub(super) ticks: Vec<(f64, String)>,
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// From 0 to at least `max`, with about `marks` ticks, no closer than 1 if the values are `whole`.
    pub(super) fn amounts(title: &str, max: f64, marks: f64, whole: bool) -> Self {
        let (step, high) = linear(max, marks, whole);
        let (unit, suffix) = match high {
            high if high >= 1e10 => (1e9, " G"),
            high if high >= 1e7 => (1e6, " M"),
            high if high >= 1e4 => (1e3, " k"),
            _ => (1.0, ""),
        };
        Self::zero_based(title, step, high, unit, suffix)
    }

    /// Seconds, from 0.
    pub(super) fn seconds(max: f64, marks: f64) -> Self {
        let (step, high) = linear(max, marks, false);
        let mut axis = Self::zero_based("seconds", step, high, 1.0, "");
        // Time goes to its end and not to the next round value.
        if max.is_finite() && max > 1e-300 {
            axis.high = max.min(LARGEST);
            axis.ticks.retain(|(at, _)| *at <= max * 1.000_001);
        }
        axis
    }

    /// Durations in microseconds: from 0 where they are much alike, logarithmic where they are not.
    pub(super) fn times(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let values = values.filter(|value| value.is_finite() && *value > 0.0);
        let (min, max) = values.fold((f64::MAX, 0.0_f64), |(min, max), value| {
            let value = value.clamp(SMALLEST_US, LARGEST);
            (min.min(value), max.max(value))
        });
        if max > 0.0 && max / min > LOG_FROM {
            return Self::logarithmic(title, min, max);
        }
        let (step, high) = linear(max, 5.0, false);
        let (unit, suffix) = unit(high);
        Self::zero_based(title, step, high, unit, suffix)
    }

    /// Percentiles, each further nine as long as the one before, as far as `count` answers go.
    pub(super) fn percentiles(count: u64) -> Self {
        let high = depth(1.0 - 1.0 / amount(count.max(10))).min(5.0);
        let ticks = PERCENTILES
            .iter()
            .filter(|(share, _)| depth(*share) <= high + 1e-9);
        Self {
            title: "percentile".to_owned(),
            ticks: ticks
                .map(|(share, label)| (depth(*share), (*label).to_owned()))
                .collect(),
            low: 0.0,
            high,
            log: false,
        }
    }

    fn zero_based(title: &str, step: f64, high: f64, unit: f64, suffix: &str) -> Self {
        let decimals = decimals(step / unit);
        let mut ticks = Vec::new();
        let mut nth = 0.0;
        // At most 12: a step is at least a fifth of what would give the wanted number.
        while nth * step <= high * 1.000_001 && ticks.len() < 64 {
            let at = nth * step;
            let label = if nth == 0.0 {
                "0".to_owned()
            } else {
                format!("{:.decimals$}{suffix}", at / unit)
            };
            ticks.push((at, label));
            nth += 1.0;
        }
        Self {
            title: title.to_owned(),
            ticks,
            low: 0.0,
            high,
            log: false,
        }
    }

    fn logarithmic(title: &str, min: f64, max: f64) -> Self {
        let marks = |min: f64, max: f64| -> Vec<f64> {
            let first = min.log10().floor();
            let decades = (max.log10().ceil() - first).clamp(1.0, 40.0);
            let mut marks = Vec::new();
            let mut decade = first;
            while decade <= first + decades {
                marks.extend([1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powf(decade)));
                decade += 1.0;
            }
            marks
        };
        let all = marks(min, max);
        let low = all.iter().copied().rfind(|mark| *mark <= min * 1.000_001);
        let high = all.iter().copied().find(|mark| *mark >= max * 0.999_999);
        let (low, high) = (low.unwrap_or(min), high.unwrap_or(max));
        let mut ticks: Vec<f64> = all
            .into_iter()
            .filter(|mark| (low * 0.999..=high * 1.001).contains(mark))
            .collect();
        if ticks.len() > 8 {
            ticks.retain(|mark| (mark.log10() - mark.log10().round()).abs() < 1e-6);
        }
        Self {
            title: title.to_owned(),
            ticks: ticks.into_iter().map(|at| (at, time(at))).collect(),
            low,
            high,
            log: true,
        }
    }

    /// Where `value` lies, 0 to 1; `None` where it does not.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.log && value <= 0.0) {
            return None;
        }
        let place = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.is_finite().then(|| place.clamp(0.0, 1.0))
    }
}

/// Where a percentile, as a share, lies: the number of its nines.
pub(super) fn depth(share: f64) -> f64 {
    -(1.0 - share).log10() + 0.0
}

/// A step of 1, 2 or 5 × 10ⁿ and the multiple of it at or above `max`.
fn linear(max: f64, marks: f64, whole: bool) -> (f64, f64) {
    let max = if max.is_finite() && max > 1e-300 {
        max.min(LARGEST)
    } else {
        1.0
    };
    let raw = max / marks;
    let scale = 10_f64.powf(raw.log10().floor());
    let digit = match raw / scale {
        digit if digit <= 1.000_001 => 1.0,
        digit if digit <= 2.000_001 => 2.0,
        digit if digit <= 5.000_001 => 5.0,
        _ => 10.0,
    };
    let step = if whole {
        (digit * scale).max(1.0)
    } else {
        digit * scale
    };
    (step, (max / step - 1e-6).ceil().max(1.0) * step)
}

fn decimals(step: f64) -> usize {
    (0..9)
        .find(|places| {
            let scaled = step * 10_f64.powi(*places);
            scaled >= 0.999_999
        })
        .map_or(9, |places| usize::try_from(places).unwrap_or(0))
}

/// The unit in which a duration of so many microseconds is best said, and its name.
fn unit(micros: f64) -> (f64, &'static str) {
    match micros {
        micros if micros < 0.999_999 => (1e-3, " ns"),
        micros if micros < 999.999 => (1.0, " µs"),
        micros if micros < 999_999.0 => (1e3, " ms"),
        _ => (1e6, " s"),
    }
}

/// A duration in microseconds to three digits, with its unit.
pub(super) fn time(micros: f64) -> String {
    let (unit, name) = unit(micros);
    format!("{}{name}", digits(micros / unit))
}

/// Three significant digits, without zeros at the end that say nothing; thousands apart.
pub(super) fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 {
            "0".to_owned()
        } else {
            "–".to_owned()
        };
    }
    if value.abs() >= 1e15 || value.abs() < 1e-6 {
        return format!("{value:.2e}");
    }
    let places = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.995 => 2,
        size if size >= 0.0995 => 3,
        size if size >= 0.00995 => 4,
        _ => 6,
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let (sign, text) = text
        .strip_prefix('-')
        .map_or(("", text), |rest| ("−", rest));
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let mut out = String::from(sign);
    for (nth, digit) in whole.chars().enumerate() {
        // Narrow and not to be broken at.
        if nth > 0 && (whole.len() - nth) % 3 == 0 && whole.len() > 4 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn amount(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_carry_their_unit() {
        let axis = Axis::amounts("answers a second", 183_000.0, 5.0, false);
        assert_eq!(labels(&axis), ["0", "50 k", "100 k", "150 k", "200 k"]);
        let axis = Axis::amounts("failures", 2.0, 5.0, true);
        assert_eq!(labels(&axis), ["0", "1", "2"]);
        let axis = Axis::times("latency", [900.0, 1400.0].into_iter());
        assert_eq!(labels(&axis), ["0", "0.5 ms", "1.0 ms", "1.5 ms"]);
        let axis = Axis::times("latency", [180.0, 9_500.0].into_iter());
        assert_eq!(
            labels(&axis),
            [
                "100 µs", "200 µs", "500 µs", "1 ms", "2 ms", "5 ms", "10 ms"
            ]
        );
        let axis = Axis::percentiles(20_000);
        assert_eq!(labels(&axis), ["0", "50", "90", "99", "99.9", "99.99"]);
        assert_eq!(
            labels(&Axis::seconds(7.3, 8.0)),
            ["0", "1", "2", "3", "4", "5", "6", "7"]
        );
    }

    #[test]
    fn figures_are_read_easily() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.123_45, "0.123"),
            (12.345, "12.3"),
            (1234.5, "1234"),
            (183_245.0, "183\u{202f}245"),
            (1_234_567.0, "1\u{202f}234\u{202f}567"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(digits(value), text);
        }
        assert_eq!(time(1500.0), "1.5 ms");
    }

    proptest! {
        #[test]
        fn whatever_the_values_an_axis_has_places_and_few_ticks(
            a in proptest::num::f64::ANY, b in proptest::num::f64::ANY, marks in 2.0..12.0_f64, whole: bool
        ) {
            for axis in [
                Axis::amounts("", a, marks, whole),
                Axis::seconds(a, marks),
                Axis::times("", [a, b].into_iter()),
                Axis::percentiles(a.to_bits()),
            ] {
                prop_assert!(axis.ticks.len() <= 40, "{axis:?}");
                prop_assert!(axis.high > axis.low, "{axis:?}");
                for (at, label) in &axis.ticks {
                    prop_assert!(axis.place(*at).is_some() && label.len() < 30, "{axis:?}");
                }
                for value in [a, b] {
                    prop_assert!(axis.place(value).is_none_or(|place| (0.0..=1.0).contains(&place)));
                }
            }
        }
    }
}
