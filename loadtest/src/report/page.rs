//! The page: banner, figures at a glance, plots, tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Run;
use super::axis::{amount, digits, time};
use super::plot::COLOURS;
use super::series;
use super::text::{escape, escape_to};
use crate::bundle::Bundle;
use crate::compare::{Spread, compare, readings};

const STYLE: &str = include_str!("style.css");

/// Figures shown at a glance: how they are called in [`readings`], and here.
const GLANCE: [(&str, &str); 4] = [
    ("answers a second", "Answers a second"),
    ("latency p50, µs", "Latency, median"),
    ("latency p99, µs", "Latency, 99th percentile"),
    (
        "server CPU, s per million answers",
        "Server CPU, s per million answers",
    ),
];

/// The page of these runs, whose [`label`](Run::label)s differ.
#[must_use]
pub fn page(title: &str, runs: &[Run]) -> String {
    let invalid = runs.iter().any(|run| !valid(run));
    let mut out = String::with_capacity(64 * 1024);
    let mark = if invalid { "INVALID – " } else { "" };
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>{mark}{0}</title><style>{STYLE}</style></head><body><main>\
         <header><p class=\"kind\">stoq-bench report</p><h1><bdi>{0}</bdi></h1><p class=\"sub\">{1}</p></header>",
        escape(title),
        subtitle(runs)
    );
    banner(&mut out, runs);
    glance(&mut out, runs);
    plots(&mut out, runs);
    figures(&mut out, runs);
    errors(&mut out, runs);
    setup(&mut out, runs);
    footer(&mut out, runs);
    out.push_str("</main></body></html>\n");
    out
}

fn valid(run: &Run) -> bool {
    run.rounds.iter().all(|round| round.verdict.valid)
}

/// When, and how much of it.
fn subtitle(runs: &[Run]) -> String {
    let rounds: Vec<&Bundle> = runs.iter().flat_map(|run| &run.rounds).collect();
    let began = rounds.iter().map(|round| round.began.as_str()).min();
    let counted: f64 = rounds.iter().map(|round| round.outcome.elapsed_s).sum();
    began.map_or_else(
        || "No runs.".to_owned(),
        |began| {
            format!(
                "Begun {}; {}, {}, {} s counted in all.",
                escape_to(began, 40),
                plural(runs.len(), "setup"),
                plural(rounds.len(), "round"),
                digits(counted)
            )
        },
    )
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Each sentence of each round's verdict once, behind the name of its run.
fn sentences(runs: &[Run], pick: fn(&Bundle) -> &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for run in runs {
        let mut rounds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (nth, round) in run.rounds.iter().enumerate() {
            for sentence in pick(round) {
                rounds.entry(sentence).or_default().push(nth + 1);
            }
        }
        for (sentence, of) in rounds {
            let of = if run.rounds.len() == 1 {
                String::new()
            } else {
                let of: Vec<String> = of.iter().map(ToString::to_string).collect();
                format!(", round {}", of.join(", "))
            };
            all.push(format!(
                "<li><b><bdi>{}</bdi>{of}</b>: <bdi>{}</bdi></li>",
                escape_to(&run.label, 80),
                escape(sentence)
            ));
        }
    }
    all
}

/// More remarks than this are folded away: the figures come first.
const REMARKS_OPEN: usize = 5;

fn banner(out: &mut String, runs: &[Run]) {
    let doubtful = runs.iter().filter(|run| !valid(run)).count();
    if runs.is_empty() {
        out.push_str("<div class=\"banner bad\"><strong>NOTHING</strong><p>There is no run to report.</p></div>");
    } else if doubtful == 0 {
        out.push_str(
            "<div class=\"banner\"><strong>VALID</strong><p>Every answer was checked, and nothing showed that the client, \
             rather than the server, was what limited a run.</p></div>",
        );
    } else {
        let which = if runs.len() == 1 {
            "This run says".to_owned()
        } else {
            format!("{doubtful} of {} runs say", runs.len())
        };
        let mut reasons = sentences(runs, |round| &round.verdict.reasons).concat();
        if reasons.is_empty() {
            reasons.push_str("<li>No reason is recorded.</li>");
        }
        let _ = write!(
            out,
            "<div class=\"banner bad\"><strong>INVALID</strong>\
             <p>{which} nothing about the server. The figures are shown so that the cause can be found.</p>\
             <ul>{reasons}</ul></div>"
        );
    }
    let remarks = sentences(runs, |round| &round.verdict.remarks);
    if !remarks.is_empty() {
        let (count, open) = match remarks.len() {
            1 => ("1 remark".to_owned(), " open=\"open\""),
            few @ ..=REMARKS_OPEN => (format!("{few} remarks"), " open=\"open\""),
            many => (format!("{many} remarks"), ""),
        };
        let _ = write!(
            out,
            "<details class=\"notes sub\"{open}><summary>{count}</summary><ul>{}</ul></details>",
            remarks.concat()
        );
    }
}

/// A figure for people: durations with their unit.
fn said(name: &str, value: f64) -> String {
    match name {
        name if name.ends_with(", µs") => time(value),
        "failures, share of those due" => format!("{} %", digits(value * 100.0)),
        _ => digits(value),
    }
}

fn key(nth: usize) -> String {
    format!("<span class=\"key c{}\"></span>", nth % COLOURS)
}

fn badge(run: &Run) -> &'static str {
    if valid(run) {
        ""
    } else {
        " <span class=\"badge\">INVALID</span>"
    }
}

