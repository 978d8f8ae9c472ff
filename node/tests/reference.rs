//! The reference files say what the code does: every key is in them, and every default they state is the default.

use std::{collections::BTreeSet, path::Path};

use stoq_node::config::{
    Config, ConfigErrors, EDGE_REFERENCE, Env, Role, SHIELD_REFERENCE, all_keys,
};

fn parse(text: &str, role: Role) -> Result<Config, ConfigErrors> {
    Config::parse("reference", text, Path::new("configs"), &Env::none(), role)
}

/// The lines `#key = value` with their `#` taken away.
fn with_defaults(text: &str) -> String {
    let starts_key = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase());
    let line = |line: &str| {
        line.strip_prefix('#')
            .filter(starts_key)
            .unwrap_or(line)
            .to_owned()
            + "\n"
    };
    text.lines().map(line).collect()
}

/// The lines `# example: …` with what stands before taken away.
fn with_examples(text: &str) -> String {
    text.lines()
        .map(|line| line.strip_prefix("# example: ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

#[test]
fn the_stated_defaults_are_the_defaults() {
    for (text, role, stated) in [
        (EDGE_REFERENCE, Role::Edge, 25),
        (SHIELD_REFERENCE, Role::Shield, 6),
    ] {
        let written = with_defaults(text);
        let changed = written
            .lines()
            .zip(text.lines())
            .filter(|(a, b)| a != b)
            .count();
        assert!(
            changed >= stated,
            "{changed} defaults are stated; at least {stated} were when this was written"
        );
        let plain = parse(text, role).unwrap_or_else(|errors| panic!("{errors}"));
        let spelt = parse(&written, role).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(spelt.to_toml(), plain.to_toml());
    }
}

#[test]
fn a_wrong_default_would_be_noticed() {
    let wrong = EDGE_REFERENCE.replace("#drain = \"30s\"", "#drain = \"31s\"");
    assert_ne!(wrong, EDGE_REFERENCE);
    let spelt = parse(&with_defaults(&wrong), Role::Edge).unwrap();
    assert_ne!(
        spelt.to_toml(),
        parse(&wrong, Role::Edge).unwrap().to_toml()
    );
}

#[test]
fn the_examples_load_and_with_them_every_key_is_documented() {
    let mut documented = BTreeSet::new();
    for (text, role) in [
        (EDGE_REFERENCE, Role::Edge),
        (SHIELD_REFERENCE, Role::Shield),
    ] {
        let whole = with_examples(&with_defaults(text));
        parse(&whole, role).unwrap_or_else(|errors| panic!("{errors}"));
        keys(
            &toml::Value::Table(whole.parse().unwrap()),
            "",
            &mut documented,
        );
    }
    let known: BTreeSet<String> = all_keys().into_iter().collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    assert!(missing.is_empty(), "not in configs/: {missing:?}");
    let beyond: Vec<_> = documented.difference(&known).collect();
    assert!(beyond.is_empty(), "no keys: {beyond:?}");
}

/// The paths of all keys, without indices.
fn keys(value: &toml::Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                into.insert(path.clone());
                keys(value, &path, into);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| keys(item, path, into)),
        _ => {}
    }
}
