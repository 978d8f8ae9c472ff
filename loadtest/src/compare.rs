//! Two sets of results side by side: for each figure the ratio of medians, and how far it can be trusted.
//!
//! Where both sides have several rounds, the range is that of the ratios of rounds run one after the other: what a noisy
//! machine does to both alike is not in it. Where they have one each, quantiles have a 95 % interval by the order
//! statistics of their histograms, which covers chance within a run and nothing else; other figures have none.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bundle::{Bundle, Distribution, Environment, Setup};
use crate::results::{Results, histogram};

/// Two sets of results and what sets them apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What the first is called.
    pub a: String,
    /// What the second is called.
    pub b: String,
    /// Rounds of each.
    pub rounds: (usize, usize),
    /// In what their machines differ: with any, the ratios say little about the servers.
    pub unlike: Vec<String>,
    /// In what is asked and how they differ, target and protocol: that is what is compared.
    pub differences: Vec<String>,
    /// In what their loads differ: with any, the ratios are of two different questions.
    pub loads: Vec<String>,
    /// Reasons why a round of either is INVALID.
    pub invalid: Vec<String>,
    /// Rounds that were INVALID and measured again, which are in no figure.
    pub set_aside: Vec<String>,
    /// The figures that both have.
    pub figures: Vec<Figure>,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Median of the first's rounds.
    pub a: f64,
    /// Median of the second's.
    pub b: f64,
    /// `b / a`; `None` where `a` is 0.
    pub ratio: Option<f64>,
    /// Within what the ratio lies.
    pub range: Option<(f64, f64)>,
    /// What the range is.
    pub spread: Spread,
}

/// What a range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Smallest and largest ratio of rounds run in turn.
    Rounds,
    /// 95 % interval of a quantile, from one run's histogram each.
    Quantile,
    /// There is none.
    None,
}

/// Compares. Each side has at least one bundle.
#[must_use]
pub fn compare(a: &[Bundle], b: &[Bundle]) -> Comparison {
    let name = |side: &[Bundle]| {
        side.first()
            .map_or_else(String::new, |bundle| bundle.name.clone())
    };
    let mut comparison = Comparison {
        a: name(a),
        b: name(b),
        rounds: (a.len(), b.len()),
        unlike: Vec::new(),
        differences: Vec::new(),
        loads: Vec::new(),
        invalid: Vec::new(),
        set_aside: Vec::new(),
        figures: FIGURES
            .iter()
            .filter_map(|measure| measure.figure(a, b))
            .collect(),
    };
    if let (Some(a), Some(b)) = (a.first(), b.first()) {
        comparison.unlike = unlike(&a.environment, &b.environment);
        comparison.differences = subjects(&a.setup, &b.setup);
        comparison.loads = loads(&a.setup, &b.setup);
    }
    for (side, bundles) in [("A", a), ("B", b)] {
        for (nth, bundle) in bundles.iter().enumerate().filter(|(_, b)| !b.verdict.valid) {
            let reasons = bundle.verdict.reasons.join("; ");
            let round = nth + 1;
            comparison
                .invalid
                .push(format!("{side}, round {round}: {reasons}"));
        }
    }
    comparison
}

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Sides {
    /// Rounds of the first, one or more.
    pub a: Vec<Bundle>,
    /// Rounds of the second.
    pub b: Vec<Bundle>,
    /// Rounds of either that were measured again, and why.
    pub set_aside: Vec<String>,
}

/// The two sides of one file or of two, and what was set aside. `Err` says what is wrong with the choice.
///
/// # Errors
/// One file that is no pair, or two of which one is.
pub fn sides(first: Results, second: Option<Results>) -> Result<Sides, String> {
    match (first, second) {
        (Results::Pair(pair), None) => Ok(Sides {
            a: pair.a,
            b: pair.b,
            set_aside: pair.set_aside,
        }),
        (Results::Rounds(a), Some(Results::Rounds(b))) => Ok(Sides {
            a,
            b,
            set_aside: Vec::new(),
        }),
        (Results::Rounds(_), None) => {
            Err("one file of one setup: name a second to compare it with".to_owned())
        }
        (Results::Pair(_), Some(_)) | (_, Some(Results::Pair(_))) => Err(
            "a file that holds a pair is compared by itself; with another it is not clear which side is meant"
                .to_owned(),
        ),
    }
}

