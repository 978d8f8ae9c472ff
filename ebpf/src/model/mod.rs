//! The XDP program in Rust: what passes, what is dropped, and for which reason.
//!
//! A value without a clock and without sockets: [`Model::frame`] takes a frame as the NIC gives it and the time,
//! [`Model::datagram`] what a UDP socket gives. Tests hold it and the program to the same verdicts and reasons, packet by
//! packet; that is what makes it good as the limiter of machines without BPF, and for judging a capture without privileges.
//!
//! The steps and their order are those of `bpf/xdp.c`, a file each: `packet` finds the transport header, `quic` says what needs
//! no state, `budget` rations.
//!
//! One model is one CPU's view: it counts nothing and races with nobody.

mod budget;
mod packet;
mod quic;
mod rules;

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use thiserror::Error;

use self::{
    budget::{Cells, Greylist},
    packet::{Found, Transport},
    quic::Judged,
    rules::Rules,
};
use crate::abi::{
    self, ABI_VERSION, CLASS_INITIAL, CLASS_LONG, CLASS_RETRANSMISSION, CLASS_SYN, Control,
    FLAG_DROP_CHAIN, FLAG_DRY_RUN, FLAG_RULES_V4, FLAG_RULES_V6, PORT_TCP, PORT_UDP, PREFIX_CELLS,
    PROFILES, RULE_ALLOW, RULE_DENY, Reason, Rule, SETTINGS_SLOTS, SOURCE_CELLS, Settings,
    VALIDATED_MAX,
};

/// A table that has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a table of {max} entries is full")]
pub struct Full {
    /// How many it holds.
    pub max: u32,
}

/// What the program's maps hold, and its verdicts. 18.5 MiB of cells, whatever the number of sources; besides them the rules,
/// and up to [`VALIDATED_MAX`] validated sources.
pub struct Model {
    /// Shared, so that judging a packet copies none of them.
    settings: [Option<Arc<Settings>>; SETTINGS_SLOTS as usize],
    control: Control,
    ports: HashMap<u16, u32>,
    rules: Rules,
    validated: HashMap<u64, u64>,
    sources: Cells,
    prefixes: Cells,
    globals: [u64; abi::GLOBALS as usize],
    greylist: Greylist,
}

/// A packet whose class is known, on its way through the budgets.
struct Rationed {
    source: u64,
    prefix: u64,
    class: u32,
    profile: u32,
    id: [u64; 3],
    /// Of a handshake that we answered: not held to the budget of all.
    is_answered: bool,
}

impl Model {
    /// As a program that was just loaded: everything passes, since no port is ours.
    pub fn new() -> Self {
        Self {
            settings: [None, None],
            control: Control::default(),
            ports: HashMap::new(),
            rules: Rules::default(),
            validated: HashMap::new(),
            sources: Cells::new(abi::GLOBALS, SOURCE_CELLS),
            prefixes: Cells::new(abi::CLASSES, PREFIX_CELLS),
            globals: [0; abi::GLOBALS as usize],
            greylist: Greylist::new(),
        }
    }

    /// Writes a slot of the settings, of [`SETTINGS_SLOTS`], counted round.
    pub fn set_settings(&mut self, slot: u32, settings: Settings) {
        if let Some(place) = self.settings.get_mut((slot % SETTINGS_SLOTS) as usize) {
            *place = Some(Arc::new(settings));
        }
    }

    /// Heartbeat, shed level, and which slot holds.
    pub fn set_control(&mut self, control: Control) {
        self.control = control;
    }

    /// `PORT_*` of a port; 0: no longer ours.
    pub fn set_port(&mut self, port: u16, flags: u32) {
        self.ports.insert(port, flags);
    }

    /// A rule for the first `bits` of `address`; more bits than the address has count as all. It is looked at while the flag of its
    /// family is set.
    pub fn set_rule(&mut self, address: IpAddr, bits: u8, rule: Rule) -> Result<(), Full> {
        self.rules.set(address, bits, rule)
    }

    /// Takes back [`Model::set_rule`].
    pub fn remove_rule(&mut self, address: IpAddr, bits: u8) {
        self.rules.remove(address, bits);
    }

    /// The source completed a handshake, which counts until `until_ns`.
    pub fn validate(&mut self, source: u64, until_ns: u64) -> Result<(), Full> {
        if self.validated.len() >= VALIDATED_MAX as usize && !self.validated.contains_key(&source) {
            return Err(Full { max: VALIDATED_MAX });
        }
        self.validated.insert(source, until_ns);
        Ok(())
    }

    /// Forgets validated sources whose time is over.
    pub fn sweep(&mut self, now_ns: u64) {
        self.validated.retain(|_, until_ns| now_ns < *until_ns);
    }

