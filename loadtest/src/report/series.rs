//! What is drawn: lines and bars out of the rounds of each run.

use hdrhistogram::Histogram;

use super::Run;
use super::axis::{Axis, amount, depth, digits, time};
use super::plot::{Bar, Line, Plot, Point, bars};
use crate::bundle::{Bundle, Tick};
use crate::compare::readings;
use crate::results::merged;

/// Ticks of a round that are drawn at most; of a longer one several are taken together.
const TICKS_MAX: usize = 600;
/// Points of a line over the percentiles.
const STEPS: u32 = 100;

/// Latency over percentiles: a line a run, its rounds merged.
pub(super) fn percentiles(runs: &[Run]) -> String {
    let histograms: Vec<Histogram<u64>> = runs
        .iter()
        .map(|run| {
            let rounds = run.rounds.iter().map(|round| &round.outcome.latency);
            // A file that was loaded has been checked; anything else has no line.
            merged(rounds)
                .unwrap_or_else(|_| Histogram::new(3).expect("a constant the histogram takes"))
        })
        .collect();
    let lines: Vec<Line> = runs
        .iter()
        .zip(&histograms)
        .enumerate()
        .filter(|(_, (_, histogram))| !histogram.is_empty())
        .map(|(nth, (run, histogram))| Line {
            run: nth,
            pieces: vec![quantiles(&run.label, histogram)],
            ..Line::default()
        })
        .collect();
    let count = histograms.iter().map(Histogram::len).max().unwrap_or(0);
    Plot {
        title: "Latency by percentile",
        x: &|_| Axis::percentiles(count),
        y: Axis::times("latency", heights(&lines)),
        lines,
    }
    .svg()
}

fn quantiles(label: &str, histogram: &Histogram<u64>) -> Vec<Point> {
    // As far as there is an answer: behind the last of n lies nothing.
    let deepest = depth(1.0 - 1.0 / amount(histogram.len())).clamp(0.0, 5.0);
    (0..=STEPS)
        .map(|step| {
            let x = deepest * f64::from(step) / f64::from(STEPS);
            let share = 1.0 - 10_f64.powf(-x);
            let y = amount(histogram.value_at_quantile(share)) / 1e3;
            let percentile = share * 100.0;
            let text = format!("{label}: {} at percentile {percentile:.3}", time(y));
            Point { x, y, text }
        })
        .collect()
}

/// Right answers a second over time: a line a round.
pub(super) fn rate(runs: &[Run]) -> String {
    let lines = over_time(runs, |label, second| {
        let y = amount(second.requests) / second.seconds;
        let text = format!(
            "{label}: {} a second at {} s",
            digits(y),
            digits(second.at_s)
        );
        Some((y, text))
    });
    drawn("Answers a second over time", lines, |max| {
        Axis::amounts("", max, 5.0, false)
    })
}

/// Median and 99th percentile over time: two lines a round.
pub(super) fn latency(runs: &[Run]) -> String {
    let of = |name: &'static str, pick: fn(&Second) -> f64| {
        over_time(runs, move |label, second| {
            // 0: nothing was answered in it.
            let y = pick(second);
            let text = format!("{label}: {name} {} at {} s", time(y), digits(second.at_s));
            (y > 0.0).then_some((y, text))
        })
    };
    let mut lines = of("p99", |second| second.p99_us);
    lines.extend(
        of("p50", |second| second.p50_us)
            .into_iter()
            .map(|line| Line {
                dashed: true,
                ..line
            }),
    );
    let end = end(&lines);
    Plot {
        title: "Latency over time",
        x: &|marks| Axis::seconds(end, marks),
        y: Axis::times("latency", heights(&lines)),
        lines,
    }
    .svg()
}

/// Failures a second over time; `None` where there was none.
pub(super) fn errors(runs: &[Run]) -> Option<String> {
    let any = |run: &Run| {
        run.rounds
            .iter()
            .any(|round| round.outcome.series.iter().any(|tick| tick.errors > 0))
    };
    if !runs.iter().any(any) {
        return None;
    }
    let lines = over_time(runs, |label, second| {
        let y = amount(second.errors) / second.seconds;
        let text = format!(
            "{label}: {} failures a second at {} s",
            digits(y),
            digits(second.at_s)
        );
        Some((y, text))
    });
    Some(drawn("Failures a second over time", lines, |max| {
        Axis::amounts("", max, 5.0, true)
    }))
}

