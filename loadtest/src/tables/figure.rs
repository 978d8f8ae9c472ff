//! The figures a table can have: what they are called in a marker and in a table, and how they are read off rounds.

use super::text::{digits, time};
use crate::bundle::{Bundle, IdleOutcome};
use crate::compare::{median, readings};

/// What stands in place of a figure that was not measured.
pub(super) const NOTHING: &str = "–";
/// What stands in place of every figure of a run that is INVALID.
pub(super) const INVALID: &str = "INVALID";

/// A figure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Figure {
    /// What it is called in a marker.
    pub(super) key: &'static str,
    /// What it is called in a table. Cells have the unit that is not here.
    pub(super) head: &'static str,
    source: Source,
    form: Form,
    /// Whether it is shown where none are named, of runs and of pairs.
    pub(super) usual: (bool, bool),
    /// What a reader may have to be told.
    pub(super) note: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// Called so in [`readings`].
    Reading(&'static str),
    /// The largest share of a core that a thread of the client took in any round.
    Client,
    /// Of idle connections: how many answered at the end, in the round with the fewest.
    Idle,
    /// Of idle connections: the client's memory for each, KiB, median of the rounds.
    IdleClient,
    /// The same of the server's.
    IdleServer,
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    /// A number, with what goes behind it.
    Number(&'static str),
    /// Microseconds.
    Time,
    /// A share, 0–1.
    Share,
}

const BOTH: (bool, bool) = (true, true);
const RUNS: (bool, bool) = (true, false);
const NONE: (bool, bool) = (false, false);

/// In the order in which a table has them where none are named.
const FIGURES: &[Figure] = &[
    Figure::of(
        "rate",
        "answers/s",
        "answers a second",
        Form::Number(""),
        BOTH,
    ),
    Figure::of("body", "body", "body, MB/s", Form::Number(" MB/s"), NONE),
    Figure::of("p50", "p50", "latency p50, µs", Form::Time, RUNS),
    Figure::of("p90", "p90", "latency p90, µs", Form::Time, NONE),
    Figure::of("p99", "p99", "latency p99, µs", Form::Time, BOTH),
    Figure::of("p99.9", "p99.9", "latency p99.9, µs", Form::Time, NONE),
    Figure::of(
        "first-byte",
        "first byte p50",
        "first byte p50, µs",
        Form::Time,
        NONE,
    ),
    Figure::of(
        "connect",
        "connect p50",
        "connect p50, µs",
        Form::Time,
        NONE,
    ),
    // Seconds for 10⁶ answers are microseconds for one.
    Figure {
        note: Some("CPU/answer is CPU time of the server."),
        ..Figure::of(
            "cpu",
            "CPU/answer",
            "server CPU, s per million answers",
            Form::Time,
            BOTH,
        )
    },
    Figure {
        note: Some("CPU/GB is CPU time of the server for 10⁹ bytes of body."),
        ..Figure::of(
            "cpu-gb",
            "CPU/GB",
            "server CPU, s per GB of body",
            Form::Number(" s"),
            NONE,
        )
    },
    Figure {
        note: Some("memory is the largest resident set of the server."),
        ..Figure::of(
            "memory",
            "memory",
            "server memory at most, MiB",
            Form::Number(" MiB"),
            NONE,
        )
    },
    Figure::of(
        "failed",
        "failed",
        "failures, share of those due",
        Form::Share,
        NONE,
    ),
    Figure {
        key: "client",
        head: "client",
        source: Source::Client,
        form: Form::Share,
        usual: RUNS,
        note: Some("client is the share of a core that the busiest thread of the client took."),
    },
    Figure {
        key: "idle",
        head: "idle",
        source: Source::Idle,
        form: Form::Number(""),
        usual: RUNS,
        note: Some("idle is connections that were held idle and answered a request at the end."),
    },
    Figure {
        key: "idle-client",
        head: "client memory each",
        source: Source::IdleClient,
        form: Form::Number(" KiB"),
        usual: RUNS,
        note: None,
    },
    Figure {
        key: "idle-server",
        head: "server memory each",
        source: Source::IdleServer,
        form: Form::Number(" KiB"),
        usual: RUNS,
        note: None,
    },
];

impl Figure {
    const fn of(
        key: &'static str,
        head: &'static str,
        reading: &'static str,
        form: Form,
        usual: (bool, bool),
    ) -> Self {
        Self {
            key,
            head,
            source: Source::Reading(reading),
            form,
            usual,
            note: None,
        }
    }

    /// The one of this key.
    pub(super) fn called(key: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.key == key)
    }

    /// Its name in a comparison; `None` where a comparison does not have it.
    pub(super) fn reading(&self) -> Option<&'static str> {
        match self.source {
            Source::Reading(name) => Some(name),
            Source::Client | Source::Idle | Source::IdleClient | Source::IdleServer => None,
        }
    }

    /// Median of the rounds (of the client's share the largest); `None` where one of them has none.
    pub(super) fn value(&self, rounds: &[Bundle]) -> Option<f64> {
        let value = match self.source {
            Source::Reading(name) => {
                let mut all = readings(rounds).into_iter();
                all.find(|reading| reading.name == name)?.summary()?.0
            }
            Source::Client => {
                let threads = rounds.iter().flat_map(|round| &round.client.thread_cpu);
                threads.copied().reduce(f64::max)?
            }
            Source::Idle => idle(rounds, |idle| Some(idle.answered))?
                .into_iter()
                .reduce(f64::min)?,
            Source::IdleClient => median(&idle(rounds, |idle| idle.client_bytes_each)?)? / KIB,
            Source::IdleServer => median(&idle(rounds, |idle| idle.server_bytes_each)?)? / KIB,
        };
        value.is_finite().then_some(value)
    }

    /// A value of it, with its unit.
    pub(super) fn shown(&self, value: Option<f64>) -> String {
        match (value, &self.form) {
            (None, _) => NOTHING.to_owned(),
            (Some(value), Form::Number(unit)) => format!("{}{unit}", digits(value)),
            (Some(value), Form::Time) => time(value),
            (Some(value), Form::Share) => format!("{} %", digits(value * 100.0)),
        }
    }
}

