//! Results as one HTML page that stands alone: no script, no font, no picture from anywhere else, so that it opens
//! offline and can be mailed.
//!
//! It is also well-formed XML, which the tests parse, and forbids itself to fetch anything (its content security policy).
//! Names, commands and messages in results are others' words and are shown as text, whatever they contain.

mod axis;
mod page;
mod plot;
mod series;
mod text;

use std::collections::BTreeMap;

pub use self::page::page;
use crate::bundle::Bundle;
use crate::results::Results;

/// Most runs on one page: more lines than this cannot be told apart.
pub const RUNS_MAX: usize = 24;

/// One setup and its rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What it is called; no two on a page are called alike.
    pub label: String,
    /// One or more.
    pub rounds: Vec<Bundle>,
}

/// The runs of several files, in their order; a pair gives two. A run without a name is called by what it measured, and
/// runs of the same name are numbered.
#[must_use]
pub fn runs(files: Vec<Results>) -> Vec<Run> {
    let mut sets = Vec::new();
    for file in files {
        match file {
            Results::Rounds(rounds) => sets.push(rounds),
            Results::Pair(mut pair) => {
                // What is not on the page is told beside it: rounds are of both sides.
                if let Some(last) = pair.b.last_mut() {
                    let told = pair.set_aside.iter();
                    let told = told.map(|round| format!("set aside and measured again: {round}"));
                    last.verdict.remarks.extend(told);
                }
                sets.extend([pair.a, pair.b]);
            }
        }
    }
    let labels: Vec<String> = sets.iter().map(|rounds| label(rounds)).collect();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for label in &labels {
        *times.entry(label).or_default() += 1;
    }
    let mut nth: BTreeMap<&str, usize> = BTreeMap::new();
    labels
        .iter()
        .zip(sets)
        .map(|(label, rounds)| {
            let at = nth.entry(label).or_default();
            *at += 1;
            let label = match times.get(label.as_str()) {
                Some(2..) => format!("{label} #{at}"),
                Some(_) | None => label.clone(),
            };
            Run { label, rounds }
        })
        .collect()
}