/// Takes one of a bundle's distributions.
type Pick = fn(&Bundle) -> &Distribution;

/// How a figure is read off a bundle.
#[derive(Clone, Copy)]
struct Measure {
    name: &'static str,
    more_is_better: bool,
    of: fn(&Bundle) -> Option<f64>,
    quantile: Option<(Pick, f64)>,
}

const FIGURES: &[Measure] = &[
    Measure::of("answers a second", true, |bundle| Some(rate(bundle))),
    Measure::of("body, MB/s", true, |bundle| Some(megabytes(bundle))),
    Measure::of("server CPU, s per million answers", false, |bundle| {
        bundle.server.as_ref()?.cpu_s_per_million
    }),
    Measure::of("server CPU, s per GB of body", false, |bundle| {
        bundle.server.as_ref()?.cpu_s_per_gb
    }),
    Measure::quantile("latency p50, µs", |bundle| &bundle.outcome.latency, 0.5),
    Measure::quantile("latency p90, µs", |bundle| &bundle.outcome.latency, 0.9),
    Measure::quantile("latency p99, µs", |bundle| &bundle.outcome.latency, 0.99),
    Measure::quantile("latency p99.9, µs", |bundle| &bundle.outcome.latency, 0.999),
    Measure::quantile(
        "first byte p50, µs",
        |bundle| &bundle.outcome.first_byte,
        0.5,
    ),
    Measure::quantile("connect p50, µs", |bundle| &bundle.outcome.connect, 0.5),
    Measure::of("failures, share of those due", false, |bundle| {
        Some(failures(bundle))
    }),
    Measure::of("server memory at most, MiB", false, |bundle| {
        Some(mebibytes(bundle.server.as_ref()?.rss_max_bytes))
    }),
];

impl Measure {
    const fn of(name: &'static str, more_is_better: bool, of: fn(&Bundle) -> Option<f64>) -> Self {
        Self {
            name,
            more_is_better,
            of,
            quantile: None,
        }
    }

    const fn quantile(name: &'static str, of: Pick, share: f64) -> Self {
        Self {
            name,
            more_is_better: false,
            of: |_| None,
            quantile: Some((of, share)),
        }
    }

    fn value(&self, bundle: &Bundle) -> Option<f64> {
        match self.quantile {
            None => (self.of)(bundle),
            Some((distribution, share)) => {
                let distribution = distribution(bundle);
                let histogram = histogram(distribution).ok()?;
                (!histogram.is_empty()).then(|| micros(histogram.value_at_quantile(share)))
            }
        }
    }

    fn figure(&self, a: &[Bundle], b: &[Bundle]) -> Option<Figure> {
        let values = |side: &[Bundle]| -> Option<Vec<f64>> {
            side.iter().map(|bundle| self.value(bundle)).collect()
        };
        let (of_a, of_b) = (values(a)?, values(b)?);
        let (median_a, median_b) = (median(&of_a)?, median(&of_b)?);
        let (range, spread) = match (a, b) {
            _ if a.len() > 1 && a.len() == b.len() => {
                let ratios = of_a.iter().zip(&of_b).filter_map(|(a, b)| ratio(*a, *b));
                (extremes(ratios), Spread::Rounds)
            }
            ([a], [b]) => match self.quantile.and_then(|(of, share)| {
                let (a, b) = (interval(of(a), share)?, interval(of(b), share)?);
                Some((ratio(a.1, b.0)?, ratio(a.0, b.1)?))
            }) {
                Some(range) => (Some(range), Spread::Quantile),
                None => (None, Spread::None),
            },
            _ => (None, Spread::None),
        };
        Some(Figure {
            name: self.name,
            more_is_better: self.more_is_better,
            a: median_a,
            b: median_b,
            ratio: ratio(median_a, median_b),
            range,
            spread,
        })
    }
}

/// A figure of each round of one setup.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// What it is, with its unit.
    pub(crate) name: &'static str,
    /// Whether more is better.
    pub(crate) more_is_better: bool,
    /// Of each round, in their order; `None` where one has no such figure.
    pub(crate) rounds: Vec<Option<f64>>,
}