    /// Why this frame passes or is dropped.
    pub fn frame(&mut self, frame: &[u8], now_ns: u64) -> Reason {
        match packet::find(frame) {
            Found::Nothing => Reason::NotOurs,
            Found::Beyond => match self.consult(now_ns) {
                Err(reason) => reason,
                Ok(settings) if settings.flags & FLAG_DROP_CHAIN != 0 => Reason::ChainDropped,
                Ok(_) => Reason::Chain,
            },
            Found::Transport(transport) => self.transport(&transport, now_ns),
        }
    }

    /// Why this datagram, received by the socket of `port`, passes or is dropped. Whoever asks is alive, so the heartbeat is
    /// not looked at.
    pub fn datagram(&mut self, from: IpAddr, port: u16, payload: &[u8], now_ns: u64) -> Reason {
        let flags = self.ports.get(&port).copied().unwrap_or(0);
        if flags & PORT_UDP == 0 {
            return Reason::NotOurs;
        }
        let Some(settings) = self.settings().map(Arc::clone) else {
            return Reason::Off;
        };
        let address = from.to_canonical();
        let profile = match self.rule(&settings, address) {
            Ok(profile) => profile,
            Err(reason) => return reason,
        };
        let judged = quic::classify(&settings, flags, payload);
        self.ration(&settings, address, profile, judged, now_ns)
    }

    /// Whether a packet with this reason is dropped by the settings that hold: not in a dry run.
    pub fn drops(&self, reason: Reason) -> bool {
        reason.drops()
            && self
                .settings()
                .is_none_or(|settings| settings.flags & FLAG_DRY_RUN == 0)
    }

    fn settings(&self) -> Option<&Arc<Settings>> {
        let slot = (self.control.slot % SETTINGS_SLOTS) as usize;
        let settings = self.settings.get(slot)?.as_ref()?;
        (settings.abi == ABI_VERSION).then_some(settings)
    }

    fn consult(&self, now_ns: u64) -> Result<Arc<Settings>, Reason> {
        let settings = self.settings().ok_or(Reason::Off)?;
        if now_ns.abs_diff(self.control.heartbeat_ns) > settings.heartbeat_max_ns {
            return Err(Reason::Stale);
        }
        Ok(Arc::clone(settings))
    }

    fn transport(&mut self, transport: &Transport<'_>, now_ns: u64) -> Reason {
        let flags = self.ports.get(&transport.port).copied().unwrap_or(0);
        let wanted = if transport.is_udp { PORT_UDP } else { PORT_TCP };
        if flags & wanted == 0 {
            return Reason::NotOurs;
        }
        let settings = match self.consult(now_ns) {
            Ok(settings) => settings,
            Err(reason) => return reason,
        };
        let profile = match self.rule(&settings, transport.source) {
            Ok(profile) => profile,
            Err(reason) => return reason,
        };
        if transport.is_fragment {
            return Reason::Fragment;
        }
        let judged = if transport.is_udp {
            match transport.udp_payload() {
                Some(payload) => quic::classify(&settings, flags, payload),
                None => Judged::Reason(Reason::Truncated),
            }
        } else {
            match transport.opens_tcp() {
                None => Judged::Reason(Reason::Truncated),
                Some(false) => Judged::Reason(Reason::Tcp),
                Some(true) => Judged::Class(CLASS_SYN, [0; 3]),
            }
        };
        self.ration(&settings, transport.source, profile, judged, now_ns)
    }

    /// The profile of a source, or what a rule says of it.
    fn rule(&self, settings: &Settings, source: IpAddr) -> Result<u32, Reason> {
        let flag = match source {
            IpAddr::V4(_) => FLAG_RULES_V4,
            IpAddr::V6(_) => FLAG_RULES_V6,
        };
        if settings.flags & flag == 0 {
            return Ok(0);
        }
        match self.rules.find(source) {
            None => Ok(0),
            Some(rule) if rule.action == RULE_ALLOW => Err(Reason::Allowed),
            Some(rule) if rule.action == RULE_DENY => Err(Reason::Denied),
            Some(rule) if rule.profile < PROFILES => Ok(rule.profile),
            Some(_) => Ok(0),
        }
    }

