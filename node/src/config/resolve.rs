//! From what the file says to what the servers use: each value checked, defaults filled in, then all of it checked together.
//!
//! Cross checks about what is missing run only when nothing else is wrong: a misspelt `[[site]]` should be reported as
//! that, not as a file without sites too.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

use super::{
    hosts,
    problem::{ConfigError, ConfigErrors},
    raw::{At, RawConfig, Strings, strings},
    resolved::{
        AdminAddr, Cache, Cluster, Config, DiskEngine, GeoFiles, Limits, Listen, Log, LogFormat,
        Node, PeerPolicy, Role, Scheme, Shield, Timeouts,
    },
    source::{Position, Sources},
    units::{Count, Size, Time, format_duration, format_size},
};

/// A worker's number is six bits of a connection ID.
pub(super) const WORKERS_MAX: usize = 64;
/// Heads beyond this are no requests that a browser or a script sends.
const HEADER_BYTES_MAX: u64 = 1 << 20;

const STATE_DIR: &str = "/var/lib/stoq";
const DRAIN: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 10_000;
const HEADER_BYTES: u64 = 64 << 10;
const BODY_BYTES: u64 = 1 << 30;
const ORIGIN_CONNECTIONS: usize = 1024;
const TIMEOUTS: Timeouts = Timeouts {
    request_head: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    origin_connect: Duration::from_secs(3),
    origin_first_byte: Duration::from_secs(30),
    origin_between_bytes: Duration::from_secs(30),
};
const RAM: u64 = 256 << 20;
const HEADS: u64 = 32 << 20;
const FILL_BUFFER: u64 = 64 << 20;
/// A terabyte in three days.
const DISK_SCRUB: u64 = 4 << 20;
const VARIANTS: usize = 16;
/// A lookup compares each variant of its URL.
const VARIANTS_MAX: usize = 256;
/// Each is asked again every 30 s.
const SEEDS_MAX: usize = 64;
/// Addresses and names of one node that others are told.
const PLACES_MAX: usize = 8;
const LOG_FILTER: &str = "info";
const CLUSTER_NAME: &str = "stoq";
const LEAF_ROTATION: Duration = Duration::from_secs(24 * 3600);
const LEAF_ROTATION_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(36 * 3600);

/// Resolves and checks.
pub(super) fn resolve(
    raw: &RawConfig,
    role: Role,
    sources: &Sources,
    positions: BTreeMap<String, Position>,
    errors: ConfigErrors,
) -> Result<Config, ConfigErrors> {
    let mut resolver = Resolver {
        sources,
        whole: errors.is_empty(),
        errors,
    };
    let config = resolver.config(raw, role, positions);
    if resolver.errors.is_empty() {
        super::checks::check(&config, role, &mut resolver.errors);
    }
    if resolver.errors.is_empty() {
        Ok(config)
    } else {
        Err(resolver.errors.sorted(sources))
    }
}

pub(super) struct Resolver<'a> {
    pub(super) sources: &'a Sources,
    /// Whether nothing was taken out of the table before, so that what is absent was never written.
    pub(super) whole: bool,
    pub(super) errors: ConfigErrors,
}