impl Reading {
    /// Median and extremes; `None` where a round has no such figure.
    pub(crate) fn summary(&self) -> Option<(f64, (f64, f64))> {
        let rounds: Vec<f64> = self.rounds.iter().copied().collect::<Option<_>>()?;
        Some((median(&rounds)?, extremes(rounds.iter().copied())?))
    }
}

/// All figures of some rounds, always the same ones in the same order.
pub(crate) fn readings(rounds: &[Bundle]) -> Vec<Reading> {
    FIGURES
        .iter()
        .map(|measure| Reading {
            name: measure.name,
            more_is_better: measure.more_is_better,
            rounds: rounds.iter().map(|round| measure.value(round)).collect(),
        })
        .collect()
}

/// 95 % of a quantile: the values at the ranks n·q ± 1.96·√(n·q·(1−q)).
fn interval(distribution: &Distribution, share: f64) -> Option<(f64, f64)> {
    let histogram = histogram(distribution).ok()?;
    if histogram.is_empty() {
        return None;
    }
    let count = histogram.len() as f64;
    let half = 1.96 * (share * (1.0 - share) / count).sqrt();
    let at = |share: f64| micros(histogram.value_at_quantile(share.clamp(0.0, 1.0)));
    Some((at(share - half), at(share + half)))
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (a > 0.0).then(|| b / a)
}

fn extremes(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

/// The middle one; of an even number the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(half - 1)? + upper) / 2.0)
}

/// Right answers a second.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn rate(bundle: &Bundle) -> f64 {
    per(bundle.outcome.requests as f64, bundle.outcome.elapsed_s)
}

/// 10⁶ bytes of body a second.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn megabytes(bundle: &Bundle) -> f64 {
    per(
        bundle.outcome.body_bytes as f64 / 1e6,
        bundle.outcome.elapsed_s,
    )
}

/// Requests due that were not answered rightly, as a share.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn failures(bundle: &Bundle) -> f64 {
    let outcome = &bundle.outcome;
    let failed = outcome
        .errors
        .values()
        .fold(outcome.unanswered, |sum, count| sum.saturating_add(*count));
    per(failed as f64, outcome.due as f64)
}

fn per(value: f64, of: f64) -> f64 {
    if of > 0.0 { value / of } else { 0.0 }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an hour has 42 bits of nanoseconds"
)]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn unlike(a: &Environment, b: &Environment) -> Vec<String> {
    let mtu = |mtu: Option<u32>| mtu.map_or_else(|| "unknown".to_owned(), |mtu| mtu.to_string());
    apart(&[
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("cores", a.cores.to_string(), b.cores.to_string()),
        (
            "cores of the client",
            a.affinity.clone(),
            b.affinity.clone(),
        ),
        (
            "memory, bytes",
            a.memory_bytes.to_string(),
            b.memory_bytes.to_string(),
        ),
        ("kernel", a.kernel.clone(), b.kernel.clone()),
        ("operating system", a.os.clone(), b.os.clone()),
        ("MTU", mtu(a.mtu), mtu(b.mtu)),
    ])
}

fn subjects(a: &Setup, b: &Setup) -> Vec<String> {
    apart(&[
        ("target", a.target.clone(), b.target.clone()),
        ("protocol", a.protocol.clone(), b.protocol.clone()),
    ])
}

fn loads(a: &Setup, b: &Setup) -> Vec<String> {
    apart(&[
        ("shape", a.shape.clone(), b.shape.clone()),
        (
            "connections",
            a.connections.to_string(),
            b.connections.to_string(),
        ),
        ("streams", a.streams.to_string(), b.streams.to_string()),
        ("threads", a.threads.to_string(), b.threads.to_string()),
        ("session", a.session.clone(), b.session.clone()),
        ("workload", a.workload.clone(), b.workload.clone()),
        (
            "seconds",
            a.duration_s.to_string(),
            b.duration_s.to_string(),
        ),
    ])
}

/// A line for each that is not the same on both sides.
fn apart(all: &[(&str, String, String)]) -> Vec<String> {
    all.iter()
        .filter(|(_, a, b)| a != b)
        .map(|(what, a, b)| format!("{what}: {a} and {b}"))
        .collect()
}

