//! The configuration as the servers use it: every default filled in, every size in bytes, every path joined.
//!
//! Plain values only. `node` knows no cache, no transport and no HTTP server; the binaries turn these into theirs.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use ipnet::IpNet;

use super::{
    links::{Shape, Stoq},
    problem::ConfigError,
    query::{PathRule, Query},
    source::Position,
    xdp::Xdp,
};

/// What a process does with the file. Both binaries share the format; what they must find in it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `stoq-edge`: serves clients, so it needs a client listener.
    Edge,
    /// `stoq-shield`: serves edges, so it needs `listen.stoq`.
    Shield,
}

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[listen]`
    pub listen: Listen,
    /// `[limits]`
    pub limits: Limits,
    /// `[cache]`
    pub cache: Cache,
    /// `[tls]`
    pub tls: Tls,
    /// `[log]`
    pub log: Log,
    /// `[cluster]`. Present whenever the process speaks STOQ: always for a shield, for an edge if the file has the table.
    pub cluster: Option<Cluster>,
    /// `[stoq]`
    pub stoq: Stoq,
    /// `[shape]`
    pub shape: Shape,
    /// `[xdp]`
    pub xdp: Xdp,
    /// `[shield]`
    pub shield: Option<Shield>,
    /// Every `[[site]]`, in the order of the files. At least one.
    pub sites: Vec<Arc<Site>>,
    pub(super) positions: BTreeMap<String, Position>,
    pub(super) whole: Position,
}

impl Config {
    /// Where a key was written, such as `listen.https`, `listen.https[1]` or `site[0].origins[0]`; the file as a whole when it is
    /// absent. For messages about what only the process itself finds out: an address in use, an origin that does not answer.
    pub fn position(&self, key: &str) -> &Position {
        self.positions.get(key).unwrap_or(&self.whole)
    }

    /// Whether the key was written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.positions.contains_key(key)
    }

    /// The key of a list's item, or of the list where it was written as one string.
    pub(super) fn item(&self, list: &str, index: usize) -> String {
        let item = format!("{list}[{index}]");
        if self.has(&item) {
            item
        } else {
            list.to_owned()
        }
    }

    /// An error about a key, placed where the key was written.
    pub fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError {
            position: self.position(key).clone(),
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

/// `[node]`: this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in logs, `Via` and `Cache-Status`. Default: the host's name. An RFC 9110 token, at most 64 characters.
    pub name: String,
    /// Where it keeps what must outlive it; created with mode 0700. Default: `/var/lib/stoq`.
    pub state_dir: PathBuf,
    /// Worker threads. Default: the cores this process may use; at most 64, which is what a connection ID can name.
    pub workers: usize,
    /// How long open requests may take after a first SIGTERM. Default 30 s.
    pub drain: Duration,
    /// This CDN in `CDN-Loop` (RFC 8586): a request that carries it already went through here. Default: the cluster's name, else the node's.
    pub cdn_id: String,
    /// Where it stands, `region-metro`. None: what it measures.
    pub zone: Option<String>,
    /// Where it is on the globe. None: what `cluster.geo` knows of its addresses.
    pub position: Option<GeoPosition>,
    /// The number of the network it is in (autonomous system). None: what `cluster.geo` knows of its addresses.
    pub asn: Option<u32>,
    /// Names and addresses clients reach it under, at most 8 of each; IP addresses in their one spelling.
    pub public: Vec<String>,
}

/// A place on the globe, to a millionth of a degree: 11 cm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeoPosition {
    /// Millionths of a degree, -90,000,000 to 90,000,000.
    pub latitude_e6: i32,
    /// Millionths of a degree, -180,000,000 to 180,000,000.
    pub longitude_e6: i32,
}

impl GeoPosition {
    /// Degrees, -90 to 90.
    #[must_use]
    pub fn latitude(self) -> f64 {
        f64::from(self.latitude_e6) / 1e6
    }

    /// Degrees, -180 to 180.
    #[must_use]
    pub fn longitude(self) -> f64 {
        f64::from(self.longitude_e6) / 1e6
    }
}

/// `[listen]`: the addresses of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// HTTP/3 over UDP and, on the same ports over TCP, TLS with HTTP/2 and HTTP/1.1.
    pub https: Vec<SocketAddr>,
    /// Plain HTTP/1.1, behind a local TLS terminator or for tests.
    pub http: Vec<SocketAddr>,
    /// Which scheme a request on `http` counts as. Default `http`.
    pub http_scheme: Scheme,
    /// STOQ, for other nodes. A shield needs it; an edge that has it gives other edges what it holds.
    pub stoq: Vec<SocketAddr>,
    /// Metrics and health. None: no admin listener.
    pub admin: Option<AdminAddr>,
}

/// A URL scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port when a URL names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Where the admin listener listens: never on an address that another machine reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddr {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A socket file, created with mode 0600.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[limits]`: what one process may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that all of `[cache]`, the connections and the program may add up to. Default: exactly that sum, see [`Limits::memory_needed`].
    pub memory: u64,
    /// Client connections at once, over all listeners; the next is refused. Default 10,000.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one IPv6 /64, over `listen.https` and `listen.stoq` and all workers; the next is
    /// refused. Default: no fewer than all together.
    pub per_prefix_connections: Option<usize>,
    /// Bytes of one request's head; a larger one is answered 431. Default 64 KiB.
    pub header_bytes: usize,
    /// Bytes of one request's body; a larger one is answered 413. Bodies stream, so this bounds transfer and not memory. Default 1 GiB.
    pub body_bytes: u64,
    /// Connections to origins at once, over all workers; the next request waits for a free one. Default 1,024.
    pub origin_connections: usize,
    /// Peers whose `X-Forwarded-For` and `Forwarded` are believed. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// `[limits.timeouts]`
    pub timeouts: Timeouts,
}