impl Resolver<'_> {
    pub(super) fn fail<T>(&mut self, value: &Spanned<T>, key: &str, message: impl Into<String>) {
        let position = self.sources.position(value.span().start);
        self.errors.push(ConfigError {
            position,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// The value read by `parse`, or None after its error was noted.
    pub(super) fn parsed<T>(
        &mut self,
        value: &Spanned<String>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                self.fail(value, key, message);
                None
            }
        }
    }

    /// The value if it is set and good, else the default.
    pub(super) fn or<T>(
        &mut self,
        value: &At<String>,
        key: &str,
        default: impl FnOnce() -> T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        value
            .as_ref()
            .and_then(|value| self.parsed(value, key, parse))
            .unwrap_or_else(default)
    }

    /// Each string of a list, read by `parse`; bad ones are noted and left out. A repeated one is noted too.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        value: &At<Strings>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = value else {
            return Vec::new();
        };
        let mut list = Vec::new();
        for item in strings(value) {
            if let Some(parsed) = self.parsed(&item, key, &parse) {
                if list.contains(&parsed) {
                    self.fail(
                        &item,
                        key,
                        format!("`{}` stands twice in the list (remove one)", item.get_ref()),
                    );
                } else {
                    list.push(parsed);
                }
            }
        }
        list
    }

    /// A path joined to the directory of the file that has it.
    pub(super) fn path(&mut self, value: &Spanned<String>, key: &str) -> PathBuf {
        let dir = self
            .sources
            .of(value.span().start)
            .map_or_else(|| Path::new(""), |source| source.dir.as_path());
        if value.get_ref().is_empty() || value.get_ref().contains('\0') {
            self.fail(value, key, "is no path (leave the key out for its default)");
        }
        dir.join(value.get_ref())
    }

    fn config(
        &mut self,
        raw: &RawConfig,
        role: Role,
        positions: BTreeMap<String, Position>,
    ) -> Config {
        let name = self.or(&raw.node.name, "node.name", host_name, hosts::token);
        let state_dir = raw.node.state_dir.as_ref().map_or_else(
            || PathBuf::from(STATE_DIR),
            |path| self.path(path, "node.state_dir"),
        );
        let cluster = self.cluster(raw, role, &state_dir);
        let cdn_id = cluster
            .as_ref()
            .map_or_else(|| name.clone(), |cluster| cluster.name.clone());
        let cdn_id = self.or(&raw.node.cdn_id, "node.cdn_id", || cdn_id, hosts::token);
        let node = Node {
            name,
            state_dir,
            workers: self.workers(&raw.node.workers),
            drain: time(&raw.node.drain, DRAIN),
            cdn_id,
            zone: self.zone(&raw.node.zone),
            position: self.geo_position(&raw.node.position),
            asn: self.network_number(&raw.node.asn),
            public: self.public(&raw.node.public),
        };
        let cache = Cache {
            ram: size(&raw.cache.ram, RAM),
            heads: size(&raw.cache.heads, HEADS),
            fill_buffer: size(&raw.cache.fill_buffer, FILL_BUFFER),
            variants: self.variants(&raw.cache.variants),
            disk: self.volumes(&raw.cache.disk),
            disk_engine: self.disk_engine(&raw.cache.disk_engine),
            disk_writes_per_day: raw
                .cache
                .disk_writes_per_day
                .as_ref()
                .map(|bytes| bytes.get_ref().0),
            disk_scrub: raw
                .cache
                .disk_scrub
                .as_ref()
                .map_or(Some(DISK_SCRUB), |rate| rate.get_ref().0),
        };
        let sites = raw
            .site
            .iter()
            .enumerate()
            .map(|(index, site)| self.site(site, index))
            .collect();
        Config {
            node,
            listen: self.listen(raw),
            limits: self.limits(raw, &cache),
            cache,
            tls: self.tls(raw),
            log: self.log(raw),
            cluster,
            stoq: self.stoq(&raw.stoq),
            shape: self.shape(&raw.shape),
            xdp: self.xdp(&raw.xdp),
            shield: self.shield(raw),
            sites,
            positions,
            whole: self.sources.whole(),
        }
    }

    fn variants(&mut self, value: &At<Count>) -> usize {
        let variants = count(value, VARIANTS);
        if let Some(value) = value.as_ref().filter(|_| variants > VARIANTS_MAX) {
            self.fail(
                value,
                "cache.variants",
                format!("{variants} is too many, as each lookup may compare them all (at most {VARIANTS_MAX})"),
            );
        }
        variants.min(VARIANTS_MAX)
    }

    fn disk_engine(&mut self, value: &At<String>) -> DiskEngine {
        self.or(
            value,
            "cache.disk_engine",
            || DiskEngine::Auto,
            |text| {
                let known = [DiskEngine::Auto, DiskEngine::IoUring, DiskEngine::Threads];
                let known = known.into_iter().find(|engine| engine.as_str() == text);
                known.ok_or_else(|| {
                    format!("`{text}` is no engine (write \"auto\", \"io_uring\" or \"threads\")")
                })
            },
        )
    }

    /// As [`list`](Self::list), of at most `max`.
    pub(super) fn at_most<T: PartialEq>(
        &mut self,
        max: usize,
        value: &At<Strings>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut list = self.list(value, key, parse);
        if let Some(value) = value.as_ref().filter(|_| list.len() > max) {
            let message = format!("has {} entries (at most {max})", list.len());
            self.fail(value, key, message);
            list.truncate(max);
        }
        list
    }

    fn public(&mut self, value: &At<Strings>) -> Vec<String> {
        let key = "node.public";
        let list = self.list(value, key, hosts::host);
        let addresses = list.iter().filter(|text| text.parse::<IpAddr>().is_ok());
        let addresses = addresses.count();
        if let Some(value) = value
            .as_ref()
            .filter(|_| addresses > PLACES_MAX || list.len() - addresses > PLACES_MAX)
        {
            let message = format!("has more than {PLACES_MAX} names or addresses (remove some)");
            self.fail(value, key, message);
        }
        list
    }

    fn workers(&mut self, value: &At<Count>) -> usize {
        let Some(value) = value else {
            return std::thread::available_parallelism()
                .map_or(1, NonZero::get)
                .min(WORKERS_MAX);
        };
        if value.get_ref().0 > WORKERS_MAX {
            self.fail(
                value,
                "node.workers",
                format!("{} is too many (at most {WORKERS_MAX})", value.get_ref().0),
            );
        }
        value.get_ref().0.min(WORKERS_MAX)
    }

    fn listen(&mut self, raw: &RawConfig) -> Listen {
        let listen = &raw.listen;
        Listen {
            https: self.list(&listen.https, "listen.https", |text| socket_addr(text, 443)),
            http: self.list(&listen.http, "listen.http", |text| socket_addr(text, 80)),
            http_scheme: self.or(
                &listen.http_scheme,
                "listen.http_scheme",
                || Scheme::Http,
                |text| match text {
                    "http" => Ok(Scheme::Http),
                    "https" => Ok(Scheme::Https),
                    _ => Err(format!(
                        "`{text}` is no scheme (write \"http\" or \"https\")"
                    )),
                },
            ),
            stoq: self.list(&listen.stoq, "listen.stoq", |text| socket_addr(text, 7443)),
            admin: listen.admin.as_ref().and_then(|value| self.admin(value)),
        }
    }

    fn admin(&mut self, value: &Spanned<String>) -> Option<AdminAddr> {
        let key = "listen.admin";
        if let Some(path) = value.get_ref().strip_prefix("unix:") {
            return Some(AdminAddr::Unix(
                self.path(&Spanned::new(value.span(), path.to_owned()), key),
            ));
        }
        let addr = self.parsed(value, key, |text| socket_addr(text, 9100))?;
        if !addr.ip().is_loopback() {
            let port = addr.port();
            self.fail(value, key, format!("{addr} can be reached by other machines (write \"127.0.0.1:{port}\" or \"unix:admin.sock\")"));
            return None;
        }
        Some(AdminAddr::Tcp(addr))
    }

    fn limits(&mut self, raw: &RawConfig, cache: &Cache) -> Limits {
        let limits = &raw.limits;
        let connections = count(&limits.connections, CONNECTIONS);
        let needed = Limits::memory_needed(cache, connections);
        let memory = size(&limits.memory, needed);
        if let Some(value) = limits.memory.as_ref().filter(|_| memory < needed) {
            let index = match Limits::disk_index(cache) {
                0 => String::new(),
                bytes => format!(
                    " + {} for the index of cache.disk and {} for its buffers",
                    format_size(bytes),
                    format_size(Limits::disk_buffers(cache))
                ),
            };
            let parts = format!(
                "cache.ram {} + cache.heads {} + cache.fill_buffer {}{index} + {connections} connections of {} + {} for the program",
                format_size(cache.ram),
                format_size(cache.heads),
                format_size(cache.fill_buffer),
                format_size(Limits::CONNECTION_BYTES),
                format_size(Limits::PROGRAM_BYTES),
            );
            let message = format!(
                "{} is less than its parts: {parts} = {} (raise it, or lower a part)",
                format_size(memory),
                format_size(needed)
            );
            self.fail(value, "limits.memory", message);
        }
        let header_bytes = size(&limits.header_bytes, HEADER_BYTES);
        if let Some(value) = limits
            .header_bytes
            .as_ref()
            .filter(|_| header_bytes > HEADER_BYTES_MAX)
        {
            self.fail(
                value,
                "limits.header_bytes",
                format!("is above {} (lower it)", format_size(HEADER_BYTES_MAX)),
            );
        }
        Limits {
            memory,
            connections,
            per_prefix_connections: limits
                .per_prefix_connections
                .as_ref()
                .map(|value| value.get_ref().0),
            header_bytes: usize::try_from(header_bytes.min(HEADER_BYTES_MAX)).unwrap_or(usize::MAX),
            body_bytes: size(&limits.body_bytes, BODY_BYTES),
            origin_connections: count(&limits.origin_connections, ORIGIN_CONNECTIONS),
            trusted_proxies: self.list(&limits.trusted_proxies, "limits.trusted_proxies", network),
            timeouts: Timeouts {
                request_head: time(&limits.timeouts.request_head, TIMEOUTS.request_head),
                idle: time(&limits.timeouts.idle, TIMEOUTS.idle),
                origin_connect: time(&limits.timeouts.origin_connect, TIMEOUTS.origin_connect),
                origin_first_byte: time(
                    &limits.timeouts.origin_first_byte,
                    TIMEOUTS.origin_first_byte,
                ),
                origin_between_bytes: time(
                    &limits.timeouts.origin_between_bytes,
                    TIMEOUTS.origin_between_bytes,
                ),
            },
        }
    }

    fn log(&mut self, raw: &RawConfig) -> Log {
        Log {
            format: self.or(
                &raw.log.format,
                "log.format",
                || LogFormat::Text,
                |text| match text {
                    "text" => Ok(LogFormat::Text),
                    "json" => Ok(LogFormat::Json),
                    _ => Err(format!(
                        "`{text}` is no format (write \"text\" or \"json\")"
                    )),
                },
            ),
            filter: self.or(
                &raw.log.filter,
                "log.filter",
                || LOG_FILTER.to_owned(),
                |text| match EnvFilter::try_new(text) {
                    Ok(_) => Ok(text.to_owned()),
                    Err(error) => Err(format!(
                        "`{text}` is no filter: {error} (write \"info\" or \"info,stoq=debug\")"
                    )),
                },
            ),
            access: raw.log.access.as_ref().is_none_or(|value| *value.get_ref()),
        }
    }

    fn cluster(&mut self, raw: &RawConfig, role: Role, state_dir: &Path) -> Option<Cluster> {
        let default = || Cluster {
            name: CLUSTER_NAME.to_owned(),
            identity: state_dir.join("identity.pem"),
            root: state_dir.join("root.pem"),
            revoked: None,
            audit: None,
            leaf_rotation: LEAF_ROTATION,
            seeds: Vec::new(),
            srv: None,
            mdns: false,
            advertise: Vec::new(),
            policy: PeerPolicy::default(),
            homes: true,
            geo: GeoFiles::default(),
        };
        let Some(table) = &raw.cluster else {
            return (role == Role::Shield).then(default);
        };
        let Cluster {
            name,
            identity,
            root,
            leaf_rotation,
            ..
        } = default();
        let leaf_rotation = time(&table.leaf_rotation, leaf_rotation);
        if let Some(value) = &table.leaf_rotation
            && !LEAF_ROTATION_RANGE.contains(&leaf_rotation)
        {
            let message = format!(
                "{} is not from {} to {}: a leaf is valid for at most 72h, and the next is to come well before",
                format_duration(leaf_rotation),
                format_duration(*LEAF_ROTATION_RANGE.start()),
                format_duration(*LEAF_ROTATION_RANGE.end()),
            );
            self.fail(value, "cluster.leaf_rotation", message);
        }
        Some(Cluster {
            name: self.or(&table.name, "cluster.name", || name, hosts::token),
            identity: table
                .identity
                .as_ref()
                .map_or(identity, |path| self.path(path, "cluster.identity")),
            root: table
                .root
                .as_ref()
                .map_or(root, |path| self.path(path, "cluster.root")),
            revoked: table
                .revoked
                .as_ref()
                .map(|path| self.path(path, "cluster.revoked")),
            audit: table
                .audit
                .as_ref()
                .map(|path| self.path(path, "cluster.audit")),
            leaf_rotation,
            seeds: self.at_most(SEEDS_MAX, &table.seeds, "cluster.seeds", hosts::node_addr),
            srv: table
                .srv
                .as_ref()
                .and_then(|name| self.parsed(name, "cluster.srv", hosts::srv)),
            mdns: table.mdns.as_ref().is_some_and(|value| *value.get_ref()),
            advertise: self.at_most(PLACES_MAX, &table.advertise, "cluster.advertise", reachable),
            policy: self.or(
                &table.policy,
                "cluster.policy",
                PeerPolicy::default,
                PeerPolicy::parse,
            ),
            homes: table.homes.as_ref().is_none_or(|value| *value.get_ref()),
            geo: self.geo(&table.geo),
        })
    }

    fn shield(&mut self, raw: &RawConfig) -> Option<Shield> {
        let table = raw.shield.as_ref()?;
        let before = self.errors.len();
        let nodes = self.list(&table.get_ref().nodes, "shield.nodes", hosts::node_addr);
        if nodes.is_empty() && self.whole && self.errors.len() == before {
            self.fail(
                table,
                "shield.nodes",
                "is empty (write nodes = [\"shield.example.net:7443\"], or remove [shield])",
            );
        }
        Some(Shield { nodes })
    }
}

