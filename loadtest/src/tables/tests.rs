//! Documents and tables as a reader of the repository meets them.

use std::time::Duration;

use super::*;
use crate::bundle::{Bundle, sample};
use crate::results::{PAIR_FORMAT, Pair};

fn run(name: &str, micros: u64) -> Bundle {
    sample(name, 4000, Duration::from_micros(micros))
}

fn rounds(bundles: Vec<Bundle>) -> Results {
    Results::Rounds(bundles)
}

fn pair(a: Vec<Bundle>, b: Vec<Bundle>) -> Results {
    Results::Pair(Box::new(Pair {
        format: PAIR_FORMAT.to_owned(),
        name: "a and b".to_owned(),
        command_a: "edge --config `x`\n".to_owned(),
        command_b: "plain_h3".to_owned(),
        a,
        b,
        set_aside: Vec::new(),
    }))
}

/// What comes of a document whose files are these, in the order in which they are named.
fn made(document: &str, files: Vec<Results>) -> Result<Regenerated, TablesError> {
    let mut files = files.into_iter();
    regenerate(document, |_| Ok(files.next().unwrap()))
}

/// The table of a block with these files, behind a look at what every table has to hold to.
fn table(words: &str, files: Vec<Results>) -> String {
    let document = format!("<!-- stoq-bench: {words} -->\n<!-- end of table -->\n");
    let made = made(&document, files).unwrap();
    let new = made.stale.into_iter().next().unwrap().new;
    let grid: Vec<&str> = new.lines().filter(|line| line.starts_with('|')).collect();
    // A bar that is not escaped is the end of a cell.
    let bars = |line: &str| line.matches('|').count() - line.matches("\\|").count();
    assert!(grid.len() > 2, "{new}");
    for line in &grid {
        assert_eq!(bars(line), bars(grid[0]), "{new}");
        assert_eq!(line.chars().count(), grid[0].chars().count(), "{new}");
    }
    let lines = new.lines().map(|line| mark(line).unwrap());
    assert!(
        lines.into_iter().all(|mark| matches!(mark, Mark::None)),
        "{new}"
    );
    new
}