impl Limits {
    /// What an idle connection costs with its TLS state and buffers: an upper figure for the sum behind `limits.memory`.
    pub const CONNECTION_BYTES: u64 = 64 << 10;

    /// What the program takes before the first connection: code, runtimes, socket buffers, tables.
    pub const PROGRAM_BYTES: u64 = 64 << 20;

    /// Bytes on disk for which the index in memory takes 24: what a chunk has on average.
    pub const DISK_RECORD_BYTES: u64 = 16 << 10;

    /// What the index of `cache.disk` takes: 24 B for each 16 KiB, 1.5 GiB for 1 TiB. More where what is stored is smaller on average.
    #[must_use]
    pub fn disk_index(cache: &Cache) -> u64 {
        let sizes = cache.disk.iter().map(|volume| volume.size);
        let bytes = sizes.fold(0, u64::saturating_add);
        (bytes / Self::DISK_RECORD_BYTES).saturating_mul(24)
    }

    /// What reading and writing `cache.disk` takes: 16 MiB of buffers and 32 MiB of runs that readers hold, and 16 MiB for what each volume has not written yet.
    #[must_use]
    pub fn disk_buffers(cache: &Cache) -> u64 {
        match cache.disk.len() as u64 {
            0 => 0,
            volumes => (48 << 20) + volumes.saturating_mul(16 << 20),
        }
    }

    /// The sum of all that is bounded elsewhere: `cache.ram` + `cache.heads` + `cache.fill_buffer` + the index and the buffers of `cache.disk` +
    /// connections × 64 KiB + 64 MiB.
    pub fn memory_needed(cache: &Cache, connections: usize) -> u64 {
        cache
            .ram
            .saturating_add(cache.heads)
            .saturating_add(cache.fill_buffer)
            .saturating_add(Self::disk_index(cache))
            .saturating_add(Self::disk_buffers(cache))
            .saturating_add(
                u64::try_from(connections)
                    .unwrap_or(u64::MAX)
                    .saturating_mul(Self::CONNECTION_BYTES),
            )
            .saturating_add(Self::PROGRAM_BYTES)
    }
}

/// `[limits.timeouts]`: how long one step may take. None of them bounds a whole download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From a connection's or request's first byte to the end of its head. Default 10 s.
    pub request_head: Duration,
    /// A client connection without a request. Default 60 s.
    pub idle: Duration,
    /// Connecting to an origin, TLS included. Default 3 s.
    pub origin_connect: Duration,
    /// From a request sent to the first byte of the origin's answer. Default 30 s.
    pub origin_first_byte: Duration,
    /// Between two pieces of an origin's body. Default 30 s.
    pub origin_between_bytes: Duration,
}

/// `[cache]`: what is kept in memory and on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Bytes of the RAM tier, its own overhead included. Default 256 MiB.
    pub ram: u64,
    /// Bytes of decoded heads and manifests. Default 32 MiB.
    pub heads: u64,
    /// Bytes that all fills together may hold ahead of their slowest reader. Default 64 MiB.
    pub fill_buffer: u64,
    /// Variants kept of one URL; the oldest makes room. At most 256. Default 16.
    pub variants: usize,
    /// Directories for what outlives the process, each path once. Default: none, and everything is in memory.
    pub disk: Vec<Volume>,
    /// What moves blocks to and from them. Default: io_uring where the kernel grants it, else threads.
    pub disk_engine: DiskEngine,
    /// Bytes that may be written to each of them in a day, to make flash last. Default: no limit.
    pub disk_writes_per_day: Option<u64>,
    /// Bytes a second at which each volume is looked through for damage; `None` for not at all. Default: 4 MiB.
    pub disk_scrub: Option<u64>,
}

