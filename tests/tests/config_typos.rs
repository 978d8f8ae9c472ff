//! Every slip of one character in a key or table name of a configuration is refused, at its line and column, with the
//! key that was meant.
//!
//! The texts are the reference files of an edge alone, of an edge behind a shield and of a shield, and `configs/edge.toml`
//! and `configs/shield.toml` with everything that is commented out there taken in, so that every key there is takes part.
//! A slip is one character left out, put in, replaced by another, or swapped with the next. The characters are all
//! those a bare TOML key may have; other characters end the key and are the TOML parser's affair.

use std::{collections::BTreeSet, ops::Range, path::Path};

use stoq_node::config::{
    Config, ConfigErrors, EDGE_REFERENCE, Env, Position, Role, SHIELD_REFERENCE, all_keys,
};

const EDGE: &str = r#"[node]
name = "edge-1"
state_dir = "state/edge-1"
[listen]
https = ["127.0.0.1:8443", "[::1]:8443"]
http  = ["127.0.0.1:8080"]
admin = "127.0.0.1:9100"
[cache]
ram = "256MiB"
[[site]]
hosts   = ["*"]
origins = ["http://127.0.0.1:8000"]
"#;

const CLUSTERED: &str = r#"[shield]
nodes = ["127.0.0.1:7443"]
[cluster]
name = "demo"
identity = "state/edge-1/identity.pem"
root = "state/root.pem"
"#;

const SHIELD: &str = r#"[node]
name = "shield-1"
state_dir = "state/shield-1"
[listen]
stoq = ["127.0.0.1:7443"]
[[site]]
hosts   = ["*"]
origins = ["http://127.0.0.1:8000"]
"#;

const KEY_CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

/// A name in a text: a key before its `=`, in a line or an inline table, or a part of a table's header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    at: Range<usize>,
    text: String,
    /// The table it stands in, without indices.
    table: Vec<String>,
    line: usize,
    column: usize,
}

impl Name {
    /// The path of a key beside this one, or of this one itself.
    fn path(&self, key: &str) -> String {
        self.table
            .iter()
            .map(String::as_str)
            .chain([key])
            .collect::<Vec<_>>()
            .join(".")
    }
}

/// The names of a text that is written plainly: one key a line, inline tables on one line, no `=` or `{` in a string.
fn names(text: &str) -> Vec<Name> {
    let mut names = Vec::new();
    let mut table: Vec<String> = Vec::new();
    let mut start = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let mut push = |at: usize, name: &str, table: &[String]| {
            let at = start + at..start + at + name.len();
            let column = at.start - start + 1;
            names.push(Name {
                at,
                text: name.to_owned(),
                table: table.to_vec(),
                line: index + 1,
                column,
            });
        };
        if line.starts_with('[') {
            table.clear();
            let header = line.trim_end().trim_matches(['[', ']']);
            let mut at = line.find(header).unwrap_or(0);
            for part in header.split('.') {
                push(at, part, &table);
                table.push(part.to_owned());
                at += part.len() + 1;
            }
        } else if !line.starts_with('#') && line.contains('=') {
            let mut key = "";
            let mut at = 0;
            for piece in line.split_inclusive(['=', '{', '}', ',']) {
                if let Some(name) = piece.strip_suffix('=') {
                    let offset = at + name.len() - name.trim_start().len();
                    let inside = line.get(..at).is_some_and(|before| before.contains('{'));
                    let within = if inside {
                        table.iter().cloned().chain([key.to_owned()]).collect()
                    } else {
                        table.clone()
                    };
                    push(offset, name.trim(), &within);
                    if !inside {
                        key = name.trim();
                    }
                }
                at += piece.len();
            }
        }
        start += line.len();
    }
    names
}

/// Every text at one slip from `name`, once each.
fn slips(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut slips = BTreeSet::new();
    let mut add = |chars: Vec<char>| slips.insert(chars.into_iter().collect::<String>());
    for at in 0..=chars.len() {
        for c in KEY_CHARACTERS.chars() {
            let mut inserted = chars.clone();
            inserted.insert(at, c);
            add(inserted);
            if at < chars.len() {
                let mut replaced = chars.clone();
                replaced[at] = c;
                add(replaced);
            }
        }
        if at < chars.len() {
            let mut left_out = chars.clone();
            left_out.remove(at);
            add(left_out);
        }
        if at + 1 < chars.len() {
            let mut swapped = chars.clone();
            swapped.swap(at, at + 1);
            add(swapped);
        }
    }
    slips.remove(name);
    slips.remove("");
    slips.into_iter().collect()
}

/// What a load did not say that it should have said about the slip in `name`; None when all is well. The second value tells
/// whether the meant key was named together with others.
fn unsaid(loaded: &Result<Config, ConfigErrors>, name: &Name, slip: &str) -> Result<bool, String> {
    let Err(errors) = loaded else {
        return Err("the file was accepted".to_owned());
    };
    let here = |position: &Position| matches!(position, Position::File { line, column, .. } if (*line, *column) == (name.line, name.column));
    let Some(error) = errors.iter().find(|error| here(&error.position)) else {
        return Err(format!(
            "nothing was said at {}:{}, but:\n{errors}",
            name.line, name.column
        ));
    };
    let Some((_, advice)) = error.message.split_once("did you mean ") else {
        return Err(format!("no suggestion: {error}"));
    };
    if !error.key.ends_with(slip) || !advice.contains(&format!("`{}`", name.text)) {
        return Err(format!("the wrong key or suggestion: {error}"));
    }
    // One slip is one error: the rest of the file is right, and what a missing key leads to is not its reader's concern.
    if errors.len() != 1 {
        return Err(format!("more than one error:\n{errors}"));
    }
    Ok(advice.matches('`').count() > 2)
}