/// Cells of the row that begins with `first`.
fn cells(table: &str, first: &str) -> Vec<String> {
    let start = format!("| {first} ");
    let line = table.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no row {first} in\n{table}"));
    let cells = line.trim_matches('|').split('|');
    cells.map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn runs_have_a_row_each_and_what_they_share_beneath() {
    let mut b = run("plain", 1500);
    b.setup.shape = "constant 10000/s".to_owned();
    let table = table(
        "a.json b.json",
        vec![rounds(vec![run("edge", 300)]), rounds(vec![b])],
    );
    assert_eq!(
        cells(&table, "run"),
        [
            "run",
            "load",
            "conns × streams",
            "answers/s",
            "p50",
            "p99",
            "CPU/answer",
            "client",
            "verdict"
        ]
    );
    assert_eq!(
        cells(&table, "edge"),
        [
            "edge",
            "h3 closed",
            "10 × 32",
            "1,000",
            "300 µs",
            "594 µs",
            "1.00 ms",
            "50.0 %",
            "VALID"
        ]
    );
    assert_eq!(cells(&table, "plain")[1], "h3 constant 10000/s");
    assert!(
        table
            .lines()
            .filter(|line| line.starts_with('|'))
            .all(|line| line.chars().count() <= 120)
    );
    assert_eq!(
        table.trim_end().lines().last().unwrap(),
        "4.00 s counted after 1.00 s of warm-up, on a processor, 2 cores (client on 1), Linux 6.0, 2026-01-02, by \
         stoq-bench 0; asked for: /1024; server: `server`."
    );
}

#[test]
fn several_rounds_are_one_row_of_medians_and_machines_are_told_apart() {
    let mut other = run("b", 300);
    other.environment.kernel = "7.0".to_owned();
    let first = [100, 200, 900].map(|micros| run("a", micros));
    let table = table(
        "a.json b.json",
        vec![rounds(first.into()), rounds(vec![other])],
    );
    assert_eq!(cells(&table, "a")[4], "200 µs");
    assert!(
        table.contains("Of a: Medians of 3 rounds, 4.00 s counted"),
        "{table}"
    );
    assert!(table.contains("Of b: 4.00 s counted"), "{table}");
    assert!(
        table.contains("Linux 6.0") && table.contains("Linux 7.0"),
        "{table}"
    );
}

#[test]
fn of_an_invalid_run_no_figure_is_shown() {
    let mut bundle = run("edge", 300);
    bundle.verdict.valid = false;
    bundle.verdict.reasons = vec!["the client | was\nthe bottleneck".to_owned()];
    for words in ["a.json", "a.json figures=p50,rate,client"] {
        let table = table(words, vec![rounds(vec![run("edge", 300), bundle.clone()])]);
        let cells = cells(&table, "edge");
        assert!(cells[3..].iter().all(|cell| cell == "INVALID"), "{table}");
        assert!(
            table.contains("Of edge: **INVALID**, the client \\| was the bottleneck."),
            "{table}"
        );
        assert!(!table.contains("300 µs"), "{table}");
    }
}

#[test]
fn failures_and_remarks_are_told() {
    let mut bundle = run("edge", 300);
    bundle.outcome.errors.insert("status 503".to_owned(), 40);
    bundle.verdict.remarks = vec!["x".to_owned()];
    let table = table("a.json", vec![rounds(vec![bundle])]);
    assert!(
        table.contains("Of edge: 1.00 % of the requests failed."),
        "{table}"
    );
    assert!(table.contains("\nThe results have remarks"), "{table}");
}

#[test]
fn figures_are_chosen_and_what_was_not_measured_is_not_shown_as_a_figure() {
    let mut bundle = run("edge", 300);
    bundle.server = None;
    let files = || vec![rounds(vec![bundle.clone()])];
    let usual = table("a.json", files());
    assert!(!usual.contains("CPU"), "{usual}");
    let asked = table("figures=cpu,p99.9 a.json", files());
    assert_eq!(
        cells(&asked, "edge"),
        ["edge", "h3 closed", "10 × 32", "–", "600 µs", "VALID"]
    );
}

#[test]
fn a_pair_has_a_row_for_each_figure_with_ratio_and_range() {
    let side = |name: &str, base: u64| -> Vec<Bundle> {
        [2, 3, 4].map(|slow| run(name, base * slow)).into()
    };
    let large = || {
        let mut all = side("plain_h3", 2000);
        for round in &mut all {
            round.setup.workload = "/1048576".to_owned();
        }
        all
    };
    let mut a = large();
    for round in &mut a {
        round.name = "edge".to_owned();
    }
    let table = table(
        "small.json large.json",
        vec![
            pair(side("edge", 100), side("plain_h3", 200)),
            pair(a, large()),
        ],
    );
    assert_eq!(
        cells(&table, "load"),
        ["load", "figure", "A: edge", "B: plain_h3", "B/A", "range"]
    );
    assert_eq!(
        cells(&table, "/1024, h3 closed, 10 × 32"),
        [
            "/1024, h3 closed, 10 × 32",
            "answers/s",
            "1,000",
            "1,000",
            "1.00",
            "1.00–1.00"
        ]
    );
    let p99 = table.lines().find(|line| line.contains("| p99 ")).unwrap();
    assert!(
        p99.contains("|  594 µs |") && p99.contains(" 1.19 ms |"),
        "{table}"
    );
    assert!(p99.contains("| 2.00 |"), "{table}");
    assert!(table.contains("| /1048576, h3 closed, 10 × 32 "), "{table}");
    assert!(
        table.contains("Medians of 3 rounds each, A and B in turn, 4.00 s"),
        "{table}"
    );
    assert!(
        table.contains("\nA is ``edge --config `x` ``.\nB is `plain_h3`.\n"),
        "{table}"
    );
    assert!(
        table.contains("ratios of rounds run one after the other."),
        "{table}"
    );
    assert!(
        table
            .lines()
            .filter(|line| line.starts_with('|'))
            .all(|line| line.chars().count() <= 120)
    );
}

#[test]
fn one_invalid_round_leaves_nothing_of_its_pair() {
    let mut bad = run("b", 200);
    bad.verdict.valid = false;
    bad.verdict.reasons = vec!["late".to_owned()];
    let table = table(
        "x.json y.json",
        vec![
            pair(vec![run("a", 100), run("a", 100)], vec![run("b", 200), bad]),
            pair(vec![run("a", 100)], vec![run("c", 200)]),
        ],
    );
    let first = cells(&table, "a and b: /1024, h3 closed, 10 × 32");
    assert_eq!(first[2..], ["INVALID"; 4]);
    assert!(
        table.contains("Of a and b: /1024, h3 closed, 10 × 32, B: **INVALID**, late."),
        "{table}"
    );
    // The other pair stands, with intervals of one run each where there are any.
    let other = cells(&table, "a and c: /1024, h3 closed, 10 × 32");
    assert_eq!(other[2..], ["1,000", "1,000", "1.00", "–"]);
    assert!(
        table.contains("(95 %)") && table.contains("chance within one run"),
        "{table}"
    );
}

#[test]
fn what_differs_between_the_sides_of_a_pair_is_told() {
    let mut b = run("b", 100);
    b.environment.kernel = "7.0".to_owned();
    b.setup.streams = 1;
    let table = table("x.json", vec![pair(vec![run("a", 100)], vec![b])]);
    assert!(
        table.contains("the machines of A and B differ in kernel: 6.0 and 7.0."),
        "{table}"
    );
    assert!(
        table.contains("the loads of A and B differ in streams: 32 and 1."),
        "{table}"
    );
}

#[test]
fn others_words_add_no_cell_no_line_and_no_element() {
    let evil = "# x | `y`\n<!-- end of table -->\n<script>\u{202e}\\";
    let mut bundle = run(evil, 100);
    bundle.setup.workload = evil.to_owned();
    bundle.setup.protocol = evil.to_owned();
    bundle.setup.shape = evil.to_owned();
    bundle.setup.session = evil.to_owned();
    bundle.environment.cpu = evil.to_owned();
    bundle.environment.kernel = evil.to_owned();
    bundle.environment.affinity = evil.to_owned();
    bundle.began = evil.to_owned();
    bundle.version = evil.to_owned();
    bundle.verdict.reasons = vec![evil.to_owned()];
    bundle.verdict.valid = false;
    if let Some(server) = &mut bundle.server {
        server.command = evil.to_owned();
    }
    let mut many = vec![bundle.clone(), run("other", 100)];
    many[1].setup.workload = "/2".to_owned();
    let many = many
        .into_iter()
        .map(|bundle| rounds(vec![bundle]))
        .collect();
    let runs = table("a.json b.json", many);
    let pairs = table(
        "a.json b.json",
        vec![
            pair(vec![bundle.clone()], vec![bundle.clone()]),
            pair(vec![bundle], vec![run("c", 1)]),
        ],
    );
    for text in [runs, pairs] {
        let outside_code = text.lines().filter(|line| !line.contains("``"));
        for line in outside_code {
            assert!(!line.contains('<') && !line.starts_with('#'), "{text}");
        }
        assert!(!text.contains('\u{202e}'), "{text}");
    }
}

#[test]
fn results_of_run_and_of_ab_are_not_mixed() {
    let one = run("a", 100);
    let error = made(
        "\n<!-- stoq-bench: a.json b.json -->\n<!-- end of table -->",
        vec![
            rounds(vec![one.clone()]),
            pair(vec![one.clone()], vec![one]),
        ],
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("2: ") && error.contains("block of its own"),
        "{error}"
    );
}

#[test]
fn a_document_that_is_what_its_results_give_stays_as_it_is() {
    let document = "# x\r\n<!--stoq-bench:a.json-->\r\n<!-- end of table -->\r\ntext\r\n\
                    <!-- stoq-bench: b.json figures=p50 -->\r\nold\r\n<!-- end of table -->";
    let files = || vec![rounds(vec![run("a", 100)]), rounds(vec![run("b", 100)])];
    let first = made(document, files()).unwrap();
    assert_eq!((first.tables, first.stale.len()), (2, 2));
    assert_eq!((first.stale[0].line, first.stale[1].line), (2, 5));
    assert!(
        first
            .text
            .starts_with("# x\r\n<!--stoq-bench:a.json-->\r\n\r\n| run ")
    );
    assert!(
        first
            .text
            .contains("<!-- end of table -->\r\ntext\r\n<!-- stoq-bench: b.json")
    );
    assert!(first.text.ends_with("\r\n<!-- end of table -->") && !first.text.contains("old"));
    assert!(first.text.lines().count() > 10 && !first.text.replace("\r\n", "").contains('\n'));
    let second = made(&first.text, files()).unwrap();
    assert_eq!((second.text, second.stale.len()), (first.text, 0));
}

#[test]
fn a_difference_shows_the_lines_that_differ_and_where() {
    let stale = |old: &str, new: &str| Stale {
        line: 7,
        old: old.to_owned(),
        new: new.to_owned(),
    };
    let head =
        |line: usize| format!("--- R.md:{line}, as it stands\n+++ R.md:{line}, from the results\n");
    for (old, new, difference) in [
        ("a\nb\nc\n", "a\nx\nc\n", format!("{}-b\n+x\n", head(9))),
        ("", "a\nb\n", format!("{}+a\n+b\n", head(8))),
        ("a\na\n", "a\n", format!("{}-a\n", head(9))),
        (
            "a\r\n",
            "a\n",
            format!("{}the ends of lines differ\n", head(9)),
        ),
    ] {
        assert_eq!(stale(old, new).difference("R.md"), difference);
    }
}

#[test]
fn a_marker_that_is_wrong_is_refused_with_its_line_and_what_to_do() {
    let end = "<!-- end of table -->";
    for (document, line, fix) in [
        (
            "a\n<!-- stoq-bench: a.json -->\ntext\n".to_owned(),
            2,
            "write a line `<!-- end of table -->`",
        ),
        (format!("\n{end}\n"), 2, "none has begun"),
        (
            format!("<!-- stoq-bench: a.json -->\n<!-- stoq-bench: b.json -->\n{end}\n"),
            2,
            "within the one of line 1",
        ),
        (
            format!("<!-- stoq-bench: -->\n{end}"),
            1,
            "no file is named",
        ),
        (
            format!("<!-- stoq-bench: figures=p50 -->\n{end}"),
            1,
            "no file is named",
        ),
        (
            format!("<!-- stoq-bench: /a.json -->\n{end}"),
            1,
            "absolute",
        ),
        (
            format!("<!-- stoq-bench: a.json columns=p50 -->\n{end}"),
            1,
            "`columns=p50`: the one option",
        ),
        (
            format!("<!-- stoq-bench: a.json figures=p50,p51 -->\n{end}"),
            1,
            "`p51` is no figure",
        ),
        (
            format!("<!-- stoq-bench: a.json figures=p50,p50 -->\n{end}"),
            1,
            "`p50` is no figure or is there twice",
        ),
        (
            format!("<!-- stoq-bench: a.json figures= -->\n{end}"),
            1,
            "`` is no figure",
        ),
        (
            format!("<!-- stoq-bench: a.json figures=p50 figures=p99 -->\n{end}"),
            1,
            "once",
        ),
        (
            format!("<!-- stoq-bench: {} -->\n{end}", "a.json ".repeat(25)),
            1,
            "25 files",
        ),
        (
            format!("<!-- stoq-bench a.json -->\n{end}"),
            1,
            "alone on its line",
        ),
        (
            format!("<!-- stoq-bench: a.json\n-->\n{end}"),
            1,
            "alone on its line",
        ),
        (
            format!(" <!-- stoq-bench: a.json -->\n{end}"),
            1,
            "alone on its line",
        ),
        (
            format!("<!-- stoq-bench: a.json --> x -->\n{end}"),
            1,
            "alone on its line",
        ),
        (
            format!("<!-- stoq-bench: a.json -->\n  {end}"),
            2,
            "alone on its line",
        ),
    ] {
        let error = blocks(&document).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.line, line, "{document}: {text}");
        assert!(
            text.starts_with(&format!("{line}: ")) && text.contains(fix),
            "{document}: {text}"
        );
    }
}