/// Bars of one of the figures that [`readings`] has, by its name; `None` where no run has it.
pub(super) fn bars_of(runs: &[Run], name: &str, title: &str, unit: &str) -> Option<String> {
    let found: Vec<Bar> = runs
        .iter()
        .enumerate()
        .filter_map(|(nth, run)| {
            let reading = readings(&run.rounds)
                .into_iter()
                .find(|reading| reading.name == name)?;
            let (value, range) = reading.summary()?;
            Some(Bar {
                run: nth,
                label: run.label.clone(),
                value,
                range: (run.rounds.len() > 1).then_some(range),
            })
        })
        .collect();
    (!found.is_empty()).then(|| bars(title, unit, &found))
}

/// One or several ticks.
struct Second {
    at_s: f64,
    seconds: f64,
    requests: u64,
    errors: u64,
    p50_us: f64,
    p99_us: f64,
}

fn over_time(runs: &[Run], value: impl Fn(&str, &Second) -> Option<(f64, String)>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (nth, run) in runs.iter().enumerate() {
        for (round, bundle) in run.rounds.iter().enumerate() {
            let faint = run.rounds.len() > 1;
            let label = if faint {
                format!("{}, round {}", run.label, round + 1)
            } else {
                run.label.clone()
            };
            let mut pieces = vec![Vec::new()];
            for second in seconds(bundle) {
                match value(&label, &second) {
                    Some((y, text)) => {
                        if let Some(piece) = pieces.last_mut() {
                            piece.push(Point {
                                x: second.at_s,
                                y,
                                text,
                            });
                        }
                    }
                    None => pieces.push(Vec::new()),
                }
            }
            pieces.retain(|piece| !piece.is_empty());
            lines.push(Line {
                run: nth,
                faint,
                pieces,
                dashed: false,
            });
        }
    }
    lines
}

/// The ticks of a round, in order of time, those without length left out.
fn seconds(bundle: &Bundle) -> Vec<Second> {
    let ticks = &bundle.outcome.series;
    let together = ticks.len().div_ceil(TICKS_MAX).max(1);
    let mut from = 0.0;
    let mut seconds = Vec::new();
    for group in ticks.chunks(together) {
        let Some(last) = group.last() else { continue };
        let length = last.at_s - from;
        if !(length > 1e-6 && last.at_s.is_finite()) {
            continue;
        }
        from = last.at_s;
        // Of percentiles taken together the worst is shown: a peak must not vanish.
        let worst = |pick: fn(&Tick) -> f64| group.iter().map(pick).fold(0.0, f64::max);
        seconds.push(Second {
            at_s: last.at_s,
            seconds: length,
            requests: group
                .iter()
                .fold(0, |sum, tick| sum.saturating_add(tick.requests)),
            errors: group
                .iter()
                .fold(0, |sum, tick| sum.saturating_add(tick.errors)),
            p50_us: worst(|tick| tick.p50_us),
            p99_us: worst(|tick| tick.p99_us),
        });
    }
    seconds
}

fn drawn(title: &str, lines: Vec<Line>, y: impl Fn(f64) -> Axis) -> String {
    let (end, highest) = (end(&lines), heights(&lines).fold(0.0, f64::max));
    Plot {
        title,
        x: &|marks| Axis::seconds(end, marks),
        y: y(highest),
        lines,
    }
    .svg()
}

fn points(lines: &[Line]) -> impl Iterator<Item = &Point> {
    lines.iter().flat_map(|line| line.pieces.iter().flatten())
}

fn heights(lines: &[Line]) -> impl Iterator<Item = f64> {
    points(lines).map(|point| point.y)
}

fn end(lines: &[Line]) -> f64 {
    points(lines).map(|point| point.x).fold(0.0, f64::max)
}
