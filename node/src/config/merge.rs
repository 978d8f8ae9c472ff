//! All files in one table, whose spans name their source.
//!
//! A key may be set once: a second setting in another file is refused with both places, since which one wins would
//! depend on the order of file names. `[[site]]` tables add up. Only the environment overrides, and it says so by its name.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys,
    problem::{ConfigError, ConfigErrors},
    source::{Kind, Position, Sources},
};

/// All files in one table, unknown keys taken out and reported.
pub(super) fn merge_files<'a>(sources: &'a Sources, errors: &mut ConfigErrors) -> DeTable<'a> {
    let mut merged = DeTable::new();
    for source in sources
        .all()
        .iter()
        .filter(|source| source.kind == Kind::File)
    {
        let (table, syntax) = DeTable::parse_recoverable(&source.text);
        if !syntax.is_empty() {
            for error in syntax {
                let position = error.span().map_or_else(
                    || Position::Whole(source.name.clone()),
                    |span| source.position(span.start),
                );
                errors.push(ConfigError {
                    position,
                    key: String::new(),
                    message: format!("not TOML: {}", error.message().trim()),
                });
            }
            // What a parser makes of broken text would only raise further errors that are not there.
            continue;
        }
        let mut table = shift_table(table.into_inner(), source.base());
        keys::remove_unknown(&mut table, &mut Vec::new(), sources, errors);
        // Followed already, and its type was checked when it was.
        table.remove("include");
        merge_table(&mut merged, table, &mut Vec::new(), sources, errors);
    }
    merged
}

fn shift_table(table: DeTable<'_>, base: usize) -> DeTable<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            (
                Spanned::new(span.start + base..span.end + base, key.into_inner()),
                shift_value(value, base),
            )
        })
        .collect()
}

pub(super) fn shift_value(value: Spanned<DeValue<'_>>, base: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let shifted = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shift_table(table, base)),
        DeValue::Array(items) => DeValue::Array(
            items
                .into_iter()
                .map(|item| shift_value(item, base))
                .collect(),
        ),
        leaf => leaf,
    };
    Spanned::new(span.start + base..span.end + base, shifted)
}

fn merge_table<'a>(
    into: &mut DeTable<'a>,
    from: DeTable<'a>,
    path: &mut Vec<String>,
    sources: &Sources,
    errors: &mut ConfigErrors,
) {
    for (key, value) in from {
        let name = key.get_ref().to_string();
        path.push(name.clone());
        match into.get_mut(name.as_str()) {
            None => {
                into.insert(key, value);
            }
            Some(there) => {
                let first = there.span().start;
                match (there.get_mut(), value.into_inner()) {
                    (DeValue::Table(there), DeValue::Table(more)) => {
                        merge_table(there, more, path, sources, errors)
                    }
                    (DeValue::Array(there), DeValue::Array(more))
                        if tables(there) && tables(&more) =>
                    {
                        for item in more {
                            there.push(item);
                        }
                    }
                    _ => errors.push(ConfigError {
                        position: sources.position(key.span().start),
                        key: path.join("."),
                        message: format!(
                            "is set already at {} (remove one of the two)",
                            sources.position(first)
                        ),
                    }),
                }
            }
        }
        path.pop();
    }
}

fn tables(items: &[Spanned<DeValue<'_>>]) -> bool {
    !items.is_empty() && items.iter().all(|item| item.get_ref().is_table())
}