/// One of `cache.disk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// A directory of its own; made if absent.
    pub path: PathBuf,
    /// Bytes its files may take, at least 64 MiB.
    pub size: u64,
}

/// `cache.disk_engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskEngine {
    /// The best that works.
    Auto,
    /// io_uring, or the start fails.
    IoUring,
    /// A pool of threads.
    Threads,
}

impl DiskEngine {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// `[tls]`: what clients are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Certificates by host. Empty: a development CA made in the state directory at first start.
    pub certificates: Vec<Certificate>,
}

/// One of `tls.certificates`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The names it is shown for.
    pub hosts: Vec<HostPattern>,
    /// PEM: the certificate, then its intermediates.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// `[log]`: what goes to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Default text.
    pub format: LogFormat,
    /// A filter such as `info` or `info,stoq=debug`. Default `info`.
    pub filter: String,
    /// Whether each request writes a record. Default true.
    pub access: bool,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As it stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// `[cluster]`: who this node is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name; certificates of another are refused. Default `stoq`.
    pub name: String,
    /// The node's identity file, mode 0600. Default: `identity.pem` in the state directory.
    pub identity: PathBuf,
    /// The cluster root's certificate. Default: `root.pem` in the state directory.
    pub root: PathBuf,
    /// The list of revoked nodes, followed while the node runs. Default: none.
    pub revoked: Option<PathBuf>,
    /// Where refusals of peers are written. Default: nowhere but the log.
    pub audit: Option<PathBuf>,
    /// How often the node issues itself another leaf certificate. Default 24 h.
    pub leaf_rotation: Duration,
    /// Nodes that are asked first who else there is. At most 64. Default: none.
    pub seeds: Vec<NodeAddr>,
    /// A name whose SRV records name more of them. Default: none.
    pub srv: Option<String>,
    /// Whether it announces itself by multicast DNS to nodes on the same networks, and looks for theirs. Default: false.
    pub mdns: bool,
    /// Where others reach this node, at most 8. Default: what it listens on, where that is no wildcard.
    pub advertise: Vec<SocketAddr>,
    /// Which of the edges that hold an object is asked first. Default [`PeerPolicy::Latency`].
    pub policy: PeerPolicy,
    /// Whether the home of a small object that was fetched here keeps it as well. Default: true.
    pub homes: bool,
    /// `cluster.geo`
    pub geo: GeoFiles,
}

/// `cluster.geo`: databases in MaxMind's format that say where addresses are, followed while the node runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GeoFiles {
    /// Positions and cities ("City"). Default: none.
    pub city: Option<PathBuf>,
    /// Numbers of networks ("ASN"). Default: none.
    pub asn: Option<PathBuf>,
}

/// By what the edges that hold an object are ordered. Whoever is ill, drains or is nearly full is asked under none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PeerPolicy {
    /// Round trip, load, and for large objects the time they take.
    #[default]
    Latency,
    /// Load alone; where it is much the same, the nearer.
    LeastLoaded,
    /// The object: the same edge for the same one.
    Affinity,
    /// Where the edges are on the globe, whatever was measured.
    Geo,
    /// Each in its turn.
    RoundRobin,
}

impl PeerPolicy {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Latency,
        Self::LeastLoaded,
        Self::Affinity,
        Self::Geo,
        Self::RoundRobin,
    ];

    /// As it stands in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::LeastLoaded => "least-loaded",
            Self::Affinity => "affinity",
            Self::Geo => "geo",
            Self::RoundRobin => "round-robin",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(|policy| format!("\"{}\"", policy.as_str()));
            format!("`{text}` is no policy (write one of {})", names.join(", "))
        })
    }
}

impl Cluster {
    /// Whether anything says where other nodes are to be found.
    #[must_use]
    pub fn looks_for_others(&self) -> bool {
        !self.seeds.is_empty() || self.srv.is_some() || self.mdns
    }
}

/// `[shield]`: where misses go before the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shield {
    /// Shields in order of preference; at least one.
    pub nodes: Vec<NodeAddr>,
}

