//! What keeps the house tidy: which crate may use which, what no source file has, what every configuration does, and
//! which licences come in.
//!
//! Each rule is a function from what it looks at to what it found wrong, and a test of its own shows that it finds it.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the check")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{Metadata, MetadataCommand, PackageId};
use stoq_node::config::{Config, Env, Role};

/// Which crate of the house may use which, also in its tests. A crate that is not here may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("stoq", &[]),
    ("stoq-cache", &[]),
    ("stoq-routing", &[]),
    ("stoq-ebpf", &[]),
    ("stoq-node", &[]),
    (
        "stoq-mesh",
        &["stoq", "stoq-cache", "stoq-routing", "stoq-node"],
    ),
    (
        "stoq-edge",
        &[
            "stoq",
            "stoq-cache",
            "stoq-routing",
            "stoq-node",
            "stoq-mesh",
            "stoq-ebpf",
        ],
    ),
    (
        "stoq-origin-shield",
        &[
            "stoq",
            "stoq-cache",
            "stoq-routing",
            "stoq-node",
            "stoq-mesh",
        ],
    ),
    ("stoq-loadtest", &["stoq", "stoq-mesh"]),
    (
        "integration",
        &[
            "stoq",
            "stoq-cache",
            "stoq-routing",
            "stoq-node",
            "stoq-mesh",
            "stoq-edge",
            "stoq-origin-shield",
            "stoq-loadtest",
            "stoq-ebpf",
        ],
    ),
];

/// Lines of one source file, all told. Past 400 it likely holds a second idea.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// What cargo knows of the workspace and all it uses on this machine's kind. Offline: building this test has fetched it all.
fn metadata() -> Metadata {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--offline", "--locked", "--filter-platform", &platform].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(options)
        .exec()
        .unwrap()
}