fn load(text: &str, role: Role) -> Result<Config, ConfigErrors> {
    Config::parse("file.toml", text, Path::new("configs"), &Env::none(), role)
}

/// A reference file with its defaults and examples taken in, and its prose left out, which would only be read a hundred thousand times.
fn whole(reference: &str) -> String {
    let line = |line: &str| {
        let line = line.strip_prefix("# example: ").unwrap_or(line);
        let default = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        default.unwrap_or(line).to_owned() + "\n"
    };
    let lines = reference.lines().map(line);
    lines
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .collect()
}

/// What became of the slips of some names.
#[derive(Default)]
struct Tally {
    refused: usize,
    /// Refused with several suggestions, the meant key among them.
    among_others: usize,
    /// Slips that are another key of the same table, and so no slips.
    collisions: usize,
    failures: Vec<String>,
}

fn tally(text: &str, role: Role, names: &[&Name], known: &[String]) -> Tally {
    let mut tally = Tally::default();
    for name in names {
        for slip in slips(&name.text) {
            if known.contains(&name.path(&slip)) {
                tally.collisions += 1;
                continue;
            }
            let mut mistyped = text.to_owned();
            mistyped.replace_range(name.at.clone(), &slip);
            match unsaid(&load(&mistyped, role), name, &slip) {
                Ok(shared) => {
                    tally.refused += 1;
                    tally.among_others += usize::from(shared);
                }
                Err(problem) => tally.failures.push(format!(
                    "line {}: {} → {slip}: {problem}",
                    name.line,
                    name.path(&name.text)
                )),
            }
        }
    }
    tally
}

#[test]
fn every_slip_of_one_character_is_refused_with_the_key_that_was_meant() {
    let known = all_keys();
    let texts = [
        ("an edge", EDGE.to_owned(), Role::Edge),
        (
            "an edge behind a shield",
            format!("{EDGE}{CLUSTERED}"),
            Role::Edge,
        ),
        ("a shield", SHIELD.to_owned(), Role::Shield),
        ("configs/edge.toml", whole(EDGE_REFERENCE), Role::Edge),
        ("configs/shield.toml", whole(SHIELD_REFERENCE), Role::Shield),
    ];
    let mut covered = BTreeSet::new();
    for (title, text, role) in texts {
        load(&text, role).unwrap_or_else(|errors| panic!("{title} as it is:\n{errors}"));
        let names = names(&text);
        for name in &names {
            let path = name.path(&name.text);
            assert!(
                known.contains(&path),
                "{title}: `{path}` is read as a name and is none"
            );
            covered.insert(path);
        }
        // Dealt out one by one, since the long names stand together.
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let hand = |first: usize| {
                names
                    .iter()
                    .skip(first)
                    .step_by(threads)
                    .collect::<Vec<_>>()
            };
            let (text, known) = (&text, &known);
            let running: Vec<_> = (0..threads)
                .map(hand)
                .map(|hand| scope.spawn(move || tally(text, role, &hand, known)))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
        let refused = sum(|tally| tally.refused);
        println!(
            "{title}: {refused} slips refused with the meant key ({} of them among several), {} are other keys",
            sum(|tally| tally.among_others),
            sum(|tally| tally.collisions)
        );
        let failures: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failures).collect();
        assert!(
            failures.is_empty(),
            "{title}: {} failures, the first of them:\n{:#?}",
            failures.len(),
            failures.iter().take(20).collect::<Vec<_>>()
        );
        assert!(refused > 1000, "{title}: only {refused} slips were made");
    }
    let missing: Vec<_> = known.iter().filter(|key| !covered.contains(*key)).collect();
    assert!(missing.is_empty(), "keys that no text has: {missing:?}");
}

#[test]
fn the_check_fails_when_a_slip_is_accepted_misplaced_or_misadvised() {
    let name = names(EDGE)
        .into_iter()
        .find(|name| name.text == "ram")
        .unwrap();
    assert_eq!(
        (name.line, name.column, name.table.join(".").as_str()),
        (9, 1, "cache")
    );
    let slipped = load(&EDGE.replace("ram =", "rma ="), Role::Edge);
    assert_eq!(unsaid(&slipped, &name, "rma"), Ok(false));
    let accepted = load(EDGE, Role::Edge);
    assert_eq!(
        unsaid(&accepted, &name, "rma").unwrap_err(),
        "the file was accepted"
    );
    let elsewhere = Name {
        column: 2,
        ..name.clone()
    };
    assert!(
        unsaid(&slipped, &elsewhere, "rma")
            .unwrap_err()
            .starts_with("nothing was said at 9:2")
    );
    let other = Name {
        text: "heads".to_owned(),
        ..name
    };
    assert!(
        unsaid(&slipped, &other, "rma")
            .unwrap_err()
            .starts_with("the wrong key")
    );
}

#[test]
fn slips_are_all_of_one_character() {
    let slips = slips("ab");
    for slip in ["a", "b", "ba", "xb", "ax", "xab", "axb", "abx", "Ab", "a-b"] {
        assert!(slips.iter().any(|s| s == slip), "{slip}");
    }
    // 64 × 3 insertions, of which 2 come about twice; 2 × 63 replacements; 2 deletions; 1 swap.
    assert_eq!(slips.len(), 64 * 3 - 2 + 2 * 63 + 2 + 1);
}