fn glance(out: &mut String, runs: &[Run]) {
    let pair = match runs {
        [a, b] => Some(compare(&a.rounds, &b.rounds)),
        _ => None,
    };
    out.push_str("<section class=\"cards\">");
    for (name, title) in GLANCE {
        let mut rows = String::new();
        for (nth, run) in runs.iter().enumerate() {
            let reading = readings(&run.rounds)
                .into_iter()
                .find(|reading| reading.name == name);
            let Some((median, _)) = reading.and_then(|reading| reading.summary()) else {
                continue;
            };
            let _ = write!(
                rows,
                "<dt>{}<bdi>{}</bdi>{}</dt><dd>{}</dd>",
                key(nth),
                escape_to(&run.label, 60),
                badge(run),
                said(name, median)
            );
        }
        if rows.is_empty() {
            continue;
        }
        let _ = write!(out, "<div class=\"card\"><h3>{title}</h3><dl>{rows}</dl>");
        let figure = pair
            .iter()
            .flat_map(|pair| &pair.figures)
            .find(|figure| figure.name == name);
        if let Some(ratio) =
            figure.and_then(|figure| ratio(figure.ratio, figure.range, figure.spread))
        {
            let _ = write!(out, "<p class=\"ratio\">second to first: {ratio}</p>");
        }
        out.push_str("</div>");
    }
    out.push_str("</section>");
}

fn ratio(ratio: Option<f64>, range: Option<(f64, f64)>, spread: Spread) -> Option<String> {
    let ratio = format!("× {:.3}", ratio?);
    Some(match (range, spread) {
        (Some((low, high)), Spread::Rounds) => format!("{ratio}, rounds {low:.3}–{high:.3}"),
        (Some((low, high)), Spread::Quantile) => format!("{ratio}, 95 % {low:.3}–{high:.3}"),
        (_, Spread::None) | (None, _) => ratio,
    })
}

