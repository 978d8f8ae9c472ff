//! What the programs in `bpf/` and their loader agree on: `bpf/abi.h` in Rust.
//!
//! The header says what each field means and why each constant has its value; here stands what Rust adds: types with
//! the same layout, and [`Reason`] as an enum. A test reads the header and compares. All integers are in the machine's
//! order unless said otherwise; times are `CLOCK_MONOTONIC` in nanoseconds.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Names of the maps, as the loader finds them in the objects.
pub mod map {
    /// Array of [`SETTINGS_SLOTS`](super::SETTINGS_SLOTS) [`Settings`](super::Settings).
    pub const SETTINGS: &str = "settings";
    /// Array of one [`Control`](super::Control).
    pub const CONTROL: &str = "control";
    /// Array of [`PORTS_MAX`](super::PORTS_MAX) `u32`, by destination port: `PORT_*` flags, 0 for "not ours".
    pub const PORTS: &str = "ports";
    /// Longest-prefix trie: IPv4 prefix → [`Rule`](super::Rule).
    pub const RULES_V4: &str = "rules_v4";
    /// Longest-prefix trie: IPv6 prefix → [`Rule`](super::Rule).
    pub const RULES_V6: &str = "rules_v6";
    /// Hash of [`VALIDATED_MAX`](super::VALIDATED_MAX): [`source`](super::source) `u64` → until when it counts, `u64` ns.
    pub const VALIDATED: &str = "validated";
    /// Array of `u64`, 2^[`FILTER_BITS_LOG`](super::FILTER_BITS_LOG) bits: set where [`filter_bit`](super::filter_bit) of a validated
    /// source is.
    pub const FILTER: &str = "filter";
    /// Per-CPU array of [`REASONS`](super::REASONS) + 1 [`Counter`](super::Counter), by reason; the last counts events
    /// that found the ring full.
    pub const COUNTERS: &str = "counters";
    /// Ring buffer of [`Event`](super::Event).
    pub const EVENTS: &str = "events";
    /// Array of `u64`: the sketch of sources.
    pub const SOURCES: &str = "sources";
    /// Array of `u64`: the sketch of prefixes.
    pub const PREFIXES: &str = "prefixes";
    /// Array of [`GLOBALS`](super::GLOBALS) `u64`.
    pub const GLOBALS: &str = "globals";
    /// Array of rows of [`GREYLIST_WAYS`](super::GREYLIST_WAYS) `u32`, [`GREYLIST_CELLS`](super::GREYLIST_CELLS) in all.
    pub const GREYLIST: &str = "greylist";

    /// Of the selector: array of one [`Steering`](super::Steering).
    pub const STEERING: &str = "steering";
    /// Of the selector: array of [`SOCKETS_MAX`](super::SOCKETS_MAX) sockets.
    pub const SOCKETS: &str = "sockets";
    /// Of the selector: per-CPU array of [`STEERS`](super::STEERS) `u64`, by [`Steer`](super::Steer).
    pub const STEERED: &str = "steered";
}

/// Names of the programs in the objects.
pub mod program {
    /// In the object of the XDP program.
    pub const XDP: &str = "stoq_xdp";
    /// In the object of the selector, of kind `sk_reuseport`.
    pub const SELECTOR: &str = "stoq_selector";
    /// The variable in `.rodata` that only tests set: `u32`, `TESTING_*`; 0 in use.
    pub const TESTING: &str = "testing";
}

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*

        /// Each constant with its name in `abi.h`.
        #[cfg(test)]
        const CONSTANTS: &[(&str, u64)] = &[$((stringify!($name), $value as u64)),*];
    };
}