const KIB: f64 = 1024.0;

/// A count of the idle connections of each round; `None` where one of them has none.
fn idle(rounds: &[Bundle], of: fn(&IdleOutcome) -> Option<u64>) -> Option<Vec<f64>> {
    rounds
        .iter()
        .map(|round| {
            let count = of(round.outcome.idle.as_ref()?)?;
            #[expect(
                clippy::cast_precision_loss,
                reason = "a count far below 2^53, shown to three digits"
            )]
            Some(count as f64)
        })
        .collect()
}

/// The figures asked for, or those that are `usual` and that one of `all` has.
pub(super) fn chosen(
    asked: Option<&[&'static Figure]>,
    usual: fn(&Figure) -> bool,
    all: &[&[Bundle]],
) -> Vec<&'static Figure> {
    asked.map_or_else(
        || {
            FIGURES
                .iter()
                .filter(|figure| usual(figure))
                .filter(|figure| all.iter().any(|rounds| figure.value(rounds).is_some()))
                .collect()
        },
        <[_]>::to_vec,
    )
}

/// What all are called in a marker, for a message.
pub(crate) fn keys() -> String {
    let keys: Vec<&str> = FIGURES.iter().map(|figure| figure.key).collect();
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bundle::sample;

    #[test]
    fn every_figure_is_one_that_results_have() {
        let mut bundle = sample("x", 100, Duration::from_micros(300));
        bundle.outcome.connect = bundle.outcome.latency.clone();
        bundle.outcome.idle = Some(IdleOutcome {
            wanted: 3,
            opened: 2,
            ramp_s: 1.0,
            held_s: 1.0,
            answered: 2,
            errors: std::collections::BTreeMap::new(),
            error_examples: std::collections::BTreeMap::new(),
            client_bytes_each: Some(1024),
            server_bytes_each: Some(2048),
            connect: bundle.outcome.latency.clone(),
            answer: bundle.outcome.latency.clone(),
        });
        for figure in FIGURES {
            assert!(figure.value(&[bundle.clone()]).is_some(), "{}", figure.key);
            assert_eq!(Figure::called(figure.key), Some(figure), "{}", figure.key);
        }
    }
}