pub(super) fn size(value: &At<Size>, default: u64) -> u64 {
    value.as_ref().map_or(default, |value| value.get_ref().0)
}

pub(super) fn time(value: &At<Time>, default: Duration) -> Duration {
    value.as_ref().map_or(default, |value| value.get_ref().0)
}

pub(super) fn count(value: &At<Count>, default: usize) -> usize {
    value.as_ref().map_or(default, |value| value.get_ref().0)
}

/// The host's name as a token: what a token cannot have becomes `-`.
fn host_name() -> String {
    let name: String = gethostname::gethostname()
        .to_string_lossy()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .take(64)
        .collect();
    if name.is_empty() {
        "stoq".to_owned()
    } else {
        name
    }
}

fn socket_addr(text: &str, port: u16) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let split = text.rsplit_once(':');
        let (host, port) = split
            .and_then(|(host, written)| Some((host, written.parse::<u16>().ok()?)))
            .unwrap_or((text, port));
        let fix = match text.parse::<IpAddr>() {
            Ok(ip) => format!("write \"{}\"", SocketAddr::new(ip, port)),
            Err(_) if host == "localhost" => {
                format!(
                    "a name may mean two addresses: write \"127.0.0.1:{port}\" and \"[::1]:{port}\""
                )
            }
            Err(_) => format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\""),
        };
        format!("`{text}` is no IP address with a port ({fix})")
    })
}

/// An address that others can be told.
fn reachable(text: &str) -> Result<SocketAddr, String> {
    let addr = socket_addr(text, 7443)?;
    if addr.ip().is_unspecified() || addr.port() == 0 {
        return Err(format!(
            "`{text}` is no place (write the address and port that other nodes reach)"
        ));
    }
    Ok(addr)
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| format!("`{text}` is no network (write \"10.0.0.0/8\", or an address)"))
}