constants! {
    /// The version of all that stands here; a program passes everything while its settings carry another.
    ABI_VERSION: u32 = 4;
    /// Slots of the map of settings.
    SETTINGS_SLOTS: u32 = 2;
    /// Ports, all there are.
    PORTS_MAX: u32 = 65_536;
    /// Rules of a family.
    RULES_MAX: u32 = 65_536;
    /// Sources that completed a handshake: 4 MiB. Beyond it a newcomer is not entered.
    VALIDATED_MAX: u32 = 65_536;
    /// Bits of the filter before them, as a power of two; 128 KiB.
    FILTER_BITS_LOG: u32 = 20;
    /// Places in the filter, see [`filter_bit`].
    FILTER_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    /// Cells of one row of one class of the sketch of sources; 12 MiB in all.
    SOURCE_CELLS: u32 = 131_072;
    /// As above for prefixes; 2.5 MiB.
    PREFIX_CELLS: u32 = 32_768;
    /// Rows of a sketch.
    SKETCH_ROWS: u32 = 2;
    /// Cells of the greylist, of four bytes; 4 MiB.
    GREYLIST_CELLS: u32 = 1_048_576;
    /// Cells of a row, of which the oldest is written next.
    GREYLIST_WAYS: u32 = 4;
    /// Bytes of the ring of events.
    EVENTS_BYTES: u32 = 262_144;

    /// [`Settings::flags`]: judge and count, drop nothing.
    FLAG_DRY_RUN: u32 = 1;
    /// [`Settings::flags`]: IDs at `PORT_KEYED` ports must carry a tag of ours.
    FLAG_CHECK_CID: u32 = 2;
    /// [`Settings::flags`]: the fixed bit must be 1. Only where no endpoint of ours offers to grease it.
    FLAG_FIXED_BIT: u32 = 4;
    /// [`Settings::flags`]: the rules of IPv4 are looked at.
    FLAG_RULES_V4: u32 = 8;
    /// [`Settings::flags`]: the rules of IPv6 are looked at.
    FLAG_RULES_V6: u32 = 16;
    /// [`Settings::flags`]: drop IPv6 whose port lies behind more than [`EXTENSIONS_MAX`] headers.
    FLAG_DROP_CHAIN: u32 = 32;

    /// A port of QUIC.
    PORT_UDP: u32 = 1;
    /// A port of TCP.
    PORT_TCP: u32 = 2;
    /// Packets of servers come to this UDP port too: rules that hold for clients alone are left out.
    PORT_PEERS: u32 = 4;
    /// Connection IDs on this UDP port are the keyed ones; clients are offered no 0-RTT, and sent no token but by Retry.
    PORT_KEYED: u32 = 8;

    /// [`Rule::action`]: judged by the budgets of [`Rule::profile`].
    RULE_PROFILE: u32 = 0;
    /// [`Rule::action`]: passes, always.
    RULE_ALLOW: u32 = 1;
    /// [`Rule::action`]: dropped.
    RULE_DENY: u32 = 2;

    /// Initial of a newcomer, or of a spoofer.
    CLASS_INITIAL: u32 = 0;
    /// Initial with token, at a port where no ID says whether we sent it.
    CLASS_TOKEN: u32 = 1;
    /// Any other long header, and an Initial that carries an ID of ours; with such an ID not held to the budget of all.
    CLASS_LONG: u32 = 2;
    /// Short header.
    CLASS_SHORT: u32 = 3;
    /// TCP segment that opens a connection.
    CLASS_SYN: u32 = 4;
    /// Classes of packets, each with a budget of source, of prefix and of all.
    CLASSES: u32 = 5;
    /// What the greylist lets through: budgets of source and of all.
    CLASS_RETRANSMISSION: u32 = 5;
    /// Budgets of source, and of all.
    GLOBALS: u32 = 6;
    /// Budgets to choose from by rule.
    PROFILES: u32 = 4;
    /// Generations of connection-ID keys.
    GENERATIONS: u32 = 4;
    /// QUIC versions a server may name.
    VERSIONS: u32 = 4;

    /// IPv4 prefix that shares a budget, bits.
    PREFIX_BITS_V4: u32 = 24;
    /// IPv6 prefix that shares a budget, bits.
    PREFIX_BITS_V6: u32 = 48;
    /// VLAN tags that are looked through.
    VLANS_MAX: u32 = 2;
    /// IPv6 extension headers that are looked through.
    EXTENSIONS_MAX: u32 = 8;
    /// Least payload of a client's datagram with an Initial, bytes.
    INITIAL_BYTES_MIN: u32 = 1200;
    /// Longest connection ID, bytes.
    CID_BYTES_MAX: u32 = 20;
    /// Shortest ID a client may make up, bytes.
    CID_BYTES_MIN: u32 = 8;
    /// The IDs our endpoints issue, bytes.
    CID_BYTES: u32 = 12;
    /// Least payload of a datagram that begins with a short header and an ID of ours, bytes.
    SHORT_BYTES_MIN: u32 = 33;
    /// Least payload of a datagram that begins with a short header where IDs are not keyed, bytes.
    SHORT_ANY_BYTES_MIN: u32 = 21;
    /// The greylist's unit of time is 2 to the power of this, ns: 34 ms.
    GREYLIST_SHIFT: u32 = 25;
    /// A repeated Initial counts from this age of its first on, units: 0.2 s.
    GREYLIST_UNITS_MIN: u32 = 6;
    /// A repeated Initial counts up to this age, units: 4 s.
    GREYLIST_UNITS_MAX: u32 = 119;
    /// Low bits of a cell that hold the time.
    GREYLIST_TIME_BITS: u32 = 12;
    /// Sockets of one process in a group.
    WORKERS_MAX: u32 = 64;
    /// Slots of the map of sockets.
    SOCKETS_MAX: u32 = 256;
    /// Reasons there are.
    REASONS: u32 = 44;
    /// The first reason that drops.
    DROP_FIRST: u32 = 13;
    /// Ways of steering.
    STEERS: u32 = 4;
    /// [`program::TESTING`]: a [`Testing`] stands in front of the frame as metadata.
    TESTING_REPLAY: u32 = 1;
    /// [`program::TESTING`]: a random source instead of the frame's, to measure what distinct sources cost.
    TESTING_SPOOF: u32 = 2;
}

