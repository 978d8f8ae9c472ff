//! The table of runs: one row each.

use super::figure::{Figure, INVALID, chosen};
use super::grid::{Grid, Notes, distinct, doubts, explained, made, remarks, valid};
use super::text::{code, escape};
use crate::bundle::{Bundle, Setup};
use crate::report::{Run, runs};
use crate::results::Results;

/// Longest name of a run that is shown, characters.
const NAME_MAX: usize = 40;
/// Longest description of a workload, characters.
const WORKLOAD_MAX: usize = 60;

/// Files of runs as a table; several rounds in a file are one run, of which the medians are shown.
pub(super) fn table(results: Vec<Results>, figures: Option<&[&'static Figure]>) -> String {
    let runs = runs(results);
    let sets: Vec<&[Bundle]> = runs.iter().map(|run| run.rounds.as_slice()).collect();
    let figures = chosen(figures, |figure| figure.usual.0, &sets);
    // What all have in common is said once, beneath.
    let asked = |run: &Run| run.rounds.first().map(|round| round.setup.workload.clone());
    let common = runs.windows(2).all(|two| match two {
        [a, b] => asked(a) == asked(b),
        _ => true,
    });
    let mut heads = vec![
        ("run".to_owned(), false),
        ("load".to_owned(), false),
        ("conns × streams".to_owned(), true),
    ];
    heads.extend(figures.iter().map(|figure| (figure.head.to_owned(), true)));
    heads.push(("verdict".to_owned(), false));
    let mut grid = Grid::new(heads);
    let mut notes = Notes::new(runs.len());
    for run in &runs {
        let rounds: Vec<&Bundle> = run.rounds.iter().collect();
        let valid = valid(&rounds);
        let name = escape(&run.label, NAME_MAX);
        let mut cells = vec![
            name.clone(),
            distinct(&rounds, |round| load(&round.setup, !common)),
            distinct(&rounds, |round| {
                format!("{} × {}", round.setup.connections, round.setup.streams)
            }),
        ];
        cells.extend(figures.iter().map(|figure| {
            if valid {
                figure.shown(figure.value(&run.rounds))
            } else {
                INVALID.to_owned()
            }
        }));
        cells.push(if valid { "VALID" } else { INVALID }.to_owned());
        grid.row(cells);
        doubts(&mut notes, &name, &rounds);
    }
    for run in &runs {
        let rounds: Vec<&Bundle> = run.rounds.iter().collect();
        let name = escape(&run.label, NAME_MAX);
        notes.say(&name, conditions(&rounds, common));
        remarks(&mut notes, &name, &rounds);
    }
    let explained = explained(&figures);
    let explained = if explained.is_empty() {
        explained
    } else {
        format!("{explained}\n")
    };
    format!("{}\n{explained}{}", grid.markdown(), notes.markdown())
}

/// `h3 closed`, with the workload where runs differ in it.
fn load(setup: &Setup, workload: bool) -> String {
    let mut text = format!("{} {}", setup.protocol, setup.shape);
    if setup.session != "kept" {
        text = format!("{text}, {}", setup.session);
    }
    let text = escape(&text, WORKLOAD_MAX);
    if workload {
        format!("{text}, {}", escape(&setup.workload, WORKLOAD_MAX))
    } else {
        text
    }
}

fn conditions(rounds: &[&Bundle], workload: bool) -> String {
    let mut text = match rounds.len() {
        1 => String::new(),
        many => format!("Medians of {many} rounds, "),
    };
    text.push_str(&made(rounds));
    if workload {
        let asked = distinct(rounds, |round| escape(&round.setup.workload, WORKLOAD_MAX));
        text = format!("{text}; asked for: {asked}");
    }
    let servers = rounds.iter().filter_map(|round| round.server.as_ref());
    let mut servers: Vec<String> = servers.map(|server| code(&server.command)).collect();
    servers.sort();
    servers.dedup();
    if !servers.is_empty() {
        text = format!("{text}; server: {}", servers.join(" and "));
    }
    text.push('.');
    text
}
