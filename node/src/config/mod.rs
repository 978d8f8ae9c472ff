//! The operator's file: read, merged, checked, resolved.
//!
//! A load goes through these steps, a file each:
//!
//! 1. `include`, `merge`, `environment`: the file, what it includes and the `STOQ__…` variables become one table;
//!    every span names its source.
//! 2. `keys`: unknown keys are taken out, each reported with the key that was meant.
//! 3. `raw`: the rest is read into structs that refuse unknown keys; a value of the wrong type is reported and taken
//!    out, and reading goes on, so that one load reports everything.
//! 4. `resolve`, `sites`, `links`, `xdp`, `query`, `checks`: values are checked by themselves and against each other, defaults filled in, paths joined.
//! 5. `show`: the way back, for `config show`.
//!
//! **Paths** are relative to the directory of the file that has them, so a service finds its files wherever it was started; paths
//! in environment variables are relative to the working directory.
//!
//! **Variables** are named `STOQ__TABLE__KEY`: `STOQ__NODE__NAME=edge-7`, `STOQ__LIMITS__TIMEOUTS__IDLE=20s`. The value is plain
//! text, or TOML where it starts with `[` or `{` (`STOQ__LISTEN__HTTPS='["0.0.0.0:443"]'`) or where the key is no string. They
//! override the file. `[[site]]` and `include` cannot be set this way.
//!
//! Invariant: a [`Config`] has passed every check that needs no network and no other file than its own.

mod checks;
mod environment;
mod hosts;
mod include;
mod keys;
mod links;
mod merge;
mod origins;
mod places;
mod problem;
mod query;
mod raw;
mod resolve;
mod resolved;
mod show;
mod sites;
mod source;
mod units;
mod xdp;

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use self::{
    environment::Override,
    keys::Step,
    raw::RawConfig,
    source::{Kind, Sources},
};
pub use self::{
    environment::{ENV_PREFIX, Env, VARIABLES_MAX},
    include::{DEPTH_MAX, FILE_BYTES_MAX, FILES_MAX, TOTAL_BYTES_MAX},
    keys::all_keys,
    links::{Shape, ShapeClass, Stoq},
    problem::{ConfigError, ConfigErrors},
    query::{PathRule, Query, Take},
    resolved::{
        AdminAddr, Cache, Certificate, Cluster, Config, DiskEngine, GeoFiles, GeoPosition,
        HostPattern, HttpOrigin, Limits, Listen, Log, LogFormat, Node, NodeAddr, OriginSpec,
        PeerPolicy, Role, Scheme, Shield, Site, Timeouts, Tls, Volume,
    },
    source::Position,
    units::{
        DURATION_MAX, PacketRate, UnitError, format_duration, format_packet_rate, format_size,
        parse_duration, parse_packet_rate, parse_size,
    },
    xdp::{LISTED_MAX, PacketRates, Xdp, XdpMode},
};

/// The reference for an edge: every key with its unit and its default. What `config init` prints.
pub const EDGE_REFERENCE: &str = include_str!("../../../configs/edge.toml");

/// The reference for a shield.
pub const SHIELD_REFERENCE: &str = include_str!("../../../configs/shield.toml");

impl Config {
    /// Loads a file, what it includes, and the variables that override it.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place and its fix.
    pub fn load(path: &Path, env: &Env, role: Role) -> Result<Self, ConfigErrors> {
        let mut sources = Sources::default();
        let mut errors = ConfigErrors::default();
        include::read_main(path, &mut sources, &mut errors);
        build(&mut sources, env, role, errors)
    }

    /// Loads a text under a name, with paths and includes relative to `dir`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        name: &str,
        text: &str,
        dir: &Path,
        env: &Env,
        role: Role,
    ) -> Result<Self, ConfigErrors> {
        let mut sources = Sources::default();
        let mut errors = ConfigErrors::default();
        let index = sources.add(Kind::File, name, text.to_owned(), dir);
        include::follow_includes(&mut sources, index, &mut errors);
        build(&mut sources, env, role, errors)
    }
}

fn build(
    sources: &mut Sources,
    env: &Env,
    role: Role,
    mut errors: ConfigErrors,
) -> Result<Config, ConfigErrors> {
    let variables = environment::read_env(env, sources, &mut errors);
    let sources = &*sources;
    let mut table = merge::merge_files(sources, &mut errors);
    let overrides = environment::apply_env(&mut table, &variables, sources, &mut errors);
    let raw = read(&mut table, overrides, sources, &mut errors);
    let mut positions = BTreeMap::new();
    places(&table, &mut Vec::new(), sources, &mut positions);
    resolve::resolve(&raw, role, sources, positions, errors)
}

/// Reads the table into the raw structs. A value that does not fit is reported, taken out, and the rest read again.
fn read<'a>(
    table: &mut DeTable<'a>,
    mut overrides: Vec<Override>,
    sources: &'a Sources,
    errors: &mut ConfigErrors,
) -> RawConfig {
    for _ in 0..ConfigErrors::MAX {
        let error =
            match RawConfig::deserialize(Deserializer::from(Spanned::new(0..0, table.clone()))) {
                Ok(raw) => return raw,
                Err(error) => error,
            };
        let span = error.span();
        let path = span.as_ref().and_then(|span| keys::locate(table, span));
        let (Some(span), Some(path)) = (span, path) else {
            errors.push(ConfigError {
                position: sources.whole(),
                key: String::new(),
                message: error.message().trim().to_owned(),
            });
            break;
        };
        // A variable's text stood for a string; the key wants something else, so read it as TOML before giving up.
        let again = overrides
            .iter_mut()
            .find(|o| !o.as_toml && o.span.start <= span.start && span.end <= o.span.end);
        if let Some(again) = again {
            again.as_toml = true;
            if read_as_toml(table, again, sources) {
                continue;
            }
        }
        errors.push(ConfigError {
            position: sources.position(span.start),
            key: keys::display(&path),
            message: worded(error.message().trim()),
        });
        if !keys::remove(table, &path) {
            break;
        }
    }
    RawConfig::default()
}

fn read_as_toml<'a>(table: &mut DeTable<'a>, variable: &Override, sources: &'a Sources) -> bool {
    let Some(source) = sources.all().get(variable.source) else {
        return false;
    };
    environment::parse_value(&source.text, source.base())
        .is_ok_and(|value| environment::set(table, &variable.path, value, &variable.span))
}

/// The parser's words, where ours say more.
fn worded(message: &str) -> String {
    if message == "invalid type: map, expected a sequence" {
        return "is a list of tables (write [[site]], with two brackets)".to_owned();
    }
    message.to_owned()
}

/// Notes where each key stands.
fn places(
    table: &DeTable<'_>,
    path: &mut Vec<Step>,
    sources: &Sources,
    into: &mut BTreeMap<String, Position>,
) {
    for (key, value) in table {
        path.push(Step::Key(key.get_ref().to_string()));
        places_of(value, path, sources, into);
        path.pop();
    }
}

fn places_of(
    value: &Spanned<DeValue<'_>>,
    path: &mut Vec<Step>,
    sources: &Sources,
    into: &mut BTreeMap<String, Position>,
) {
    into.insert(keys::display(path), sources.position(value.span().start));
    match value.get_ref() {
        DeValue::Table(table) => places(table, path, sources, into),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index));
                places_of(item, path, sources, into);
                path.pop();
            }
        }
        _ => {}
    }
}
