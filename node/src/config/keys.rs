//! Which keys each table has, what is wrong with those it does not have, and which key was meant.
//!
//! The names come out of the derived `Deserialize` of the raw structs. Invariant: a key is known here if and only if
//! `deny_unknown_fields` would let it pass.

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
    forward_to_deserialize_any,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problem::{ConfigError, ConfigErrors},
    raw::{
        RawCache, RawCertificate, RawClass, RawCluster, RawConfig, RawGeo, RawLimits, RawListen,
        RawLog, RawNode, RawOriginTable, RawPosition, RawQueryTable, RawRates, RawRule, RawShape,
        RawShield, RawSite, RawStoq, RawTimeouts, RawTls, RawVolume, RawXdp,
    },
    source::Sources,
};

/// Every table, by its path without indices. A new table in `raw.rs` is added here; a test finds one that was forgotten.
pub(super) const TABLES: [&[&str]; 28] = [
    &[],
    &["node"],
    &["node", "position"],
    &["listen"],
    &["limits"],
    &["limits", "timeouts"],
    &["cache"],
    &["cache", "disk"],
    &["tls"],
    &["tls", "certificates"],
    &["log"],
    &["cluster"],
    &["cluster", "geo"],
    &["stoq"],
    &["shape"],
    &["shape", "serve"],
    &["shape", "fill"],
    &["shape", "replicate"],
    &["xdp"],
    &["xdp", "source"],
    &["xdp", "prefix"],
    &["xdp", "global"],
    &["shield"],
    &["site"],
    &["site", "origins"],
    &["site", "query"],
    &["site", "rule"],
    &["site", "rule", "query"],
];

/// The keys of a table, or None when there is no such table.
pub(super) fn keys_of(path: &[&str]) -> Option<&'static [&'static str]> {
    Some(match path {
        [] => field_names::<RawConfig>(),
        ["node"] => field_names::<RawNode>(),
        ["node", "position"] => field_names::<RawPosition>(),
        ["listen"] => field_names::<RawListen>(),
        ["limits"] => field_names::<RawLimits>(),
        ["limits", "timeouts"] => field_names::<RawTimeouts>(),
        ["cache"] => field_names::<RawCache>(),
        ["cache", "disk"] => field_names::<RawVolume>(),
        ["tls"] => field_names::<RawTls>(),
        ["tls", "certificates"] => field_names::<RawCertificate>(),
        ["log"] => field_names::<RawLog>(),
        ["cluster"] => field_names::<RawCluster>(),
        ["cluster", "geo"] => field_names::<RawGeo>(),
        ["stoq"] => field_names::<RawStoq>(),
        ["shape"] => field_names::<RawShape>(),
        ["shape", "serve" | "fill" | "replicate"] => field_names::<RawClass>(),
        ["xdp"] => field_names::<RawXdp>(),
        ["xdp", "source" | "prefix" | "global"] => field_names::<RawRates>(),
        ["shield"] => field_names::<RawShield>(),
        ["site"] => field_names::<RawSite>(),
        ["site", "origins"] => field_names::<RawOriginTable>(),
        ["site", "query"] | ["site", "rule", "query"] => field_names::<RawQueryTable>(),
        ["site", "rule"] => field_names::<RawRule>(),
        _ => return None,
    })
}

/// Every key there is, as its path without indices, such as `limits.timeouts.idle`. Tables are among them.
pub fn all_keys() -> Vec<String> {
    TABLES
        .iter()
        .flat_map(|table| {
            let keys = keys_of(table).unwrap_or_default();
            keys.iter().map(|key| {
                table
                    .iter()
                    .chain([key])
                    .copied()
                    .collect::<Vec<_>>()
                    .join(".")
            })
        })
        .collect()
}

/// The names a derived struct accepts, as it tells its deserializer before it reads anything.
fn field_names<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    struct Listener<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Listener<'_> {
        type Error = de::value::Error;
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(de::Error::custom("only the names were wanted"))
        }
        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not a struct"))
        }
        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    let _only_names = T::deserialize(Listener(&mut names));
    names
}

/// Takes every unknown key out of `table` and reports it with the key that was meant.
pub(super) fn remove_unknown(
    table: &mut DeTable<'_>,
    path: &mut Vec<String>,
    sources: &Sources,
    errors: &mut ConfigErrors,
) {
    let plain: Vec<&str> = path
        .iter()
        .map(|part| part.split('[').next().unwrap_or(part))
        .collect();
    let Some(known) = keys_of(&plain) else { return };
    let present: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    let shown = path.join(".");
    let mut unknown: Vec<_> = table
        .keys()
        .filter(|key| !known.contains(&key.get_ref().as_ref()))
        .cloned()
        .collect();
    unknown.sort_by_key(|key| key.span().start);
    for key in unknown {
        let name = key.get_ref().as_ref();
        table.remove(name);
        errors.push(ConfigError {
            position: sources.position(key.span().start),
            key: if shown.is_empty() {
                name.to_owned()
            } else {
                format!("{shown}.{name}")
            },
            message: format!(
                "unknown {} ({})",
                if plain.is_empty() {
                    "table or key"
                } else {
                    "key"
                },
                advice(name, &plain, known, &present)
            ),
        });
    }
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().to_string();
        match value.get_mut() {
            DeValue::Table(inner) => {
                path.push(name);
                remove_unknown(inner, path, sources, errors);
                path.pop();
            }
            DeValue::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let DeValue::Table(inner) = item.get_mut() {
                        path.push(format!("{name}[{index}]"));
                        remove_unknown(inner, path, sources, errors);
                        path.pop();
                    }
                }
            }
            _ => {}
        }
    }
}