/// How often something may happen (GCRA). The default is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Budget {
    /// Nanoseconds a packet costs; 0: no limit.
    pub interval_ns: u64,
    /// How far ahead of now the cost may run; less than one interval refuses all.
    pub burst_ns: u64,
}

impl Budget {
    /// No limit.
    pub const NONE: Self = Self {
        interval_ns: 0,
        burst_ns: 0,
    };

    /// `rate` packets a second, `burst` of them at once. A rate of 0, or a burst of 0, refuses all. Rates above 10⁹ count as
    /// 10⁹, and a burst is held to an hour of its rate.
    pub fn per_second(rate: u32, burst: u32) -> Self {
        const SECOND_NS: u64 = 1_000_000_000;
        const HOUR_NS: u64 = 3600 * SECOND_NS;
        if rate == 0 {
            return Self {
                interval_ns: 1,
                burst_ns: 0,
            };
        }
        let interval_ns = (SECOND_NS / u64::from(rate)).max(1);
        Self {
            interval_ns,
            burst_ns: interval_ns.saturating_mul(u64::from(burst)).min(HOUR_NS),
        }
    }
}

/// Budgets of those whom a rule names; the first profile is everyone else's. By class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Profile {
    /// Of an IPv4 address or an IPv6 /64.
    pub source: [Budget; GLOBALS as usize],
    /// Of an IPv4 /24 or an IPv6 /48.
    pub prefix: [Budget; CLASSES as usize],
}

/// All that holds until a reload. The default has no budgets, checks what needs no key, and knows QUIC version 1.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// [`ABI_VERSION`], else everything passes.
    pub abi: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// A heartbeat older than this: everything passes. Default 1 s.
    pub heartbeat_max_ns: u64,
    /// Secret and random: places in sketches and greylist, and who is shed.
    pub hash_key: [u64; 2],
    /// Keys of connection IDs by generation, see [`cid_key`].
    pub cid_key: [[u64; 2]; GENERATIONS as usize],
    /// Bit g: `cid_key[g]` is good. An ID of another generation has a wrong tag.
    pub cid_generations: u32,
    /// An event where a CPU's count of a dropping reason, before this packet, `& event_mask` is 0. 0: each packet. Default
    /// `u32::MAX`: none but the first. Packets that pass make no events.
    pub event_mask: u32,
    /// QUIC versions the server speaks; 0: unused.
    pub versions: [u32; VERSIONS as usize],
    /// Budgets of sources and prefixes.
    pub profile: [Profile; PROFILES as usize],
    /// Budgets of all together, by class, the last is [`CLASS_RETRANSMISSION`]'s.
    pub global: [Budget; GLOBALS as usize],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            abi: ABI_VERSION,
            flags: 0,
            heartbeat_max_ns: 1_000_000_000,
            hash_key: [0; 2],
            cid_key: [[0; 2]; GENERATIONS as usize],
            cid_generations: 0,
            event_mask: u32::MAX,
            versions: [1, 0, 0, 0],
            profile: [Profile::default(); PROFILES as usize],
            global: [Budget::NONE; GLOBALS as usize],
        }
    }
}

/// Without its keys.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("abi", &self.abi)
            .field("flags", &self.flags)
            .field("heartbeat_max_ns", &self.heartbeat_max_ns)
            .field("cid_generations", &self.cid_generations)
            .field("event_mask", &self.event_mask)
            .field("versions", &self.versions)
            .field("profile", &self.profile)
            .field("global", &self.global)
            .finish_non_exhaustive()
    }
}

