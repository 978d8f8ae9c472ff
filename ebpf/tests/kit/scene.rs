//! Ports, keys, budgets and rules in which the vectors and the random packets are judged.

use stoq_ebpf::abi::{
    self, Budget, CLASS_INITIAL, CLASS_RETRANSMISSION, FLAG_CHECK_CID, FLAG_DROP_CHAIN,
    FLAG_DRY_RUN, FLAG_FIXED_BIT, FLAG_RULES_V4, FLAG_RULES_V6, GLOBALS, PORT_KEYED, PORT_PEERS,
    PORT_TCP, PORT_UDP, Profile, RULE_ALLOW, RULE_DENY, RULE_PROFILE, Rule, Settings,
};

use super::{
    Judge,
    frame::{VERSION_1, VERSION_2},
};

/// Clients only, keyed IDs, and TCP.
pub(crate) const PUBLIC: u16 = 443;
/// Other nodes, from here and to here.
pub(crate) const PEERS: u16 = 4433;
/// QUIC of which nothing is known of its IDs.
pub(crate) const OTHER: u16 = 8443;
/// Nobody's.
pub(crate) const SSH: u16 = 22;

/// By generation; the last has none.
pub(crate) const KEYS: [[u8; 16]; 3] = [[0x11; 16], [0x22; 16], [0x33; 16]];

/// Which settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What an edge would have.
    Usual,
    /// As the usual ones, and the fixed bit and long chains of extension headers are looked at.
    Strict,
    /// As the strict ones, and nothing is dropped.
    DryRun,
    /// As the usual ones, for another version of the programs.
    Foreign,
}

impl Kind {
    pub(crate) fn settings(self) -> Settings {
        let usual = FLAG_CHECK_CID | FLAG_RULES_V4 | FLAG_RULES_V6;
        let strict = usual | FLAG_FIXED_BIT | FLAG_DROP_CHAIN;
        let of = |source: Budget, prefix: Budget| {
            let mut profile = Profile {
                source: [source; GLOBALS as usize],
                prefix: [prefix; abi::CLASSES as usize],
            };
            profile.source[CLASS_RETRANSMISSION as usize] = Budget::per_second(5, 2);
            profile
        };
        let mut cid_key = [[0; 2]; abi::GENERATIONS as usize];
        for (key, bytes) in cid_key.iter_mut().zip(KEYS) {
            *key = abi::cid_key(bytes);
        }
        let mut global = [Budget::per_second(100, 20); GLOBALS as usize];
        global[CLASS_RETRANSMISSION as usize] = Budget::per_second(10, 3);
        let mut profile =
            [of(Budget::per_second(10, 5), Budget::per_second(20, 8)); abi::PROFILES as usize];
        // A prefix whose budget is lowered for its newcomers.
        profile[1].prefix[CLASS_INITIAL as usize] = Budget::per_second(1, 1);
        profile[2] = Profile::default();
        Settings {
            abi: if self == Self::Foreign {
                abi::ABI_VERSION + 1
            } else {
                abi::ABI_VERSION
            },
            flags: match self {
                Self::Usual | Self::Foreign => usual,
                Self::Strict => strict,
                Self::DryRun => strict | FLAG_DRY_RUN,
            },
            heartbeat_max_ns: 1_500_000_000,
            hash_key: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            cid_key,
            cid_generations: 0b111,
            event_mask: u32::MAX,
            versions: [VERSION_1, VERSION_2, 0, 0],
            profile,
            global,
        }
    }
}

/// Ports and rules.
pub(crate) fn furnish(judge: &mut dyn Judge) {
    judge.set_port(PUBLIC, PORT_UDP | PORT_TCP | PORT_KEYED);
    judge.set_port(PEERS, PORT_UDP | PORT_PEERS | PORT_KEYED);
    judge.set_port(OTHER, PORT_UDP);
    for (prefix, bits, action, profile) in RULES {
        let rule = Rule {
            action: *action,
            profile: *profile,
        };
        judge.set_rule(prefix.parse().unwrap(), *bits, rule);
    }
}

/// Prefix, its bits, action, profile.
pub(crate) const RULES: &[(&str, u8, u32, u32)] = &[
    ("10.6.0.0", 16, RULE_DENY, 0),
    ("10.6.6.0", 24, RULE_ALLOW, 0),
    ("10.6.6.6", 32, RULE_DENY, 0),
    ("10.7.0.0", 16, RULE_PROFILE, 1),
    ("10.8.0.0", 16, RULE_PROFILE, 2),
    ("10.9.0.0", 16, RULE_PROFILE, 99),
    ("10.10.0.0", 16, 77, 1),
    ("2001:db8:6::", 48, RULE_DENY, 0),
    ("2001:db8:6:6::", 64, RULE_ALLOW, 0),
    ("2001:db8:7::", 48, RULE_PROFILE, 1),
];
