//! `[xdp]`: which packets are dropped before they cost anything, and where that is decided.
//!
//! Plain values: the edge makes a policy of them. Defaults are for a machine of a few cores in front of the internet; each is
//! far above what people behind one address do, and below what would fill the machine with handshakes.

use ipnet::IpNet;

use super::{
    hosts,
    raw::{At, RawRates, RawXdp},
    resolve::{Resolver, network},
    units::{PacketRate, RateOrOff},
};

/// Networks in `xdp.allow`, and in `xdp.deny`: longer lists are a firewall's.
pub const LISTED_MAX: usize = 4096;

/// `xdp.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Nothing is judged, here or at the socket.
    Off,
    /// In the kernel's stack.
    Generic,
    /// In the driver, else in the kernel's stack.
    Native,
}

impl XdpMode {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let known = [Self::Off, Self::Generic, Self::Native];
        let known = known.into_iter().find(|mode| mode.as_str() == text);
        known.ok_or_else(|| {
            format!("`{text}` is no mode (write \"off\", \"generic\" or \"native\")")
        })
    }
}

/// `[xdp]`: load shed at the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xdp {
    /// Default off. Otherwise packets are judged in the kernel once an `enable` was confirmed, and at the sockets until then.
    pub mode: XdpMode,
    /// The interface that clients' packets arrive on. Needed unless the mode is off.
    pub interface: Option<String>,
    /// Judge and count, drop nothing. Default false.
    pub dry_run: bool,
    /// Whether the process keeps its capabilities once its sockets are bound, and does not leave them to its helper alone. Default
    /// false.
    pub keep_capabilities: bool,
    /// Networks whose packets pass, whatever they are. At most [`LISTED_MAX`].
    pub allow: Vec<IpNet>,
    /// Networks whose packets are dropped. At most [`LISTED_MAX`]. The longest prefix of both lists decides.
    pub deny: Vec<IpNet>,
    /// Repeated Initials, all together, which pass where the first one was rationed. Default 1,000 a second. Of a source a tenth of its `initial`.
    pub retransmissions: Option<PacketRate>,
    /// Of an IPv4 address or an IPv6 /64.
    pub source: PacketRates,
    /// Of an IPv4 /24 or an IPv6 /48.
    pub prefix: PacketRates,
    /// Of all together; who completed a handshake within the last hours is not held to it.
    pub global: PacketRates,
}

/// Packets a second by what they are; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketRates {
    /// First packets of QUIC connections: newcomers, and who spoofs.
    pub initial: Option<PacketRate>,
    /// First packets with a token to `listen.stoq`: newcomers that have proven their address, or pretend to. At `listen.https` who has proven it
    /// is known by a connection ID.
    pub token: Option<PacketRate>,
    /// Handshakes under way. Over all those to `listen.stoq` alone: to `listen.https` they carry an ID that was given out.
    pub long: Option<PacketRate>,
    /// Connections that stand.
    pub short: Option<PacketRate>,
    /// TCP segments that open a connection.
    pub syn: Option<PacketRate>,
}

impl PacketRates {
    /// The key of each class with its rate.
    #[must_use]
    pub const fn by_class(&self) -> [(&'static str, Option<PacketRate>); 5] {
        [
            ("initial", self.initial),
            ("token", self.token),
            ("long", self.long),
            ("short", self.short),
            ("syn", self.syn),
        ]
    }
}

const fn rate(per_second: u32, burst: u32) -> Option<PacketRate> {
    Some(PacketRate { per_second, burst })
}

/// A handshake costs its server about 300 µs, so these 100 a second would be 3 % of a core. A carrier's customers share an address.
const SOURCE: PacketRates = PacketRates {
    initial: rate(100, 400),
    token: rate(100, 400),
    long: rate(1000, 4000),
    // A download of 1 Gbit/s is acknowledged by some 40,000 a second.
    short: None,
    syn: rate(100, 400),
};

const PREFIX: PacketRates = PacketRates {
    initial: rate(500, 2000),
    token: rate(500, 2000),
    long: rate(5000, 20_000),
    short: None,
    syn: rate(500, 2000),
};

/// The shed level follows the load; this is what holds before it has risen.
const GLOBAL: PacketRates = PacketRates {
    initial: rate(4000, 8000),
    token: rate(4000, 8000),
    long: rate(40_000, 80_000),
    short: None,
    // The kernel answers more than it can keep by SYN cookies, which cost newcomers nothing.
    syn: None,
};

const RETRANSMISSIONS: Option<PacketRate> = rate(1000, 2000);

impl Resolver<'_> {
    pub(super) fn xdp(&mut self, raw: &RawXdp) -> Xdp {
        let is_set = |value: &At<bool>| value.as_ref().is_some_and(|value| *value.get_ref());
        Xdp {
            mode: self.or(&raw.mode, "xdp.mode", || XdpMode::Off, XdpMode::parse),
            interface: raw
                .interface
                .as_ref()
                .and_then(|value| self.parsed(value, "xdp.interface", hosts::interface)),
            dry_run: is_set(&raw.dry_run),
            keep_capabilities: is_set(&raw.keep_capabilities),
            allow: self.at_most(LISTED_MAX, &raw.allow, "xdp.allow", network),
            deny: self.at_most(LISTED_MAX, &raw.deny, "xdp.deny", network),
            retransmissions: or(&raw.retransmissions, RETRANSMISSIONS),
            source: rates(&raw.source, SOURCE),
            prefix: rates(&raw.prefix, PREFIX),
            global: rates(&raw.global, GLOBAL),
        }
    }
}

fn rates(raw: &RawRates, default: PacketRates) -> PacketRates {
    PacketRates {
        initial: or(&raw.initial, default.initial),
        token: or(&raw.token, default.token),
        long: or(&raw.long, default.long),
        short: or(&raw.short, default.short),
        syn: or(&raw.syn, default.syn),
    }
}

fn or(value: &At<RateOrOff>, default: Option<PacketRate>) -> Option<PacketRate> {
    value.as_ref().map_or(default, |value| value.get_ref().0)
}