/// What to write instead of `name`: the nearest key, the table it belongs to, or the keys there are.
pub(super) fn advice(name: &str, table: &[&str], known: &[&str], present: &[String]) -> String {
    let absent: Vec<&str> = known
        .iter()
        .copied()
        .filter(|key| !present.iter().any(|p| p == key))
        .collect();
    // A key already written in this table is not what was meant by a second one, unless nothing else is near.
    for candidates in [absent.as_slice(), known] {
        let near = nearest(name, candidates);
        if !near.is_empty() {
            let quoted: Vec<String> = near.iter().map(|key| format!("`{key}`")).collect();
            return format!("did you mean {}?", quoted.join(" or "));
        }
    }
    let elsewhere = TABLES
        .iter()
        .find(|other| **other != table && keys_of(other).is_some_and(|keys| keys.contains(&name)));
    if let Some(other) = elsewhere {
        return match other {
            [] => format!("`{name}` stands at the top of the file, before the first table"),
            other => format!("`{name}` belongs in {}", header(other)),
        };
    }
    let takes: Vec<&str> = known.to_vec();
    match table {
        [] => format!("there are: {}", takes.join(", ")),
        table => format!("{} takes: {}", header(table), takes.join(", ")),
    }
}

/// A table as it is written in a file.
fn header(table: &[&str]) -> String {
    let name = table.join(".");
    if matches!(table.first(), Some(&"site")) {
        format!("[[{name}]]")
    } else {
        format!("[{name}]")
    }
}

/// The candidates at the smallest edit distance from `name`, if that is near enough to be a slip of the hand: one edit in a short
/// name, two in one of five letters or more, three in one of ten. At most three of them.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Vec<&'a str> {
    let allowed = match name.chars().count() {
        0..=4 => 1,
        5..=9 => 2,
        _ => 3,
    };
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let mut scored: Vec<(usize, &str)> = candidates
        .iter()
        .map(|candidate| (strsim::osa_distance(&lower, candidate), *candidate))
        .filter(|(d, _)| *d <= allowed)
        .collect();
    scored.sort_by_key(|(distance, _)| *distance);
    let Some(best) = scored.first().map(|(distance, _)| *distance) else {
        return Vec::new();
    };
    scored
        .into_iter()
        .filter(|(distance, _)| *distance == best)
        .map(|(_, candidate)| candidate)
        .take(3)
        .collect()
}

/// A step into a parsed table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A path as messages show it: `site[0].hosts`.
pub(super) fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// The path of the key or value at `span`: the deepest one whose own span holds it.
pub(super) fn locate(table: &DeTable<'_>, span: &std::ops::Range<usize>) -> Option<Vec<Step>> {
    table.iter().find_map(|(key, value)| {
        let step = Step::Key(key.get_ref().to_string());
        if holds(&key.span(), span) {
            return Some(vec![step]);
        }
        locate_value(value, span).map(|mut path| {
            path.insert(0, step);
            path
        })
    })
}

fn locate_value(value: &Spanned<DeValue<'_>>, span: &std::ops::Range<usize>) -> Option<Vec<Step>> {
    let inside = match value.get_ref() {
        DeValue::Table(table) => locate(table, span),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            locate_value(item, span).map(|mut path| {
                path.insert(0, Step::Index(index));
                path
            })
        }),
        _ => None,
    };
    inside.or_else(|| holds(&value.span(), span).then(Vec::new))
}

fn holds(outer: &std::ops::Range<usize>, inner: &std::ops::Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Takes the value at `path` out. False when there is none.
pub(super) fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    match path {
        [Step::Key(key)] => table.remove(key.as_str()).is_some(),
        [Step::Key(key), rest @ ..] => table
            .get_mut(key.as_str())
            .is_some_and(|value| remove_in(value, rest)),
        _ => false,
    }
}

fn remove_in(value: &mut Spanned<DeValue<'_>>, path: &[Step]) -> bool {
    match (value.get_mut(), path) {
        (DeValue::Table(table), _) => remove(table, path),
        (DeValue::Array(items), [Step::Index(at)]) if *at < items.len() => {
            let kept = std::mem::replace(items, toml::de::DeArray::new());
            *items = kept
                .into_iter()
                .enumerate()
                .filter(|(index, _)| index != at)
                .map(|(_, item)| item)
                .collect();
            true
        }
        (DeValue::Array(items), [Step::Index(at), rest @ ..]) => {
            items.get_mut(*at).is_some_and(|item| remove_in(item, rest))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_keys_and_every_known_name_is_listed_once() {
        let keys = all_keys();
        for table in TABLES {
            assert!(
                keys_of(table).is_some_and(|keys| !keys.is_empty()),
                "{table:?}"
            );
            assert!(
                table.is_empty() || keys.contains(&table.join(".")),
                "{table:?} is a key of its parent"
            );
        }
        let mut unique = keys.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), keys.len());
        assert!(keys.contains(&"limits.timeouts.origin_first_byte".to_owned()));
    }

    #[test]
    fn the_meant_key_is_named() {
        let known = keys_of(&["listen"]).unwrap();
        let none: &[String] = &[];
        assert_eq!(
            advice("httsp", &["listen"], known, none),
            "did you mean `https` or `http`?"
        );
        assert_eq!(
            advice("HTTPS", &["listen"], known, none),
            "did you mean `https`?"
        );
        assert_eq!(
            advice("http-scheme", &["listen"], known, none),
            "did you mean `http_scheme`?"
        );
        let present = ["https".to_owned(), "httpx".to_owned()];
        assert_eq!(
            advice("httpx", &["listen"], known, &present),
            "did you mean `http`?"
        );
        assert_eq!(
            advice("ram", &["listen"], known, none),
            "`ram` belongs in [cache]"
        );
        assert_eq!(
            advice("frobnicate", &["shield"], &["nodes"], none),
            "[shield] takes: nodes"
        );
    }
}
