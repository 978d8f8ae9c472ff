//! `query` and `rule` of a site: how much of a URL's query names an object there.

use std::fmt;

use toml::Spanned;

use super::{
    raw::{RawQuery, RawRule},
    resolve::Resolver,
};

/// Names in one list, and paths in one rule: each is compared with each parameter of a request.
const LIST_MAX: usize = 64;

/// Rules of a site: each request walks them.
pub(super) const RULES_MAX: usize = 64;

const WAYS: &str =
    "write \"keep\", \"ignore\", \"sort\", { drop = [\"utm_*\"] } or { only = [\"v\"] }";

/// `site.query`: what of the query takes part in the key and reaches the origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// Which parameters. Default all.
    pub take: Take,
    /// Whether they are put in the order of their names. Default false.
    pub sort: bool,
}

/// Which parameters of a query take part. A `*` may stand at a name's end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Take {
    /// All.
    #[default]
    All,
    /// None.
    Nothing,
    /// All but these.
    Except(Vec<String>),
    /// These alone.
    Only(Vec<String>),
}

/// One `[[site.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// Paths it holds for; at least one. A `*` may stand at the end.
    pub paths: Vec<String>,
    /// In place of the site's own.
    pub query: Query,
}

/// As it stands in a file.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| {
            let quoted: Vec<_> = names
                .iter()
                .map(|name| toml::Value::String(name.clone()).to_string())
                .collect();
            format!("[{}]", quoted.join(", "))
        };
        let sort = if self.sort { ", sort = true" } else { "" };
        match &self.take {
            Take::All if self.sort => f.write_str("\"sort\""),
            Take::All => f.write_str("\"keep\""),
            Take::Nothing => f.write_str("\"ignore\""),
            Take::Except(names) => write!(f, "{{ drop = {}{sort} }}", list(names)),
            Take::Only(names) => write!(f, "{{ only = {}{sort} }}", list(names)),
        }
    }
}

impl Resolver<'_> {
    pub(super) fn query(&mut self, value: &Spanned<RawQuery>, key: &str) -> Query {
        let table = match value.get_ref() {
            RawQuery::Text(text) => {
                let text = Spanned::new(value.span(), text.clone());
                return self.parsed(&text, key, word).unwrap_or_default();
            }
            RawQuery::Table(table) => table,
        };
        let before = self.errors.len();
        let drop = self.list(&table.drop, &format!("{key}.drop"), parameter);
        let only = self.list(&table.only, &format!("{key}.only"), parameter);
        let sort = table.sort.as_ref().is_some_and(|sort| *sort.get_ref());
        let take = match (&table.drop, &table.only) {
            (Some(_), Some(_)) => {
                self.fail(value, key, "has both `drop` and `only` (remove one)");
                Take::All
            }
            (Some(_), None) if !drop.is_empty() => Take::Except(drop),
            (None, Some(_)) if !only.is_empty() => Take::Only(only),
            (None, None) if sort => Take::All,
            _ if self.errors.len() == before && self.whole => {
                self.fail(value, key, format!("names no parameters ({WAYS})"));
                Take::All
            }
            _ => Take::All,
        };
        if let Take::Except(names) | Take::Only(names) = &take
            && names.len() > LIST_MAX
        {
            self.fail(
                value,
                key,
                format!(
                    "has {} names (at most {LIST_MAX}; a `*` at the end stands for many)",
                    names.len()
                ),
            );
        }
        Query { take, sort }
    }

    pub(super) fn path_rule(&mut self, value: &Spanned<RawRule>, key: &str) -> Option<PathRule> {
        let rule = value.get_ref();
        let before = self.errors.len();
        let paths = self.list(&rule.paths, &format!("{key}.paths"), path);
        if self.errors.len() == before && self.whole && !(1..=LIST_MAX).contains(&paths.len()) {
            let message = format!(
                "has {} paths (write 1 to {LIST_MAX}, such as paths = [\"/images/*\"])",
                paths.len()
            );
            self.fail(value, &format!("{key}.paths"), message);
        }
        let Some(query) = &rule.query else {
            if self.whole {
                self.fail(value, key, format!("decides nothing (add query: {WAYS})"));
            }
            return None;
        };
        let query = self.query(query, &format!("{key}.query"));
        Some(PathRule { paths, query })
    }
}

fn word(text: &str) -> Result<Query, String> {
    let (take, sort) = match text {
        "keep" => (Take::All, false),
        "ignore" => (Take::Nothing, false),
        "sort" => (Take::All, true),
        _ => return Err(format!("`{text}` is no way to treat a query ({WAYS})")),
    };
    Ok(Query { take, sort })
}

/// The name of a parameter, perhaps with a `*` behind it.
fn parameter(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('*').unwrap_or(text);
    if text == "*" {
        return Err("`*` is every parameter (write query = \"ignore\" or \"keep\")".to_owned());
    }
    if name.contains('*') {
        return Err(format!(
            "`{text}` has a `*` that is not at its end (write \"utm_*\" or a whole name)"
        ));
    }
    if name.is_empty() || !is_plain(name) || name.contains(['&', '=', '?']) {
        return Err(format!(
            "`{text}` is no name of a parameter (write it as it stands in URLs, such as \"utm_source\")"
        ));
    }
    Ok(text.to_owned())
}

/// A path, perhaps with a `*` behind it.
fn path(text: &str) -> Result<String, String> {
    let path = text.strip_suffix('*').unwrap_or(text);
    if path.contains('*') {
        return Err(format!(
            "`{text}` has a `*` that is not at its end (write \"/images/*\" or a whole path)"
        ));
    }
    if !path.starts_with('/') || !is_plain(path) || path.contains('?') {
        return Err(format!(
            "`{text}` is no path (write it as it stands in URLs, without query, such as \"/images/*\")"
        ));
    }
    let dots = |segment: &str| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        plain == "." || plain == ".."
    };
    if path.split('/').any(dots) {
        return Err(format!(
            "`{text}` has a dot segment, which no normal path has (write the path it leads to)"
        ));
    }
    Ok(text.to_owned())
}

/// Characters that stand in a URL as they are, each `%` with its two digits.
fn is_plain(text: &str) -> bool {
    let encoded = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes();
        digits.len() >= 2 && digits.iter().take(2).all(u8::is_ascii_hexdigit)
    });
    encoded
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
}