/// Files below `dir` whose names end so, without what builds leave behind and hidden directories.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir()
                && !path.is_symlink()
                && name != "target"
                && name != "state"
                && !name.starts_with('.')
            {
                waiting.push(path);
            } else if name.ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn assert_none(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

/// The workspace's crates with those of them each uses, dependencies of tests and build scripts included.
fn uses(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let of = |package: &&cargo_metadata::Package| {
        let used = package
            .dependencies
            .iter()
            .map(|dependency| dependency.name.clone());
        (
            package.name.to_string(),
            used.filter(|name| names.contains(name)).collect(),
        )
    };
    metadata.workspace_packages().iter().map(of).collect()
}

fn wrong_arrows(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut problems = Vec::new();
    for (from, used) in uses {
        match ARROWS.iter().find(|(name, _)| name == from) {
            None => problems.push(format!(
                "{from}: a crate that the table of arrows does not have"
            )),
            Some((_, allowed)) => {
                let wrong = used.iter().filter(|to| !allowed.contains(&to.as_str()));
                problems
                    .extend(wrong.map(|to| format!("{from} → {to}: not an arrow of this house")));
            }
        }
    }
    problems
}

#[test]
fn crates_use_each_other_along_the_arrows_only() {
    let uses = uses(&metadata());
    assert!(
        uses.len() >= 8 && uses["stoq-edge"].contains("stoq"),
        "{uses:?}"
    );
    assert_none(&wrong_arrows(&uses));
}

#[test]
fn a_wrong_arrow_and_an_unknown_crate_are_found() {
    let uses =
        |from: &str, to: &str| BTreeMap::from([(from.to_owned(), BTreeSet::from([to.to_owned()]))]);
    assert_eq!(
        wrong_arrows(&uses("stoq-cache", "stoq")),
        ["stoq-cache → stoq: not an arrow of this house"]
    );
    assert_eq!(
        wrong_arrows(&uses("stoq-edge", "stoq-origin-shield")).len(),
        1
    );
    assert_eq!(wrong_arrows(&uses("stoq-util", "stoq")).len(), 1);
    assert!(wrong_arrows(&uses("stoq-mesh", "stoq")).is_empty());
}

fn untidy(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    // Put together here, so that this file does not hold what it looks for.
    let unfinished = [["to", "do!"].concat(), ["unimpl", "emented!"].concat()];
    for (index, line) in text.lines().enumerate() {
        let found = unfinished
            .iter()
            .filter(|word| line.contains(word.as_str()));
        problems.extend(found.map(|word| format!("{name}:{}: `{word}`", index + 1)));
    }
    if text.lines().count() > LINES_MAX {
        problems.push(format!(
            "{name}: {} lines, at most {LINES_MAX}",
            text.lines().count()
        ));
    }
    if !text.starts_with("//!") {
        problems.push(format!(
            "{name}: does not begin with `//!`: what it is, what it is not, its invariant"
        ));
    }
    problems
}

#[test]
fn source_files_are_finished_short_and_introduced() {
    let root = root();
    let sources = files(&root, ".rs");
    assert!(
        sources.len() > 50,
        "only {} source files found",
        sources.len()
    );
    let problems = sources.iter().flat_map(|path| {
        let name = path
            .strip_prefix(&root)
            .unwrap_or(path)
            .display()
            .to_string();
        untidy(&name, &fs::read_to_string(path).unwrap())
    });
    assert_none(&problems.collect::<Vec<_>>());
}

#[test]
fn an_untidy_file_is_found() {
    let unfinished = ["//! x\nfn f() { to", "do!() }\n"].concat();
    assert_eq!(untidy("a.rs", &unfinished).len(), 1);
    assert_eq!(
        untidy("a.rs", &format!("//! x\n{}", "\n".repeat(LINES_MAX))).len(),
        1
    );
    assert_eq!(untidy("a.rs", "use std::fs;\n").len(), 1);
    assert!(untidy("a.rs", "//! x\n").is_empty());
}

/// A file that listens for other nodes and for no clients is a shield's.
fn load(path: &Path) -> Result<Config, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.to_string())?;
    let listens = |key| {
        table
            .get("listen")
            .is_some_and(|listen| listen.get(key).is_some())
    };
    let is_shield = listens("stoq") && !listens("https") && !listens("http");
    let role = if is_shield { Role::Shield } else { Role::Edge };
    Config::load(path, &Env::none(), role).map_err(|errors| errors.to_string())
}

#[test]
fn every_file_in_configs_loads() {
    let found = files(&root().join("configs"), ".toml");
    assert!(found.len() >= 2, "{found:?}");
    // Those of a `sites.d` are loaded where they are included.
    let whole = found.iter().filter(|path| {
        let parent = path.parent().and_then(Path::file_name);
        parent.is_none_or(|parent| parent != "sites.d")
    });
    let problems = whole.filter_map(|path| load(path).err());
    assert_none(&problems.collect::<Vec<_>>());
}

/// Whether an SPDX expression can be met with the allowed licences: `OR` needs one side, `AND` both. `/` is an old way to write `OR`.
/// None when the expression does not parse.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> Option<bool> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let (value, rest) = either(&tokens, allowed)?;
    rest.is_empty().then_some(value)
}