fn plots(out: &mut String, runs: &[Run]) {
    let legend = legend(runs);
    let open = runs
        .iter()
        .flat_map(|run| &run.rounds)
        .any(|round| round.setup.shape != "closed");
    let clock = if open {
        "From the moment a request was due to the last byte of its answer; in a closed loop, from its start."
    } else {
        "From the start of a request to the last byte of its answer, in a closed loop: the server sets the pace."
    };
    out.push_str("<h2>Plots</h2><section class=\"plots\">");
    let mut figure = |title: &str, note: &str, legend: &str, drawing: &str| {
        let _ = write!(
            out,
            "<figure><figcaption><h3>{title}</h3><p>{note}</p></figcaption>{legend}{drawing}</figure>"
        );
    };
    figure(
        "Latency by percentile",
        clock,
        &legend,
        &series::percentiles(runs),
    );
    figure(
        "Latency over time",
        "Solid: 99th percentile of each second. Dotted: its median.",
        &legend,
        &series::latency(runs),
    );
    figure(
        "Answers a second over time",
        "Right answers only, each checked.",
        &legend,
        &series::rate(runs),
    );
    if let Some(drawing) = series::errors(runs) {
        figure(
            "Failures a second over time",
            "Wrong, cut, refused and late answers.",
            &legend,
            &drawing,
        );
    }
    let spread = if runs.iter().any(|run| run.rounds.len() > 1) {
        " Median of the rounds, with their range."
    } else {
        ""
    };
    let bars = [
        (
            "server CPU, s per million answers",
            "for a million answers",
            "CPU seconds per million answers (= µs an answer)",
        ),
        (
            "server CPU, s per GB of body",
            "for a gigabyte of bodies",
            "CPU seconds per 10⁹ bytes",
        ),
    ];
    let drawings: String = bars
        .iter()
        .filter_map(|(name, title, unit)| {
            let drawing = series::bars_of(runs, name, title, unit)?;
            Some(format!("<h3>{title}</h3>{drawing}"))
        })
        .collect();
    if drawings.is_empty() {
        let why = "Not measured: the server's process was not named, or nothing was answered.";
        figure("Server CPU", why, "", "");
    } else {
        let note = format!("All threads, user and system.{spread} Shorter is better.");
        figure("Server CPU", &note, "", &drawings);
    }
    out.push_str("</section>");
}

fn legend(runs: &[Run]) -> String {
    let items: String = runs
        .iter()
        .enumerate()
        .map(|(nth, run)| {
            let label = escape_to(&run.label, 80);
            format!("<li>{}<bdi>{label}</bdi>{}</li>", key(nth), badge(run))
        })
        .collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"legend\">{items}</ul>")
}

/// The head of a table with a column for each run.
fn head(out: &mut String, title: &str, runs: &[Run], class: &str, more: &str) {
    let _ = write!(
        out,
        "<h2>{title}</h2><div class=\"scroll\"><table><thead><tr><th></th>"
    );
    for (nth, run) in runs.iter().enumerate() {
        let label = escape_to(&run.label, 80);
        let _ = write!(
            out,
            "<th class=\"{class}\">{}<bdi>{label}</bdi>{}</th>",
            key(nth),
            badge(run)
        );
    }
    let _ = write!(out, "{more}</tr></thead><tbody>");
}