/// A node's address: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddr {
    /// Host name in lower case, or IP address without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, &self.host)?;
        write!(f, ":{}", self.port)
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    if host.contains(':') {
        write!(f, "[{host}]")
    } else {
        f.write_str(host)
    }
}

/// One `[[site]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The site's identity on the wire and in keys; the same on every node. Default: its first host.
    pub name: Arc<str>,
    /// The hosts it answers for; at least one.
    pub hosts: Vec<HostPattern>,
    /// Tried in this order; at least one. A directory stands alone.
    pub origins: Vec<OriginSpec>,
    /// Freshness of responses that state none. Default: none, such responses are not stored.
    pub default_ttl: Option<Duration>,
    /// Whether a response that states no freshness gets some from its `Last-Modified`. Default true.
    pub heuristic: bool,
    /// Fields of a response that go before its `Cache-Control` (RFC 9213), the first the most. Default `CDN-Cache-Control`.
    pub cache_control_targets: Vec<HeaderName>,
    /// Whether `Cache-Control` of requests is heeded. Default true.
    pub client_cache_control: bool,
    /// How long past its freshness a response that does not say so itself is served in place of a 500, 502, 503 or 504.
    /// Default: none, the error is passed on.
    pub stale_if_error: Option<Duration>,
    /// How long past its freshness a response is served when the origin cannot be reached. Default 24 h.
    pub stale_if_unreachable: Duration,
    /// Whether the edge asks the origin itself when no shield answers. Default true.
    pub shield_fallback: bool,
    /// How many edges keep what is hot of the site, in different domains of failure where there are any, 2 to 8; 0, the default: those that are asked for it.
    pub protect: usize,
    /// Sites of one domain share chunks. Default: the site's name, so nothing is shared.
    pub dedupe_domain: Arc<str>,
    /// Patterns of the zones in which its bytes may be. Default: none, and they may be anywhere.
    pub residency: Vec<String>,
    /// Whether the origin is sent `Accept-Encoding` in one spelling for all that ask alike. Default false.
    pub normal_accept_encoding: bool,
    /// What of the query takes part in the key and reaches the origin; the same on every node. Default: all of it.
    pub query: Query,
    /// Other ways for some paths; the first that has the path decides. At most 64.
    pub rules: Vec<PathRule>,
}

impl Site {
    /// The best match of `host` (lower case, no port) among this site's patterns; a larger value is more specific.
    pub fn matches(&self, host: &str) -> Option<usize> {
        self.hosts
            .iter()
            .filter_map(|pattern| pattern.matches(host))
            .max()
    }
}

/// What a site or a certificate answers for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// `*`: every host no other site names.
    Any,
    /// `*.example.com`: every name below; holds `example.com`.
    Below(String),
    /// One name or IP address, in lower case, without port, brackets or final dot.
    Exact(String),
}

impl HostPattern {
    /// How specific the match is, or None: an exact name beats any wildcard, a longer wildcard a shorter one.
    pub fn matches(&self, host: &str) -> Option<usize> {
        match self {
            Self::Any => Some(0),
            Self::Below(domain) => host
                .strip_suffix(domain.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .filter(|rest| !rest.is_empty())
                .map(|_| domain.len()),
            Self::Exact(name) => (name == host).then_some(usize::MAX),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Exact(name) => f.write_str(name),
        }
    }
}

/// Where a site's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginSpec {
    /// A web server.
    Http(HttpOrigin),
    /// A directory of files, joined to the file's own directory.
    Directory(PathBuf),
}

impl fmt::Display for OriginSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(origin) => write!(f, "{}://{}", origin.scheme.as_str(), origin.authority()),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

/// A web server as an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOrigin {
    /// How to speak to it.
    pub scheme: Scheme,
    /// Host name in lower case, or IP address without brackets.
    pub host: String,
    /// TCP port; the scheme's when the URL names none.
    pub port: u16,
    /// The `Host` field sent. None: the host the client asked for.
    pub host_header: Option<String>,
    /// The name asked for in TLS and checked in the certificate. None: `host`.
    pub sni: Option<String>,
    /// PEM of the roots that may sign its certificate. None: the system's.
    pub ca: Option<PathBuf>,
}

impl HttpOrigin {
    /// `host:port` as a URL has it: IPv6 in brackets, the scheme's own port left out.
    pub fn authority(&self) -> String {
        let node = NodeAddr {
            host: self.host.clone(),
            port: self.port,
        };
        let full = node.to_string();
        if self.port == self.scheme.default_port() {
            full.strip_suffix(&format!(":{}", self.port))
                .unwrap_or(&full)
                .to_owned()
        } else {
            full
        }
    }
}