fn either<'a>(tokens: &'a [&'a str], allowed: &BTreeSet<String>) -> Option<(bool, &'a [&'a str])> {
    let (mut value, mut rest) = both(tokens, allowed)?;
    while let Some((&"OR", after)) = rest.split_first() {
        let (right, after) = both(after, allowed)?;
        (value, rest) = (value || right, after);
    }
    Some((value, rest))
}

fn both<'a>(tokens: &'a [&'a str], allowed: &BTreeSet<String>) -> Option<(bool, &'a [&'a str])> {
    let (mut value, mut rest) = one(tokens, allowed)?;
    while let Some((&"AND", after)) = rest.split_first() {
        let (right, after) = one(after, allowed)?;
        (value, rest) = (value && right, after);
    }
    Some((value, rest))
}

fn one<'a>(tokens: &'a [&'a str], allowed: &BTreeSet<String>) -> Option<(bool, &'a [&'a str])> {
    match tokens {
        ["(", inside @ ..] => {
            let (value, rest) = either(inside, allowed)?;
            rest.split_first()
                .filter(|(close, _)| **close == ")")
                .map(|(_, rest)| (value, rest))
        }
        [licence, "WITH", exception, rest @ ..] => Some((
            allowed.contains(&format!("{licence} WITH {exception}")),
            rest,
        )),
        ["AND" | "OR" | ")", ..] | [] => None,
        [licence, rest @ ..] => Some((allowed.contains(*licence), rest)),
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let deny: toml::Table = fs::read_to_string(root().join("deny.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let allowed = deny["licenses"]["allow"].as_array().unwrap();
    let allowed: BTreeSet<String> = allowed
        .iter()
        .map(|licence| licence.as_str().unwrap().to_owned())
        .collect();
    let metadata = metadata();
    let used: BTreeSet<&PackageId> = metadata
        .resolve
        .as_ref()
        .unwrap()
        .nodes
        .iter()
        .map(|node| &node.id)
        .collect();
    assert!(used.len() > 100, "only {} packages", used.len());
    let problems = metadata
        .packages
        .iter()
        .filter(|package| used.contains(&package.id))
        .filter_map(|package| {
            let expression = package.license.as_deref().unwrap_or("");
            (is_allowed(expression, &allowed) != Some(true))
                .then(|| format!("{} {}: `{expression}`", package.name, package.version))
        });
    assert_none(&problems.collect::<Vec<_>>());
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "ISC", "A WITH b"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", Some(true)),
        ("GPL-3.0", Some(false)),
        ("MIT OR GPL-3.0", Some(true)),
        ("MIT/GPL-3.0", Some(true)),
        ("MIT AND GPL-3.0", Some(false)),
        ("GPL-3.0 AND MIT OR ISC", Some(true)),
        ("GPL-3.0 AND (MIT OR ISC)", Some(false)),
        ("(GPL-3.0 OR MIT) AND ISC", Some(true)),
        ("A WITH b", Some(true)),
        ("MIT WITH b", Some(false)),
        ("(MIT", None),
        ("MIT ISC", None),
        ("", None),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

/// The command lines of the README's first blocks of shell, without prompts.
fn commands(readme: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_shell = false;
    for line in readme.lines() {
        match line.strip_prefix("```") {
            Some(language) => {
                in_shell =
                    !in_shell && matches!(language.trim(), "sh" | "bash" | "console" | "shell" | "")
            }
            None if in_shell => found.push(line.trim_start_matches("$ ").trim()),
            None => {}
        }
    }
    found.retain(|line| line.starts_with("cargo "));
    found
}

#[test]
fn the_readmes_two_commands_are_run_by_ci() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    let found = commands(&readme);
    for expected in [
        "cargo run --release -p stoq-edge -- quickstart",
        "cargo test --workspace",
    ] {
        assert!(
            found.iter().take(2).any(|line| line.starts_with(expected)),
            "`{expected}` is not among the first two: {found:?}"
        );
        // The checks have one profile, for time's sake; what they run is the same otherwise.
        let in_ci = expected.replace(" --release", "");
        let run = ci
            .lines()
            .any(|line| !line.trim_start().starts_with('#') && line.contains(&in_ci));
        assert!(run, ".ci/run does not run `{in_ci}`");
    }
}

#[test]
fn commands_are_read_from_blocks_of_shell() {
    let readme =
        "# x\n```sh\n$ cargo run -p a\ncargo test\n```\ncargo prose\n```toml\ncargo = 1\n```\n";
    assert_eq!(commands(readme), ["cargo run -p a", "cargo test"]);
}