    fn ration(
        &mut self,
        settings: &Settings,
        address: IpAddr,
        profile: u32,
        judged: Judged,
        now_ns: u64,
    ) -> Reason {
        let (class, id, is_answered) = match judged {
            Judged::Reason(reason) => return reason,
            Judged::Class(class, id) => (class, id, false),
            Judged::Answered => (CLASS_LONG, [0; 3], true),
        };
        // Not `abi::source`: on the wire a mapped address is one of IPv6.
        let (source, prefix) = match address {
            IpAddr::V4(address) => {
                let source = abi::source_v4(address);
                (source, source & (u64::MAX << (32 - abi::PREFIX_BITS_V4)))
            }
            IpAddr::V6(address) => {
                let source = abi::source_v6(address);
                (source, source & (u64::MAX << (64 - abi::PREFIX_BITS_V6)))
            }
        };
        let packet = Rationed {
            source,
            prefix,
            class,
            profile,
            id,
            is_answered,
        };
        self.within_budgets(settings, &packet, now_ns)
    }

    /// `ration` of `bpf/xdp.c`.
    fn within_budgets(&mut self, settings: &Settings, packet: &Rationed, now_ns: u64) -> Reason {
        let class = packet.class;
        let is_newcomer = class == CLASS_INITIAL;
        let of_class = |first: Reason| Reason::from_number(first.number() + class);
        let (Some(passed), Some(by_source), Some(by_prefix), Some(by_all)) = (
            of_class(Reason::Initial),
            of_class(Reason::SourceInitial),
            of_class(Reason::PrefixInitial),
            of_class(Reason::GlobalInitial),
        ) else {
            return Reason::Off;
        };
        let Some(profile) = settings.profile.get(packet.profile as usize) else {
            return Reason::Off;
        };
        let (Some(source_budget), Some(prefix_budget), Some(global_budget)) = (
            profile.source.get(class as usize),
            profile.prefix.get(class as usize),
            settings.global.get(class as usize),
        ) else {
            return Reason::Off;
        };

        let key = settings.hash_key;
        // Of what a newcomer sends; another has none.
        let hash = is_newcomer.then(|| budget::hash_of_id(key, packet.source, packet.id));
        let is_shed = hash.is_some_and(|hash| hash >> 48 < u64::from(self.control.shed));
        let global_cell = self.globals.get(class as usize).copied().unwrap_or(0);
        let refused = if is_shed {
            Some(Reason::Shed)
        } else {
            let has_room =
                packet.is_answered || budget::has_room(global_cell, *global_budget, now_ns);
            (!has_room).then_some(by_all)
        };
        let mut is_spared = false;
        if let Some(refused) = refused {
            is_spared = self.is_validated(packet.source, now_ns);
            if !is_spared {
                let again = self.is_retransmission(settings, packet, hash, now_ns);
                return if again {
                    Reason::Retransmission
                } else {
                    refused
                };
            }
        }
        let refused = if !self
            .sources
            .charge(key, class, packet.source, *source_budget, now_ns)
        {
            by_source
        } else if !self
            .prefixes
            .charge(key, class, packet.prefix, *prefix_budget, now_ns)
        {
            by_prefix
        } else if is_spared {
            return Reason::Validated;
        } else {
            if !packet.is_answered
                && let Some(cell) = self.globals.get_mut(class as usize)
            {
                budget::charge_one(cell, *global_budget, now_ns);
            }
            return passed;
        };
        if self.is_retransmission(settings, packet, hash, now_ns) {
            Reason::Retransmission
        } else {
            refused
        }
    }

    fn is_validated(&self, source: u64, now_ns: u64) -> bool {
        self.validated
            .get(&source)
            .is_some_and(|until_ns| now_ns < *until_ns)
    }

    /// Of a newcomer's Initial, which has a hash.
    fn is_retransmission(
        &mut self,
        settings: &Settings,
        packet: &Rationed,
        hash: Option<u64>,
        now_ns: u64,
    ) -> bool {
        hash.is_some_and(|hash| self.greylist.came_before(hash, now_ns))
            && self.may_repeat(settings, packet, now_ns)
    }

    /// Whether there is room for one more repeated Initial: of its source, then of all.
    fn may_repeat(&mut self, settings: &Settings, packet: &Rationed, now_ns: u64) -> bool {
        let class = CLASS_RETRANSMISSION;
        let profile = settings.profile.get(packet.profile as usize);
        let (Some(cell), Some(of_all), Some(of_source)) = (
            self.globals.get_mut(class as usize),
            settings.global.get(class as usize),
            profile.and_then(|profile| profile.source.get(class as usize)),
        ) else {
            return true;
        };
        budget::has_room(*cell, *of_all, now_ns)
            && self
                .sources
                .charge(settings.hash_key, class, packet.source, *of_source, now_ns)
            && budget::charge_one(cell, *of_all, now_ns)
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("control", &self.control)
            .field("ports", &self.ports.len())
            .field("validated", &self.validated.len())
            .finish_non_exhaustive()
    }
}

/// The 16 bytes of an address on the wire of IPv6.
fn v6(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes))
}