impl Comparison {
    /// As aligned text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let (rounds_a, rounds_b) = self.rounds;
        let _ = writeln!(out, "A  {} (rounds: {rounds_a})", self.a);
        let _ = writeln!(out, "B  {} (rounds: {rounds_b})", self.b);
        for (title, lines) in [
            ("the machines differ", &self.unlike),
            ("compared", &self.differences),
            ("the loads differ", &self.loads),
            ("INVALID", &self.invalid),
            ("set aside and measured again", &self.set_aside),
        ] {
            for line in lines {
                let _ = writeln!(out, "{title}: {line}");
            }
        }
        let width = self.figures.iter().map(|f| f.name.chars().count()).max();
        let width = width.unwrap_or(0);
        let _ = writeln!(
            out,
            "\n{:width$}  {:>10}  {:>10}  {:>6}  range",
            "", "A", "B", "B/A"
        );
        for figure in &self.figures {
            let ratio = figure
                .ratio
                .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
            let range = match (figure.range, figure.spread) {
                (Some((low, high)), Spread::Rounds) => format!("{low:.3}–{high:.3} over rounds"),
                (Some((low, high)), Spread::Quantile) => format!("{low:.3}–{high:.3} 95 %"),
                (_, Spread::None) | (None, _) => String::new(),
            };
            let (a, b) = (short(figure.a), short(figure.b));
            let line = format!(
                "{:width$}  {a:>10}  {b:>10}  {ratio:>6}  {range}",
                figure.name
            );
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }
}

/// A number to three or four digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bundle::sample;

    fn figure(comparison: &Comparison, name: &str) -> Figure {
        let found = comparison.figures.iter().find(|figure| figure.name == name);
        found.expect("the figure is there").clone()
    }

    #[test]
    fn rounds_are_compared_in_turn_so_that_common_noise_cancels() {
        // The machine gets slower by half from round to round; B always needs twice the time of A.
        let rounds = |base: u64| -> Vec<Bundle> {
            [2, 3, 4]
                .map(|slow| sample("x", 1000, Duration::from_micros(base * slow)))
                .into()
        };
        let comparison = compare(&rounds(100), &rounds(200));
        let p50 = figure(&comparison, "latency p50, µs");
        assert_eq!(p50.spread, Spread::Rounds);
        let (low, high) = p50.range.unwrap();
        assert!(low > 1.98 && high < 2.02, "{low} {high}");
        assert!((p50.ratio.unwrap() - 2.0).abs() < 0.02);
    }

    #[test]
    fn one_run_each_gives_quantiles_an_interval_and_other_figures_none() {
        let a = [sample("a", 1000, Duration::from_micros(300))];
        let b = [sample("b", 500, Duration::from_micros(300))];
        let comparison = compare(&a, &b);
        let p50 = figure(&comparison, "latency p50, µs");
        let (low, high) = p50.range.unwrap();
        assert!(low < 1.0 && 1.0 < high && high < 1.2, "{low} {high}");
        let rate = figure(&comparison, "answers a second");
        assert_eq!((rate.ratio, rate.range), (Some(0.5), None));
        // Nobody connected while it was counted: there is nothing to compare.
        assert!(
            comparison
                .figures
                .iter()
                .all(|figure| figure.name != "connect p50, µs")
        );
    }

    #[test]
    fn machines_that_differ_and_invalid_rounds_are_named() {
        let a = sample("a", 10, Duration::from_micros(300));
        let mut b = a.clone();
        b.environment.kernel = "7.0".to_owned();
        b.setup.protocol = "h2".to_owned();
        b.setup.streams = 4;
        b.verdict.valid = false;
        b.verdict.reasons = vec!["the client was the bottleneck".to_owned()];
        let comparison = compare(&[a], &[b]);
        assert_eq!(comparison.unlike, ["kernel: 6.0 and 7.0"]);
        assert_eq!(comparison.differences, ["protocol: h3 and h2"]);
        assert_eq!(comparison.loads, ["streams: 32 and 4"]);
        assert_eq!(
            comparison.invalid,
            ["B, round 1: the client was the bottleneck"]
        );
        let table = comparison.table();
        assert!(table.contains("INVALID: B, round 1") && table.contains("1.000"));
    }

    #[test]
    fn a_figure_of_zero_has_no_ratio() {
        let a = [sample("a", 10, Duration::from_micros(300))];
        let comparison = compare(&a, &a);
        let failures = figure(&comparison, "failures, share of those due");
        assert_eq!((failures.a, failures.ratio), (0.0, None));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }
}