fn figures(out: &mut String, runs: &[Run]) {
    let pair = match runs {
        [a, b] => Some(compare(&a.rounds, &b.rounds)),
        _ => None,
    };
    let more = if pair.is_some() {
        "<th class=\"n\">second to first</th>"
    } else {
        ""
    };
    head(out, "Figures", runs, "n", more);
    let all: Vec<_> = runs.iter().map(|run| readings(&run.rounds)).collect();
    let names = all
        .first()
        .into_iter()
        .flatten()
        .map(|reading| reading.name);
    for (row, name) in names.enumerate() {
        let summaries: Vec<_> = all
            .iter()
            .map(|of| of.get(row).and_then(|reading| reading.summary()))
            .collect();
        if summaries.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(out, "<tr><th>{}</th>", name.trim_end_matches(", µs"));
        for (summary, run) in summaries.iter().zip(runs) {
            match summary {
                None => out.push_str("<td class=\"n\">–</td>"),
                Some((median, (low, high))) => {
                    let _ = write!(out, "<td class=\"n\">{}", said(name, *median));
                    if run.rounds.len() > 1 {
                        let _ = write!(
                            out,
                            "<span class=\"range\">{} – {}</span>",
                            said(name, *low),
                            said(name, *high)
                        );
                    }
                    out.push_str("</td>");
                }
            }
        }
        if let Some(pair) = &pair {
            let figure = pair.figures.iter().find(|figure| figure.name == name);
            let said = figure.and_then(|figure| ratio(figure.ratio, figure.range, figure.spread));
            let _ = write!(
                out,
                "<td class=\"n\">{}</td>",
                said.unwrap_or_else(|| "–".to_owned())
            );
        }
        out.push_str("</tr>");
    }
    let after = if pair.is_some() { "<td></td>" } else { "" };
    for (name, of) in COUNTS {
        let _ = write!(out, "<tr><th>{name}</th>");
        for run in runs {
            let cells: Vec<String> = run.rounds.iter().map(of).collect();
            let same = cells.iter().collect::<BTreeSet<_>>().len() <= 1;
            let cell = if same {
                cells.first().cloned().unwrap_or_default()
            } else {
                cells.join(" · ")
            };
            let _ = write!(out, "<td class=\"n each\">{}</td>", escape(&cell));
        }
        let _ = write!(out, "{after}</tr>");
    }
    out.push_str("</tbody></table></div>");
    if runs.iter().any(|run| run.rounds.len() > 1) {
        out.push_str(
            "<p class=\"sub\">Over several rounds: the median, the smallest and largest below it. Percentiles in this table \
             are of each round; the plot merges the rounds.</p>",
        );
    }
}