/// The 16 bytes of a key, as `stoq` has them, in the form of [`Settings::cid_key`].
pub fn cid_key(key: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_le_bytes(key);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves are wanted, each by itself"
    )]
    [whole as u64, (whole >> 64) as u64]
}

/// What changes ten times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Control {
    /// When the owner last lived, `CLOCK_MONOTONIC` ns.
    pub heartbeat_ns: u64,
    /// Which slot of the settings holds. The other is written whole, then this is changed; a slot that was left is not
    /// written for a millisecond, so that no packet is judged by half a block.
    pub slot: u32,
    /// Of 65,536 packets of `CLASS_INITIAL` this many are shed; 0: none, 65,536: all.
    pub shed: u32,
}

/// Key of [`map::RULES_V4`]'s data after the prefix length: the address in network order.
pub type RuleKeyV4 = [u8; 4];
/// Key of [`map::RULES_V6`]'s data after the prefix length: the address in network order.
pub type RuleKeyV6 = [u8; 16];

/// What is done with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Rule {
    /// `RULE_*`; another value counts as [`RULE_PROFILE`].
    pub action: u32,
    /// Below [`PROFILES`]; another value counts as 0.
    pub profile: u32,
}

/// Packets and bytes of one reason on one CPU. Bytes are of whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// All with this reason.
    pub packets: u64,
    /// Of `packets`.
    pub bytes: u64,
    /// Those of `packets` that were to be dropped, but passed in a dry run.
    pub spared_packets: u64,
    /// Of `spared_packets`.
    pub spared_bytes: u64,
}

/// One packet of many, for the operator's eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Event {
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// A [`Reason`].
    pub reason: u32,
    /// Length of the frame.
    pub frame_bytes: u32,
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// 0 where the packet ended before it.
    pub source_port: u16,
    /// Destination.
    pub port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// 1: to be dropped, but this is a dry run.
    pub spared: u8,
    /// Zero.
    pub unused: [u8; 2],
}

impl Event {
    /// From the bytes of the ring. None where they are not as many as an event has.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let (at_ns, rest) = bytes.split_first_chunk()?;
        let (reason, rest) = rest.split_first_chunk()?;
        let (frame_bytes, rest) = rest.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (source_port, rest) = rest.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        let &[protocol, spared, ref unused @ ..] = rest.first_chunk::<4>()?;
        Some(Self {
            at_ns: u64::from_ne_bytes(*at_ns),
            reason: u32::from_ne_bytes(*reason),
            frame_bytes: u32::from_ne_bytes(*frame_bytes),
            source: *source,
            source_port: u16::from_ne_bytes(*source_port),
            port: u16::from_ne_bytes(*port),
            protocol,
            spared,
            unused: *unused,
        })
    }

    /// Where the packet says it comes from.
    pub fn source(&self) -> IpAddr {
        Ipv6Addr::from(self.source).to_canonical()
    }
}

/// Whose sockets get what names a generation of connection-ID keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Route {
    /// First slot of [`map::SOCKETS`].
    pub base: u32,
    /// Sockets from there on, at most [`WORKERS_MAX`]; 0: nobody has this generation.
    pub workers: u32,
}

/// What the selector goes by. While a new process takes over, the old one's generation keeps its route, and `current`
/// is the new one's.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Steering {
    /// [`ABI_VERSION`], else the kernel's own hash decides.
    pub abi: u32,
    /// The generation whose sockets get newcomers.
    pub current: u32,
    /// By generation.
    pub route: [Route; GENERATIONS as usize],
    /// By generation, see [`cid_key`].
    pub cid_key: [[u64; 2]; GENERATIONS as usize],
}

/// Without its keys.
impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering")
            .field("abi", &self.abi)
            .field("current", &self.current)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

/// Metadata in front of a frame while a test runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Testing {
    /// In: the clock.
    pub now_ns: u64,
    /// Out: the [`Reason`].
    pub reason: u32,
    /// Zero.
    pub unused: u32,
}

const _: () = assert!(size_of::<Budget>() == 16 && size_of::<Profile>() == 176);
const _: () = assert!(size_of::<Settings>() == 920 && size_of::<Control>() == 16);
const _: () = assert!(size_of::<Rule>() == 8 && size_of::<Counter>() == 32);
const _: () = assert!(size_of::<Event>() == 40 && size_of::<Steering>() == 104);
const _: () = assert!(size_of::<Testing>() == 16);