#[test]
fn code_and_other_comments_are_left_alone() {
    let document = "```md\n<!-- stoq-bench: a.json -->\n```\n<!-- a comment -->\n<!-- stoq-benchmarks -->\n\
                    `<!-- stoq-bench: x -->`\n~~~~\n```\n~~~\n<!-- end of table -->\n~~~~\n``` a ` b\n\
                    <!-- stoq-bench: b.json -->\n```\n<!-- end of table -->\n";
    let blocks = blocks(document).unwrap();
    assert_eq!(blocks.len(), 1);
    assert_eq!((blocks[0].line, &blocks[0].files[0][..]), (13, "b.json"));
    assert_eq!(&document[blocks[0].inside.clone()], "```\n");
}

#[test]
fn a_result_that_cannot_be_read_is_an_error_of_its_block() {
    let document = "\n\n<!-- stoq-bench: gone.json -->\n<!-- end of table -->\n";
    let load = |file: &str| Results::load(std::path::Path::new(file));
    let error = regenerate(document, load).unwrap_err().to_string();
    assert!(
        error.starts_with("3: gone.json: ") && error.contains("correct the path"),
        "{error}"
    );
}

proptest::proptest! {
    #[test]
    fn whatever_a_document_holds_all_but_its_tables_stays(
        lines in proptest::collection::vec(
            "<!-- stoq-bench: a.json -->|<!-- end of table -->|```|~~~|\\| x|\\PC{0,8}", 0..20),
        ends in "\n|\r\n",
    ) {
        let document = lines.join(&ends);
        if let Ok(blocks) = blocks(&document) {
            let load = |_: &str| Ok(rounds(vec![run("a", 100)]));
            let made = regenerate(&document, load).unwrap();
            // Without what is between the markers both are the same.
            let bare = |text: &str, blocks: &[Block]| {
                let mut left = String::new();
                let mut at = 0;
                for block in blocks {
                    left.push_str(&text[at..block.inside.start]);
                    at = block.inside.end;
                }
                left + &text[at..]
            };
            let after = super::blocks(&made.text).unwrap();
            proptest::prop_assert_eq!(bare(&document, &blocks), bare(&made.text, &after));
            proptest::prop_assert_eq!(made.tables, after.len());
        }
    }
}