fn label(rounds: &[Bundle]) -> String {
    let Some(first) = rounds.first() else {
        return "nothing".to_owned();
    };
    if first.name.trim().is_empty() {
        let setup = &first.setup;
        format!("{} {} {}", setup.protocol, setup.target, setup.workload)
    } else {
        first.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bundle::{Distribution, Tick, sample};

    fn one(bundle: Bundle) -> Vec<Run> {
        runs(vec![Results::Rounds(vec![bundle])])
    }

    /// The page, after a look at what every page has to hold to.
    fn sound(title: &str, runs: &[Run]) -> String {
        let page = page(title, runs);
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..roxmltree::ParsingOptions::default()
        };
        let read = roxmltree::Document::parse_with_options(&page, options)
            .unwrap_or_else(|error| panic!("{error}\n{page}"));
        for element in read.descendants().filter(roxmltree::Node::is_element) {
            let name = element.tag_name().name();
            assert!(
                ![
                    "script", "link", "img", "iframe", "object", "image", "use", "a"
                ]
                .contains(&name),
                "<{name}>"
            );
            for attribute in element.attributes() {
                let (name, value) = (attribute.name(), attribute.value());
                assert!(!name.starts_with("on"), "{name}");
                assert!(
                    !["src", "href", "style", "data", "xlink:href"].contains(&name),
                    "{name}"
                );
                assert!(
                    !value.contains("NaN") && !value.contains("inf"),
                    "{name}={value}"
                );
                if name == "d" {
                    assert!(value.starts_with('M'), "{value}");
                }
            }
            if name == "style" {
                let css = element.text().unwrap_or_default();
                assert!(!css.contains("url(") && !css.contains("@import") && !css.contains("//"));
            }
        }
        page
    }

    #[test]
    fn a_page_stands_alone_and_shows_every_run() {
        let a = sample("plain", 4000, Duration::from_micros(300));
        let b = sample("edge", 8000, Duration::from_micros(150));
        let runs = runs(vec![
            Results::Rounds(vec![a.clone(), a]),
            Results::Rounds(vec![b]),
        ]);
        let page = sound("Two servers", &runs);
        for text in [
            "Two servers",
            "plain",
            "edge",
            "VALID",
            "99.9",
            "a processor",
            "2000",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("INVALID"));
    }

    #[test]
    fn an_invalid_run_cannot_be_overlooked() {
        let mut bundle = sample("x", 100, Duration::from_micros(300));
        bundle.verdict.valid = false;
        bundle.verdict.reasons = vec!["thread 0 of the client was at 99 % of its core".to_owned()];
        let page = sound("x", &one(bundle));
        assert!(page.contains("class=\"banner bad\"") && page.contains("<strong>INVALID</strong>"));
        assert!(page.contains("thread 0 of the client was at 99 %"));
        assert!(page.contains("<title>INVALID – "));
    }

    #[test]
    fn names_that_are_markup_are_shown_as_text() {
        let evil = "</title><script>alert(1)</script><svg onload='x'>\"&\u{0}\u{202e}";
        let mut bundle = sample(evil, 100, Duration::from_micros(300));
        bundle.setup.target = evil.to_owned();
        bundle.setup.workload = evil.to_owned();
        bundle.environment.cpu = evil.to_owned();
        bundle.began = evil.to_owned();
        bundle.version = evil.to_owned();
        bundle.verdict.valid = false;
        bundle.verdict.reasons = vec![evil.to_owned()];
        bundle.verdict.remarks = vec![evil.to_owned()];
        bundle.outcome.errors.insert(evil.to_owned(), 3);
        bundle
            .outcome
            .error_examples
            .insert(evil.to_owned(), evil.to_owned());
        if let Some(server) = &mut bundle.server {
            server.command = evil.to_owned();
        }
        let twice = runs(vec![
            Results::Rounds(vec![bundle.clone()]),
            Results::Rounds(vec![bundle]),
        ]);
        let page = sound(evil, &twice);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)"));
    }

    #[test]
    fn a_run_of_nothing_or_of_one_answer_has_a_page() {
        let mut nothing = sample("nothing", 0, Duration::from_micros(300));
        nothing.outcome.series = Vec::new();
        nothing.outcome.latency = Distribution::default();
        nothing.outcome.elapsed_s = 0.0;
        nothing.server = None;
        let page = sound("nothing", &one(nothing.clone()));
        assert!(page.contains("Nothing was measured here"));
        let mut single = sample("one", 1, Duration::from_micros(300));
        single.outcome.series.truncate(1);
        sound("one", &one(single.clone()));
        sound("both", &runs(vec![Results::Rounds(vec![nothing, single])]));
        sound("none", &[]);
    }

    #[test]
    fn seconds_that_cannot_be_do_not_break_a_plot() {
        let mut bundle = sample("odd", 100, Duration::from_micros(300));
        let tick = |at_s: f64, errors: u64, p99_us: f64| Tick {
            at_s,
            requests: u64::MAX,
            body_bytes: 0,
            errors,
            p50_us: 0.0,
            p99_us,
        };
        bundle.outcome.series = vec![
            tick(1.0, 3, 1e308),
            tick(1.0, u64::MAX, 0.0),
            tick(0.5, 0, f64::MIN_POSITIVE),
            tick(1e308, 1, 7.0),
        ];
        bundle.outcome.errors.insert("all".to_owned(), u64::MAX);
        bundle.outcome.errors.insert("more".to_owned(), u64::MAX);
        sound("odd", &one(bundle));
    }

    #[test]
    fn runs_of_one_name_are_numbered() {
        let bundle = sample("x", 10, Duration::from_micros(300));
        let set = || Results::Rounds(vec![bundle.clone()]);
        let labels: Vec<String> = runs(vec![set(), set()])
            .into_iter()
            .map(|run| run.label)
            .collect();
        assert_eq!(labels, ["x #1", "x #2"]);
    }
}