macro_rules! plain_data {
    ($($type:ty),*) => {$(
        #[expect(unsafe_code, reason = "the kernel copies these as bytes")]
        // SAFETY: `repr(C)`, of integers only, and the sizes asserted above are the sums of their fields, so there is no
        // padding and any bytes are a value.
        unsafe impl aya::Pod for $type {}
    )*};
}

plain_data!(
    Budget, Profile, Settings, Control, Rule, Counter, Event, Route, Steering, Testing
);

/// What budgets and validation know a client by: an IPv4 address, or the /64 of an IPv6 address. An IPv4 address that is
/// mapped into IPv6 counts as itself.
pub fn source(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => source_v4(address),
        IpAddr::V6(address) => source_v6(address),
    }
}

/// The IPv4 /24 or IPv6 /48 that a source of [`map::VALIDATED`] is in.
pub(crate) fn prefix(source: u64) -> u64 {
    // No address of IPv6 that is anybody's begins like this.
    if source >> 32 == 0xffff {
        source & (u64::MAX << (32 - PREFIX_BITS_V4))
    } else {
        source & (u64::MAX << (64 - PREFIX_BITS_V6))
    }
}

/// The place of a source of [`map::VALIDATED`] in [`map::FILTER`], below 2^[`FILTER_BITS_LOG`].
pub fn filter_bit(source: u64) -> u32 {
    (source.wrapping_mul(FILTER_FACTOR) >> (u64::BITS - FILTER_BITS_LOG)) as u32
}

pub(crate) fn source_v4(address: Ipv4Addr) -> u64 {
    0x0000_ffff_0000_0000 | u64::from(u32::from(address))
}

pub(crate) fn source_v6(address: Ipv6Addr) -> u64 {
    (u128::from(address) >> 64) as u64
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal $c:literal,)*) => {
        /// Why a packet passed or was dropped. The verdict follows from it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// All, by number.
            pub const ALL: [Self; REASONS as usize] = [$(Self::$name),*];

            /// The word for logs and metrics, as `drop_cid_tag`.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $c,)* }
            }
        }
    };
}

reasons! {
    /// Not to a configured port, or nothing that could be.
    NotOurs = 0 "pass_not_ours",
    /// No settings, or settings of another version.
    Off = 1 "pass_off",
    /// The owner's heartbeat stopped.
    Stale = 2 "pass_stale",
    /// IPv6 with more extension headers than are followed.
    Chain = 3 "pass_chain",
    /// By a rule.
    Allowed = 4 "pass_allowed",
    /// A TCP segment that opens nothing.
    Tcp = 5 "pass_tcp",
    /// Initial of a newcomer, within its budgets.
    Initial = 6 "pass_initial",
    /// Initial with token at a port without keys, within its budgets.
    Token = 7 "pass_token",
    /// Another long header, within its budgets.
    Long = 8 "pass_long",
    /// A short header, within its budgets.
    Short = 9 "pass_short",
    /// A SYN, within its budgets.
    Syn = 10 "pass_syn",
    /// Would have been shed, or over the global budget, but its source completed a handshake before.
    Validated = 11 "pass_validated",
    /// Would have been shed or over budget, but the same source sent the same Initial before, as clients do.
    Retransmission = 12 "pass_retransmission",
    /// By a rule.
    Denied = 13 "drop_denied",
    /// A fragment to our port.
    Fragment = 14 "drop_fragment",
    /// IPv6 with more extension headers than are followed, where that is configured.
    ChainDropped = 15 "drop_chain",
    /// The lengths of IP, UDP or TCP contradict each other or the frame.
    Truncated = 16 "drop_truncated",
    /// UDP without payload.
    Empty = 17 "drop_empty",
    /// The fixed bit is 0.
    FixedBit = 18 "drop_fixed_bit",
    /// A long header that does not fit in its datagram.
    LongTruncated = 19 "drop_long_truncated",
    /// A Version Negotiation packet, which only servers send.
    VersionZero = 20 "drop_version_zero",
    /// A connection ID over 20 bytes.
    CidLong = 21 "drop_cid_long",
    /// An unknown version in a datagram that earns no answer.
    VersionSmall = 22 "drop_version_small",
    /// A client's Initial to an ID under 8 bytes.
    CidShort = 23 "drop_cid_short",
    /// A client's Initial in a datagram under 1200 bytes.
    InitialSmall = 24 "drop_initial_small",
    /// A Retry, which only servers send.
    Retry = 25 "drop_retry",
    /// A short header too small to be unprotected.
    ShortSmall = 26 "drop_short_small",
    /// The tag of a connection ID of ours is wrong.
    CidTag = 27 "drop_cid_tag",
    /// Rationed: a newcomer's Initial under load.
    Shed = 28 "drop_shed",
    /// The source is over its budget.
    SourceInitial = 29 "drop_source_initial",
    /// The source is over its budget.
    SourceToken = 30 "drop_source_token",
    /// The source is over its budget.
    SourceLong = 31 "drop_source_long",
    /// The source is over its budget.
    SourceShort = 32 "drop_source_short",
    /// The source is over its budget.
    SourceSyn = 33 "drop_source_syn",
    /// The prefix is over its budget.
    PrefixInitial = 34 "drop_prefix_initial",
    /// The prefix is over its budget.
    PrefixToken = 35 "drop_prefix_token",
    /// The prefix is over its budget.
    PrefixLong = 36 "drop_prefix_long",
    /// The prefix is over its budget.
    PrefixShort = 37 "drop_prefix_short",
    /// The prefix is over its budget.
    PrefixSyn = 38 "drop_prefix_syn",
    /// All together are over budget.
    GlobalInitial = 39 "drop_global_initial",
    /// All together are over budget.
    GlobalToken = 40 "drop_global_token",
    /// All together are over budget.
    GlobalLong = 41 "drop_global_long",
    /// All together are over budget.
    GlobalShort = 42 "drop_global_short",
    /// All together are over budget.
    GlobalSyn = 43 "drop_global_syn",
}

