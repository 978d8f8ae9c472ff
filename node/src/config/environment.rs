//! The variables that override keys: `STOQ__LIMITS__TIMEOUTS__IDLE=20s`.
//!
//! A value is plain text, or TOML where it starts with `[` or `{`. Where the key turns out to be no string, plain text is
//! read as TOML after all (`STOQ__NODE__WORKERS=4`); [`Override`] remembers which of the two a value stands as.

use std::{ffi::OsString, ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    include::FILE_BYTES_MAX,
    keys,
    merge::shift_value,
    problem::{ConfigError, ConfigErrors},
    source::{Kind, Position, Sources},
};

/// Variables of one load.
pub const VARIABLES_MAX: usize = 256;

/// What a variable's name starts with when it overrides a key.
pub const ENV_PREFIX: &str = "STOQ__";

/// The environment variables that override keys of the file: `STOQ__` + table + `__` + key, in capitals.
#[derive(Debug, Clone, Default)]
pub struct Env(Vec<(OsString, OsString)>);

impl Env {
    /// Those of this process that start with `STOQ__`.
    pub fn from_process() -> Self {
        std::env::vars_os().collect()
    }

    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let mut list: Vec<(OsString, OsString)> = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(name, _)| name.to_string_lossy().starts_with(ENV_PREFIX))
            .collect();
        list.sort();
        Self(list)
    }
}

/// Adds one source for each variable and gives their indices.
pub(super) fn read_env(env: &Env, sources: &mut Sources, errors: &mut ConfigErrors) -> Vec<usize> {
    let mut indices = Vec::new();
    for (count, (name, value)) in env.0.iter().enumerate() {
        let shown = name.to_string_lossy();
        let mut fail = |message: String| {
            let position = Position::Environment(shown.as_ref().into());
            errors.push(ConfigError {
                position,
                key: String::new(),
                message,
            });
        };
        if count >= VARIABLES_MAX {
            fail(format!(
                "is one variable too many (at most {VARIABLES_MAX})"
            ));
            break;
        }
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) if value.len() as u64 <= FILE_BYTES_MAX => {
                indices.push(sources.add(Kind::Environment, name, value.to_owned(), Path::new("")));
            }
            (Some(_), Some(_)) => fail(format!("is longer than {FILE_BYTES_MAX} bytes")),
            _ => fail("is not UTF-8".to_owned()),
        }
    }
    indices
}

/// A variable's value in the table, which may yet be read another way.
#[derive(Debug)]
pub(super) struct Override {
    pub(super) path: Vec<String>,
    pub(super) source: usize,
    pub(super) span: Range<usize>,
    /// Whether it now stands as TOML and not as plain text.
    pub(super) as_toml: bool,
}

/// Lays the variables over the table.
pub(super) fn apply_env<'a>(
    table: &mut DeTable<'a>,
    indices: &[usize],
    sources: &'a Sources,
    errors: &mut ConfigErrors,
) -> Vec<Override> {
    let mut overrides = Vec::new();
    for &index in indices {
        let Some(source) = sources.all().get(index) else {
            continue;
        };
        let mut fail = |message: String| {
            let position = Position::Environment(source.name.clone());
            errors.push(ConfigError {
                position,
                key: String::new(),
                message,
            });
        };
        let path: Vec<String> = source
            .name
            .strip_prefix(ENV_PREFIX)
            .unwrap_or_default()
            .split("__")
            .map(str::to_ascii_lowercase)
            .collect();
        let plain: Vec<&str> = path.iter().map(String::as_str).collect();
        if matches!(plain.first(), Some(&("site" | "include"))) {
            fail(format!(
                "`{}` cannot be set from the environment (write it in a file)",
                plain.first().unwrap_or(&"")
            ));
            continue;
        }
        if let Err(message) = known_path(&plain) {
            fail(message);
            continue;
        }
        let base = source.base();
        let span = base..base + source.text.len();
        let as_toml = source.text.trim_start().starts_with(['[', '{']);
        let value = if as_toml {
            None
        } else {
            Some(DeValue::String(DeString::Borrowed(&source.text)))
        };
        let value = match value {
            Some(text) => Ok(Spanned::new(span.clone(), text)),
            None => parse_value(&source.text, base),
        };
        match value {
            Ok(value) => {
                if set(table, &path, value, &span) {
                    overrides.push(Override {
                        path,
                        source: index,
                        span,
                        as_toml,
                    });
                } else {
                    fail("overrides a key in what is no table in the file".to_owned());
                }
            }
            Err(message) => fail(message),
        }
    }
    overrides
}

/// A variable's value as TOML, its spans shifted.
pub(super) fn parse_value(text: &str, base: usize) -> Result<Spanned<DeValue<'_>>, String> {
    let value =
        DeValue::parse(text).map_err(|error| format!("not TOML: {}", error.message().trim()))?;
    Ok(shift_value(value, base))
}

/// Whether the path names a key; else the nearest name.
fn known_path(path: &[&str]) -> Result<(), String> {
    for (depth, name) in path.iter().enumerate() {
        let (table, rest) = (
            path.get(..depth).unwrap_or_default(),
            path.get(depth + 1..).unwrap_or_default(),
        );
        let Some(known) = keys::keys_of(table) else {
            return Err(format!(
                "`{}` is a key and holds no others",
                table.join("__").to_ascii_uppercase()
            ));
        };
        if !known.contains(name) {
            let advice = keys::advice(name, table, known, &[]);
            return Err(format!(
                "unknown key `{name}` ({advice} Variables are named {ENV_PREFIX}TABLE__KEY)"
            ));
        }
        let is_table = keys::TABLES.iter().any(|t| {
            t.split_last()
                .is_some_and(|(last, parent)| parent == table && last == name)
        });
        if rest.is_empty() && is_table && !["certificates", "disk"].contains(name) {
            return Err(format!(
                "`{name}` is a table (set one of its keys: {ENV_PREFIX}{}__KEY)",
                path.join("__").to_ascii_uppercase()
            ));
        }
    }
    Ok(())
}

/// Sets a value, making the tables on the way. False when something on the way is no table.
pub(super) fn set<'a>(
    table: &mut DeTable<'a>,
    path: &[String],
    value: Spanned<DeValue<'a>>,
    span: &Range<usize>,
) -> bool {
    let Some((name, rest)) = path.split_first() else {
        return false;
    };
    let key = || Spanned::new(span.clone(), DeString::Owned(name.clone()));
    if rest.is_empty() {
        table.remove(name.as_str());
        table.insert(key(), value);
        return true;
    }
    if !table.contains_key(name.as_str()) {
        table.insert(
            key(),
            Spanned::new(span.clone(), DeValue::Table(DeTable::new())),
        );
    }
    match table.get_mut(name.as_str()).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) => set(inner, rest, value, span),
        _ => false,
    }
}