/// A row of the table: its name, and what stands there for a round.
type Row = (&'static str, fn(&Bundle) -> String);

const COUNTS: [Row; 7] = [
    ("requests due", |round| digits(amount(round.outcome.due))),
    ("answered rightly", |round| {
        digits(amount(round.outcome.answered))
    }),
    ("failed, unanswered", |round| {
        let failed = round
            .outcome
            .errors
            .values()
            .fold(0_u64, |sum, count| sum.saturating_add(*count));
        format!(
            "{}, {}",
            digits(amount(failed)),
            digits(amount(round.outcome.unanswered))
        )
    }),
    ("connections opened (resumed, early data)", |round| {
        let outcome = &round.outcome;
        format!(
            "{} ({}, {})",
            digits(amount(outcome.connections_opened)),
            digits(amount(outcome.connections_resumed)),
            digits(amount(outcome.connections_early))
        )
    }),
    ("client: busiest thread, share of a core", |round| {
        let busiest = round.client.thread_cpu.iter().copied().reduce(f64::max);
        busiest.map_or_else(
            || "–".to_owned(),
            |share| format!("{} %", digits(share * 100.0)),
        )
    }),
    ("client: timers late by, p99", |round| {
        let lag = &round.client.lag;
        if lag.count == 0 {
            "–".to_owned()
        } else {
            time(lag.p99_us)
        }
    }),
    ("client: datagrams dropped", |round| {
        round
            .client
            .socket_drops
            .map_or_else(|| "–".to_owned(), |drops| digits(amount(drops)))
    }),
];

fn errors(out: &mut String, runs: &[Run]) {
    let mut counts: BTreeMap<&str, (Vec<u64>, Option<&str>)> = BTreeMap::new();
    for (nth, run) in runs.iter().enumerate() {
        for round in &run.rounds {
            for (kind, count) in &round.outcome.errors {
                let (row, example) = counts
                    .entry(kind)
                    .or_insert_with(|| (vec![0; runs.len()], None));
                if let Some(cell) = row.get_mut(nth) {
                    *cell = cell.saturating_add(*count);
                }
                *example =
                    example.or_else(|| round.outcome.error_examples.get(kind).map(String::as_str));
            }
        }
    }
    if counts.is_empty() {
        return;
    }
    head(
        out,
        "Failures",
        runs,
        "n",
        "<th class=\"text\">the first</th>",
    );
    for (kind, (row, example)) in counts.iter().take(50) {
        let _ = write!(out, "<tr><th><bdi>{}</bdi></th>", escape(kind));
        for count in row {
            let _ = write!(out, "<td class=\"n\">{}</td>", digits(amount(*count)));
        }
        let _ = write!(
            out,
            "<td class=\"text\"><bdi>{}</bdi></td></tr>",
            escape(example.unwrap_or(""))
        );
    }
    if counts.len() > 50 {
        let _ = write!(
            out,
            "<tr><th>and {} kinds more</th></tr>",
            counts.len() - 50
        );
    }
    out.push_str("</tbody></table></div>");
}

const SETUP: [Row; 17] = [
    ("target", |round| round.setup.target.clone()),
    ("protocol", |round| round.setup.protocol.clone()),
    ("load", |round| round.setup.shape.clone()),
    ("connections × streams", |round| {
        format!("{} × {}", round.setup.connections, round.setup.streams)
    }),
    ("sessions", |round| round.setup.session.clone()),
    ("workload", |round| round.setup.workload.clone()),
    ("seed", |round| round.setup.seed.to_string()),
    ("counted, after warm-up", |round| {
        format!(
            "{} s, {} s",
            digits(round.outcome.elapsed_s),
            digits(round.setup.warmup_s)
        )
    }),
    ("threads of the client", |round| {
        round.setup.threads.to_string()
    }),
    ("server", |round| {
        round.server.as_ref().map_or_else(
            || "process not named".to_owned(),
            |server| {
                format!(
                    "{}, may use {}",
                    server.command,
                    plural(server.cores as usize, "core")
                )
            },
        )
    }),
    ("processor", |round| round.environment.cpu.clone()),
    ("cores, of them the client's", |round| {
        format!(
            "{}, {}",
            round.environment.cores, round.environment.affinity
        )
    }),
    ("memory", |round| {
        format!(
            "{} GiB",
            digits(amount(round.environment.memory_bytes) / f64::from(1 << 30))
        )
    }),
    ("system", |round| {
        format!(
            "{}, kernel {}",
            round.environment.os, round.environment.kernel
        )
    }),
    ("MTU", |round| {
        round
            .environment
            .mtu
            .map_or_else(|| "not known".to_owned(), |mtu| format!("{mtu} bytes"))
    }),
    ("load average at the start", |round| {
        digits(round.environment.load)
    }),
    ("begun, by stoq-bench", |round| {
        format!("{}, {}", round.began, round.version)
    }),
];

fn setup(out: &mut String, runs: &[Run]) {
    head(out, "Setup and environment", runs, "", "");
    for (name, of) in SETUP {
        let _ = write!(out, "<tr><th>{name}</th>");
        let cells: Vec<String> = runs
            .iter()
            .map(|run| {
                let mut rounds: Vec<String> = run.rounds.iter().map(of).collect();
                rounds.dedup();
                rounds
                    .iter()
                    .map(|round| format!("<bdi>{}</bdi>", escape(round)))
                    .collect::<Vec<_>>()
                    .join("<br/>")
            })
            .collect();
        let same = cells.len() > 1 && cells.iter().all(|cell| Some(cell) == cells.first());
        if let (true, Some(cell)) = (same, cells.first()) {
            let _ = write!(
                out,
                "<td class=\"text\" colspan=\"{}\">{cell}</td>",
                cells.len()
            );
        } else {
            for cell in &cells {
                let _ = write!(out, "<td class=\"text\">{cell}</td>");
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

fn footer(out: &mut String, runs: &[Run]) {
    let raw: usize = runs.iter().map(|run| run.rounds.len()).sum();
    let _ = write!(
        out,
        "<footer><p>Made by stoq-bench {} from {} with their histograms, to 3 significant digits. This page fetches nothing.</p></footer>",
        env!("CARGO_PKG_VERSION"),
        plural(raw, "result")
    );
}