impl Reason {
    /// The reason with this number, where there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its number, the index of its counter.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Whether a packet with this reason is dropped, outside of a dry run.
    pub fn drops(self) -> bool {
        self.number() >= DROP_FIRST
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a datagram found its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Steer {
    /// The worker that its connection ID names.
    ById = 0,
    /// A newcomer, by the hash of its addresses.
    ByHash = 1,
    /// It names a socket that is gone: as a newcomer.
    Orphan = 2,
    /// No settings, or no socket: the kernel chose.
    Kernel = 3,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const HEADER: &str = include_str!("../bpf/abi.h");

    /// `#define NAME number` lines of the header.
    fn defines() -> BTreeMap<&'static str, u64> {
        let number = |line: &'static str| {
            let mut words = line.strip_prefix("#define ")?.split_whitespace();
            let (name, value) = (words.next()?, words.next()?);
            let value = match value.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => value.parse(),
            };
            Some((name, value.ok()?))
        };
        HEADER.lines().filter_map(number).collect()
    }

    #[test]
    fn constants_are_those_of_the_header() {
        let rust: BTreeMap<&str, u64> = CONSTANTS.iter().copied().collect();
        assert_eq!(rust, defines());
    }

    #[test]
    fn reasons_are_those_of_the_header() {
        let listed: Vec<(String, u32)> = HEADER
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.trim().strip_prefix("X(")?.split_once(", ")?;
                let number = rest.split_once(')')?.0.parse().ok()?;
                Some((name.to_lowercase(), number))
            })
            .collect();
        let ours: Vec<(String, u32)> = Reason::ALL
            .iter()
            .map(|reason| (reason.word().to_owned(), reason.number()))
            .collect();
        assert_eq!(listed, ours);
        for (index, reason) in (0..).zip(Reason::ALL) {
            assert_eq!(Reason::from_number(index), Some(reason));
            assert_eq!(
                reason.drops(),
                reason.word().starts_with("drop_"),
                "{reason}"
            );
        }
        assert_eq!(Reason::from_number(REASONS), None);
    }

    #[test]
    fn budgets_say_what_was_asked() {
        let budget = Budget::per_second(50, 10);
        assert_eq!(
            (budget.interval_ns, budget.burst_ns),
            (20_000_000, 200_000_000)
        );
        assert!(Budget::per_second(0, 10).burst_ns < Budget::per_second(0, 10).interval_ns);
        assert!(Budget::per_second(1, 0).burst_ns < Budget::per_second(1, 0).interval_ns);
        assert_eq!(Budget::per_second(u32::MAX, 1).interval_ns, 1);
        assert_eq!(Budget::per_second(1, u32::MAX).burst_ns, 3_600_000_000_000);
    }

    #[test]
    fn sources_are_addresses_and_networks() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), 0x0000_ffff_c000_0201);
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_eq!(of("2001:db8:1:2::1"), 0x2001_0db8_0001_0002);
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
    }

    #[test]
    fn a_key_is_split_as_siphash_reads_it() {
        let key = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(cid_key(key), [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    }
}
