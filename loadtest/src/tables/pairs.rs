//! The table of pairs that `ab` measured: a row for each figure of each, with the ratio and its range.

use super::figure::{Figure, INVALID, NOTHING, chosen};
use super::grid::{Grid, Notes, distinct, doubts, explained, made, remarks, valid};
use super::text::{code, digits, escape};
use crate::bundle::Bundle;
use crate::compare::{Comparison, Spread, compare};
use crate::results::Pair;

/// Longest name of a side that is shown, characters.
const NAME_MAX: usize = 24;
/// Longest description of a load, characters.
const LOAD_MAX: usize = 60;

/// Pairs as a table.
pub(super) fn table(pairs: &[Pair], figures: Option<&[&'static Figure]>) -> String {
    let sets: Vec<&[Bundle]> = pairs.iter().flat_map(|pair| [&*pair.a, &*pair.b]).collect();
    let figures = chosen(figures, |figure| figure.usual.1, &sets);
    let compared: Vec<Comparison> = pairs.iter().map(|pair| compare(&pair.a, &pair.b)).collect();
    let names = |one: &Comparison| (one.a.clone(), one.b.clone());
    let common = compared.first().map(names);
    let common = common.filter(|first| compared.iter().all(|one| names(one) == *first));
    let (a, b) = match &common {
        Some((a, b)) => (format!("A: {}", name(a)), format!("B: {}", name(b))),
        None => ("A".to_owned(), "B".to_owned()),
    };
    let mut grid = Grid::new(
        [("load", false), ("figure", false), (&*a, true), (&*b, true)]
            .into_iter()
            .chain([("B/A", true), ("range", true)])
            .map(|(head, right)| (head.to_owned(), right))
            .collect(),
    );
    let mut spreads = Vec::new();
    let mut notes = Notes::new(pairs.len());
    let labels: Vec<String> = pairs
        .iter()
        .zip(&compared)
        .map(|(pair, one)| label(pair, common.is_none().then_some(one)))
        .collect();
    for ((pair, one), label) in pairs.iter().zip(&compared).zip(&labels) {
        let valid = valid(&both(pair));
        for (nth, figure) in figures.iter().enumerate() {
            // Of a load that stands above, the further rows say nothing.
            let first = if nth == 0 { &**label } else { "" };
            let mut cells = vec![first.to_owned(), figure.head.to_owned()];
            if valid {
                cells.extend([&pair.a, &pair.b].map(|side| figure.shown(figure.value(side))));
                cells.extend(ratio(figure, one, &mut spreads));
            } else {
                // A round that cannot be believed leaves nothing to compare with.
                cells.extend([INVALID; 4].map(str::to_owned));
            }
            grid.row(cells);
        }
        for (side, rounds) in [("A", &pair.a), ("B", &pair.b)] {
            let rounds: Vec<&Bundle> = rounds.iter().collect();
            doubts(&mut notes, &format!("{label}, {side}"), &rounds);
        }
        for (what, lines) in [("machines", &one.unlike), ("loads", &one.loads)] {
            for line in lines {
                let line = escape(line, 2 * LOAD_MAX);
                notes.say_of(label, &format!("the {what} of A and B differ in {line}."));
            }
        }
    }
    for (pair, label) in pairs.iter().zip(&labels) {
        let rounds = match (pair.a.len(), pair.b.len()) {
            (1, 1) => "A and then B, one round each".to_owned(),
            (a, b) if a == b => format!("Medians of {a} rounds each, A and B in turn"),
            (a, b) => format!("Medians of {a} rounds of A and {b} of B"),
        };
        notes.say(label, format!("{rounds}, {}.", made(&both(pair))));
        match pair.set_aside.len() {
            0 => {}
            1 => notes.say_of(label, "half a round was INVALID; it was measured again."),
            halves => notes.say_of(
                label,
                &format!("{halves} halves of rounds were INVALID; they were measured again."),
            ),
        }
        for (side, command) in [("A", &pair.command_a), ("B", &pair.command_b)] {
            notes.say(label, format!("{side} is {}.", code(command)));
        }
        remarks(&mut notes, label, &both(pair));
    }
    let mut said = explained(&figures);
    for (spread, sentence) in [
        (
            Spread::Rounds,
            "The range is that of the ratios of rounds run one after the other.",
        ),
        (
            Spread::Quantile,
            "A range marked 95 % is that of chance within one run, and of nothing else.",
        ),
    ] {
        if spreads.contains(&spread) {
            said = format!("{said} {sentence}");
        }
    }
    let said = said.trim();
    let said = if said.is_empty() {
        String::new()
    } else {
        format!("{said}\n")
    };
    format!("{}\n{said}{}", grid.markdown(), notes.markdown())
}

fn both(pair: &Pair) -> Vec<&Bundle> {
    pair.a.iter().chain(&pair.b).collect()
}

fn name(text: &str) -> String {
    if text.trim().is_empty() {
        "without a name".to_owned()
    } else {
        escape(text, NAME_MAX)
    }
}

/// `/1024, h3 closed, 10 × 32`, with what is compared where rows differ in it.
fn label(pair: &Pair, named: Option<&Comparison>) -> String {
    let rounds = both(pair);
    let asked = distinct(&rounds, |round| {
        let setup = &round.setup;
        let mut load = format!("{} {}", setup.protocol, setup.shape);
        if setup.session != "kept" {
            load = format!("{load}, {}", setup.session);
        }
        let (workload, load) = (escape(&setup.workload, LOAD_MAX), escape(&load, LOAD_MAX));
        format!(
            "{workload}, {load}, {} × {}",
            setup.connections, setup.streams
        )
    });
    match named {
        Some(one) => format!("{} and {}: {asked}", name(&one.a), name(&one.b)),
        None => asked,
    }
}

fn ratio(figure: &Figure, one: &Comparison, spreads: &mut Vec<Spread>) -> [String; 2] {
    let found = figure.reading().and_then(|reading| {
        let mut all = one.figures.iter();
        all.find(|figure| figure.name == reading)
    });
    let nothing = || NOTHING.to_owned();
    let Some(found) = found else {
        return [nothing(), nothing()];
    };
    let ratio = found.ratio.filter(|ratio| ratio.is_finite());
    let range = match (found.range, found.spread) {
        (Some((low, high)), Spread::Rounds | Spread::Quantile)
            if low.is_finite() && high.is_finite() =>
        {
            spreads.push(found.spread);
            let mark = if found.spread == Spread::Quantile {
                " (95 %)"
            } else {
                ""
            };
            format!("{}–{}{mark}", digits(low), digits(high))
        }
        (_, Spread::Rounds | Spread::Quantile | Spread::None) => nothing(),
    };
    [ratio.map_or_else(nothing, digits), range]
}
