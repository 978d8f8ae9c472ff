//! A table in Markdown, its columns aligned for those who read the document as text, and the lines beneath it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::figure::Figure;
use super::text::{digits, escape};
use crate::bundle::Bundle;
use crate::compare::failures;

/// Longest name of a processor and the like that is shown, characters.
const WORDS_MAX: usize = 80;
/// Longest reason against a run that is shown, characters.
const REASON_MAX: usize = 300;
/// Reasons that are shown of one row.
const REASONS_MAX: usize = 2;

/// Cells of a table. All are escaped.
pub(super) struct Grid {
    /// What each column is, and whether figures are in it: they stand to the right.
    heads: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub(super) fn new(heads: Vec<(String, bool)>) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// One more, with as many cells as there are columns.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn markdown(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let heads = self.heads.iter().skip(column).take(1).map(|(head, _)| head);
            cells.chain(heads).map(|cell| cell.chars().count()).max()
        };
        // At least as wide as `--:`.
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|column| width(column).unwrap_or(0).max(3))
            .collect();
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            for ((cell, (_, right)), width) in cells.zip(&self.heads).zip(&widths) {
                let _ = if *right {
                    write!(out, "| {cell:>width$} ")
                } else {
                    write!(out, "| {cell:<width$} ")
                };
            }
            out.push_str("|\n");
        };
        line(&mut self.heads.iter().map(|(head, _)| head.as_str()));
        let rules: Vec<String> = self
            .heads
            .iter()
            .zip(&widths)
            .map(|((_, right), width)| {
                if *right {
                    format!("{}:", "-".repeat(width - 1))
                } else {
                    "-".repeat(*width)
                }
            })
            .collect();
        line(&mut rules.iter().map(String::as_str));
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
        out
    }
}

/// Lines that each are of some rows: what is said of all is said once, without their names. A line begins with a word of
/// ours, so that no name makes a heading or a list of it.
#[derive(Default)]
pub(super) struct Notes {
    lines: Vec<(String, Vec<String>)>,
    rows: usize,
}

impl Notes {
    /// For a table of so many rows.
    pub(super) fn new(rows: usize) -> Self {
        Self {
            lines: Vec::new(),
            rows,
        }
    }

    /// `line` is said of `row`.
    pub(super) fn say(&mut self, row: &str, line: String) {
        match self.lines.iter_mut().find(|(said, _)| *said == line) {
            Some((_, rows)) => rows.push(row.to_owned()),
            None => self.lines.push((line, vec![row.to_owned()])),
        }
    }

    /// The same, always with the row's name.
    pub(super) fn say_of(&mut self, row: &str, line: &str) {
        self.lines.push((format!("Of {row}: {line}"), Vec::new()));
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        for (line, rows) in &self.lines {
            let _ = if rows.is_empty() || rows.len() == self.rows {
                writeln!(out, "{line}")
            } else {
                writeln!(out, "Of {}: {line}", rows.join(" and "))
            };
        }
        out
    }
}

/// What stands against the rounds of a row, or beside their figures.
pub(super) fn doubts(notes: &mut Notes, row: &str, rounds: &[&Bundle]) {
    if !valid(rounds) {
        let reasons = rounds.iter().flat_map(|round| &round.verdict.reasons);
        let reasons: BTreeSet<String> = reasons.map(|reason| escape(reason, REASON_MAX)).collect();
        let more = reasons.len().saturating_sub(REASONS_MAX);
        let mut said: Vec<String> = reasons.into_iter().take(REASONS_MAX).collect();
        if said.is_empty() {
            said.push("no reason is recorded".to_owned());
        }
        if more > 0 {
            said.push(format!("and {more} more"));
        }
        notes.say_of(row, &format!("**INVALID**, {}.", said.join("; ")));
    }
    let worst = rounds
        .iter()
        .map(|round| failures(round))
        .fold(0.0, f64::max);
    if worst > 0.0 {
        let of = if rounds.len() > 1 { " of a round" } else { "" };
        let worst = digits(worst * 100.0);
        notes.say_of(row, &format!("{worst} % of the requests{of} failed."));
    }
}

/// That there is more to know of the row than its figures tell.
pub(super) fn remarks(notes: &mut Notes, row: &str, rounds: &[&Bundle]) {
    if rounds.iter().any(|round| !round.verdict.remarks.is_empty()) {
        let line = "The results have remarks, which `stoq-bench report` shows.";
        notes.say(row, line.to_owned());
    }
}

pub(super) fn valid(rounds: &[&Bundle]) -> bool {
    rounds.iter().all(|round| round.verdict.valid)
}

/// What a reader has to be told of these figures.
pub(super) fn explained(figures: &[&Figure]) -> String {
    let notes: Vec<&str> = figures.iter().filter_map(|figure| figure.note).collect();
    notes.join(" ")
}

/// `5.00 s counted after 1 s of warm-up, on PROCESSOR, 2 cores (client on 1), Linux 6.18, 2026-01-02, by stoq-bench 0.1.0`.
pub(super) fn made(rounds: &[&Bundle]) -> String {
    let counted = rounds.iter().map(|round| round.outcome.elapsed_s);
    let least = digits(counted.clone().fold(f64::INFINITY, f64::min));
    let most = digits(counted.fold(0.0, f64::max));
    let counted = if least == most {
        most
    } else {
        format!("{least} to {most}")
    };
    let warmup = distinct(rounds, |round| digits(round.setup.warmup_s));
    let machine = distinct(rounds, |round| {
        let machine = &round.environment;
        format!(
            "{}, {} core{} (client on {}), Linux {}",
            escape(&machine.cpu, WORDS_MAX),
            machine.cores,
            if machine.cores == 1 { "" } else { "s" },
            escape(&machine.affinity, WORDS_MAX),
            escape(&machine.kernel, WORDS_MAX)
        )
    });
    let day = |round: &Bundle| {
        let day = round.began.split('T').next().unwrap_or_default();
        escape(day, WORDS_MAX)
    };
    let first = rounds.iter().map(|round| day(round)).min();
    let last = rounds.iter().map(|round| day(round)).max();
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    let days = if first == last {
        first
    } else {
        format!("{first} to {last}")
    };
    let version = distinct(rounds, |round| escape(&round.version, WORDS_MAX));
    format!(
        "{counted} s counted after {warmup} s of warm-up, on {machine}, {days}, by stoq-bench {version}"
    )
}

/// What they say, each once.
pub(super) fn distinct(rounds: &[&Bundle], say: impl Fn(&Bundle) -> String) -> String {
    let all: BTreeSet<String> = rounds.iter().map(|round| say(round)).collect();
    Vec::from_iter(all).join(" and ")
}
