//! What an operator asks of a limiter, in an operator's units: ports, budgets, lists. Both limiters take the same.
//!
//! It is plain data that travels to the helper process, so whatever reads it checks it with [`Policy::check`] first.
//! [`Policy::settings`] turns it into what the program reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::abi::{self, Budget, Settings};

/// Ports a policy may name, of both protocols together. An edge has a handful.
pub const POLICY_PORTS_MAX: usize = 64;
/// The longest silence of the owner after which packets are still judged: beyond it everything passes.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
/// The shortest: the owner speaks ten times a second, and may miss a few.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(300);

/// So many packets a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Packets a second. 0 refuses all.
    pub per_second: u32,
    /// Packets at once. 0 refuses all.
    pub burst: u32,
}

/// Budgets by class of packet; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Initials of newcomers, and of spoofers.
    pub initial: Option<Rate>,
    /// Initials with a token at a port whose IDs are not keyed: newcomers whose address is proven, once the server has looked at it. At a keyed one
    /// the ID tells.
    pub token: Option<Rate>,
    /// Other long headers, and Initials that carry an ID of ours: handshakes under way. What carries such an ID is not held to the budget of all.
    pub long: Option<Rate>,
    /// Short headers: established connections.
    pub short: Option<Rate>,
    /// TCP segments that open a connection.
    pub syn: Option<Rate>,
}

impl Limits {
    fn budgets(&self) -> [Budget; abi::CLASSES as usize] {
        // In the order of `CLASS_*`.
        [self.initial, self.token, self.long, self.short, self.syn].map(budget)
    }
}

fn budget(rate: Option<Rate>) -> Budget {
    rate.map_or(Budget::NONE, |rate| {
        Budget::per_second(rate.per_second, rate.burst)
    })
}

/// Budgets of those whom a rule names; the first profile is everyone else's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Of an IPv4 address or an IPv6 /64.
    pub source: Limits,
    /// Of an IPv4 /24 or an IPv6 /48.
    pub prefix: Limits,
    /// Repeated Initials of an IPv4 address or an IPv6 /64, which pass where the first one was rationed; none: no limit but that of all,
    /// [`Policy::retransmissions`].
    pub retransmissions: Option<Rate>,
}

/// A port of ours. Packets to all others pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// QUIC comes here.
    #[serde(default)]
    pub udp: bool,
    /// TCP connections come here.
    #[serde(default)]
    pub tcp: bool,
    /// Connections are dialled from this UDP port too, so packets come to it that only servers send.
    #[serde(default)]
    pub peers: bool,
    /// Connection IDs on this UDP port are the keyed ones; clients are offered no 0-RTT there, and sent no token but by Retry.
    #[serde(default)]
    pub keyed: bool,
}

impl Port {
    fn flags(self) -> u32 {
        [
            (self.udp, abi::PORT_UDP),
            (self.tcp, abi::PORT_TCP),
            (self.udp && self.peers, abi::PORT_PEERS),
            (self.udp && self.keyed, abi::PORT_KEYED),
        ]
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// What is asked of a limiter. The default has no ports: everything passes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Judge and count, drop nothing.
    pub dry_run: bool,
    /// Connection IDs at keyed ports must carry a tag made with one of [`cid_keys`](Self::cid_keys).
    pub check_ids: bool,
    /// The fixed bit must be 1: only where no endpoint of ours offers to grease it.
    pub fixed_bit: bool,
    /// Drop IPv6 whose port lies behind more extension headers than are followed.
    pub drop_chains: bool,
    /// A silence of the owner longer than this, in milliseconds: everything passes. 300 to 10,000; default 1,000.
    pub heartbeat_max_ms: u32,
    /// An event where a CPU's count of a reason `& event_mask` is 0. Default `u32::MAX`: the first packet of each reason.
    pub event_mask: u32,
    /// QUIC versions the server speaks, at most four; default 1.
    pub versions: BTreeSet<u32>,
    /// Ports of ours, at most [`POLICY_PORTS_MAX`].
    pub ports: Vec<Port>,
    /// Budgets to choose from by rule; the first is everyone else's.
    pub profiles: [Profile; abi::PROFILES as usize],
    /// Budgets of all together.
    pub global: Limits,
    /// Budget of all repeated Initials together, which pass where the first one was rationed.
    pub retransmissions: Option<Rate>,
    /// Keys of connection IDs by generation (0 to 3), as `stoq` has them.
    pub cid_keys: BTreeMap<u8, [u8; 16]>,
    /// Secret and random: places in the sketches, and who is shed. Drawn at each start by whoever makes the policy.
    pub hash_key: [u64; 2],
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            dry_run: false,
            check_ids: false,
            fixed_bit: false,
            drop_chains: false,
            heartbeat_max_ms: 1000,
            event_mask: u32::MAX,
            versions: [1].into(),
            ports: Vec::new(),
            profiles: [Profile::default(); abi::PROFILES as usize],
            global: Limits::default(),
            retransmissions: None,
            cid_keys: BTreeMap::new(),
            hash_key: [0; 2],
        }
    }
}

/// Without its keys.
impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("dry_run", &self.dry_run)
            .field("check_ids", &self.check_ids)
            .field("heartbeat_max_ms", &self.heartbeat_max_ms)
            .field("ports", &self.ports)
            .field("profiles", &self.profiles)
            .field("global", &self.global)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More ports than a policy may name.
    #[error("{ports} ports, at most {POLICY_PORTS_MAX} may be named")]
    Ports {
        /// How many there are.
        ports: usize,
    },
    /// A port is named twice.
    #[error("port {port} is named twice")]
    PortTwice {
        /// Which.
        port: u16,
    },
    /// More versions than fit.
    #[error(
        "{versions} QUIC versions, at most {} may be named, and none is 0",
        abi::VERSIONS
    )]
    Versions {
        /// How many there are.
        versions: usize,
    },
    /// A silence that is too short or too long.
    #[error("a heartbeat of at most {ms} ms: 300 to 10000 are allowed")]
    Heartbeat {
        /// What was asked for.
        ms: u32,
    },
    /// A generation that does not exist.
    #[error("a key for generation {generation}: there are {}", abi::GENERATIONS)]
    Generation {
        /// Which.
        generation: u8,
    },
    /// IDs are to be checked, and no key is there to check with: every short header would be dropped.
    #[error("connection IDs are to be checked, and there is no key")]
    NoKey,
}

impl Policy {
    /// Whether everything in it is within its bounds.
    ///
    /// # Errors
    ///
    /// The first thing that is not.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.ports.len() > POLICY_PORTS_MAX {
            return Err(PolicyError::Ports {
                ports: self.ports.len(),
            });
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.ports.iter().find(|port| !seen.insert(port.port)) {
            return Err(PolicyError::PortTwice { port: twice.port });
        }
        if self.versions.len() > abi::VERSIONS as usize || self.versions.contains(&0) {
            return Err(PolicyError::Versions {
                versions: self.versions.len(),
            });
        }
        let heartbeat = Duration::from_millis(self.heartbeat_max_ms.into());
        if !(HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&heartbeat) {
            return Err(PolicyError::Heartbeat {
                ms: self.heartbeat_max_ms,
            });
        }
        if let Some(generation) = self
            .cid_keys
            .keys()
            .find(|generation| u32::from(**generation) >= abi::GENERATIONS)
        {
            return Err(PolicyError::Generation {
                generation: *generation,
            });
        }
        if self.check_ids && self.cid_keys.is_empty() {
            return Err(PolicyError::NoKey);
        }
        Ok(())
    }

    /// What the program reads. `with_rules` says for IPv4 and IPv6 whether there are rules to look at.
    #[must_use]
    pub fn settings(&self, with_rules: [bool; 2]) -> Settings {
        let [with_v4, with_v6] = with_rules;
        let flags = [
            (self.dry_run, abi::FLAG_DRY_RUN),
            (self.check_ids, abi::FLAG_CHECK_CID),
            (self.fixed_bit, abi::FLAG_FIXED_BIT),
            (self.drop_chains, abi::FLAG_DROP_CHAIN),
            (with_v4, abi::FLAG_RULES_V4),
            (with_v6, abi::FLAG_RULES_V6),
        ];
        let mut settings = Settings {
            flags: flags
                .into_iter()
                .filter(|(set, _)| *set)
                .fold(0, |all, (_, flag)| all | flag),
            heartbeat_max_ns: u64::from(self.heartbeat_max_ms) * 1_000_000,
            hash_key: self.hash_key,
            event_mask: self.event_mask,
            versions: [0; abi::VERSIONS as usize],
            profile: self.profiles.map(|profile| {
                let [initial, token, long, short, syn] = profile.source.budgets();
                let again = budget(profile.retransmissions);
                abi::Profile {
                    source: [initial, token, long, short, syn, again],
                    prefix: profile.prefix.budgets(),
                }
            }),
            ..Settings::default()
        };
        for (slot, version) in settings.versions.iter_mut().zip(&self.versions) {
            *slot = *version;
        }
        for (slot, budget) in settings.global.iter_mut().zip(
            self.global
                .budgets()
                .into_iter()
                .chain([budget(self.retransmissions)]),
        ) {
            *slot = budget;
        }
        for (generation, key) in &self.cid_keys {
            if let Some(slot) = settings.cid_key.get_mut(usize::from(*generation)) {
                *slot = abi::cid_key(*key);
                settings.cid_generations |= 1 << generation;
            }
        }
        settings
    }

    /// The ports with their `PORT_*` flags; those that are neither of UDP nor of TCP are left out.
    #[must_use]
    pub fn port_flags(&self) -> BTreeMap<u16, u32> {
        self.ports
            .iter()
            .map(|port| (port.port, port.flags()))
            .filter(|(_, flags)| *flags != 0)
            .collect()
    }
}

/// What is done with the packets of a prefix. The longest prefix that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// They pass, always.
    Allow,
    /// They are dropped.
    Deny,
    /// They have the budgets of this profile of [`Policy::profiles`]; a number that there is not counts as 0.
    Profile(u8),
}

impl Treatment {
    pub(crate) fn rule(self) -> abi::Rule {
        let (action, profile) = match self {
            Self::Allow => (abi::RULE_ALLOW, 0),
            Self::Deny => (abi::RULE_DENY, 0),
            Self::Profile(profile) => (abi::RULE_PROFILE, u32::from(profile)),
        };
        abi::Rule { action, profile }
    }
}

/// Who is treated differently: at most 65,536 prefixes of a family.
pub type Rules = BTreeMap<IpNet, Treatment>;

/// One change of the rules: a prefix with its new treatment, or with none any more.
pub type RuleEdit = (IpNet, Option<Treatment>);

/// The changes that make `new` of `old`. Host bits of a prefix say nothing and are cleared.
#[must_use]
pub fn edits(old: &Rules, new: &Rules) -> Vec<RuleEdit> {
    let old = trimmed(old);
    let new = trimmed(new);
    let gone = old
        .keys()
        .filter(|prefix| !new.contains_key(*prefix))
        .map(|prefix| (*prefix, None));
    let changed = new
        .iter()
        .filter(|(prefix, treatment)| old.get(*prefix) != Some(*treatment))
        .map(|(prefix, treatment)| (*prefix, Some(*treatment)));
    gone.chain(changed).collect()
}

fn trimmed(rules: &Rules) -> Rules {
    rules
        .iter()
        .map(|(prefix, treatment)| (prefix.trunc(), *treatment))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16) -> Port {
        Port {
            port,
            udp: true,
            tcp: true,
            peers: false,
            keyed: true,
        }
    }

    #[test]
    fn every_setting_reaches_the_program() {
        let policy = Policy {
            dry_run: true,
            check_ids: true,
            fixed_bit: true,
            drop_chains: true,
            heartbeat_max_ms: 500,
            event_mask: 1023,
            versions: [1, 0x6b33_43cf].into(),
            ports: vec![port(443)],
            profiles: [Profile {
                source: Limits {
                    initial: Some(Rate {
                        per_second: 50,
                        burst: 10,
                    }),
                    ..Limits::default()
                },
                prefix: Limits {
                    syn: Some(Rate {
                        per_second: 1000,
                        burst: 1,
                    }),
                    ..Limits::default()
                },
                retransmissions: Some(Rate {
                    per_second: 5,
                    burst: 5,
                }),
            }; 4],
            global: Limits {
                token: Some(Rate {
                    per_second: 0,
                    burst: 0,
                }),
                ..Limits::default()
            },
            retransmissions: Some(Rate {
                per_second: 10,
                burst: 10,
            }),
            cid_keys: [(2, [7; 16])].into(),
            hash_key: [1, 2],
        };
        let settings = policy.settings([true, false]);
        assert_eq!(settings.abi, abi::ABI_VERSION);
        assert_eq!(
            settings.flags,
            abi::FLAG_DRY_RUN
                | abi::FLAG_CHECK_CID
                | abi::FLAG_FIXED_BIT
                | abi::FLAG_DROP_CHAIN
                | abi::FLAG_RULES_V4
        );
        assert_eq!(settings.heartbeat_max_ns, 500_000_000);
        assert_eq!(settings.event_mask, 1023);
        assert_eq!(settings.versions, [1, 0x6b33_43cf, 0, 0]);
        assert_eq!(settings.hash_key, [1, 2]);
        assert_eq!(settings.cid_generations, 4);
        assert_eq!(settings.cid_key[2], abi::cid_key([7; 16]));
        let initial = abi::CLASS_INITIAL as usize;
        let syn = abi::CLASS_SYN as usize;
        assert_eq!(
            settings.profile[3].source[initial],
            Budget::per_second(50, 10)
        );
        assert_eq!(settings.profile[3].source[syn], Budget::NONE);
        assert_eq!(settings.profile[0].prefix[syn], Budget::per_second(1000, 1));
        assert_eq!(
            settings.global[abi::CLASS_TOKEN as usize],
            Budget::per_second(0, 0)
        );
        assert_eq!(
            settings.global[abi::CLASS_RETRANSMISSION as usize],
            Budget::per_second(10, 10)
        );
        assert_eq!(
            policy.port_flags(),
            [(443, abi::PORT_UDP | abi::PORT_TCP | abi::PORT_KEYED)].into()
        );
    }

    #[test]
    fn a_policy_out_of_bounds_is_refused() {
        let good = Policy::default();
        assert_eq!(good.check(), Ok(()));
        type Change = fn(&mut Policy);
        let cases: [(Change, &str); 7] = [
            (|it| it.ports = (0..65).map(port).collect(), "65 ports"),
            (|it| it.ports = vec![port(1), port(1)], "twice"),
            (|it| it.versions = (1..6).collect(), "5 QUIC versions"),
            (|it| it.versions = [0].into(), "QUIC versions"),
            (|it| it.heartbeat_max_ms = 299, "299 ms"),
            (|it| it.cid_keys = [(4, [0; 16])].into(), "generation 4"),
            (|it| it.check_ids = true, "no key"),
        ];
        for (change, word) in cases {
            let mut policy = good.clone();
            change(&mut policy);
            let error = policy.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_policy_travels_as_text_and_unknown_keys_are_refused() {
        let mut policy = Policy::default();
        policy.cid_keys.insert(1, [9; 16]);
        policy.ports.push(port(4433));
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        assert!(serde_json::from_str::<Policy>(r#"{"dry_runs": true}"#).is_err());
    }

    #[test]
    fn keys_are_not_in_what_is_logged() {
        let mut policy = Policy {
            hash_key: [0x1234_5678_9abc, 7],
            ..Policy::default()
        };
        policy.cid_keys.insert(1, [250; 16]);
        let text = format!("{policy:?}");
        assert!(!text.contains("250"), "{text}");
        assert!(!text.contains(&0x1234_5678_9abc_u64.to_string()), "{text}");
    }

    #[test]
    fn edits_turn_the_old_rules_into_the_new_ones() {
        let of = |list: &[(&str, Treatment)]| -> Rules {
            list.iter()
                .map(|(prefix, treatment)| (prefix.parse().unwrap(), *treatment))
                .collect()
        };
        let old = of(&[
            ("192.0.2.0/24", Treatment::Deny),
            ("10.0.0.0/8", Treatment::Allow),
            ("2001:db8::/32", Treatment::Profile(1)),
        ]);
        let new = of(&[
            ("192.0.2.77/24", Treatment::Deny),
            ("10.0.0.0/8", Treatment::Deny),
            ("::/0", Treatment::Profile(2)),
        ]);
        let mut made = old.clone();
        let changes = edits(&old, &new);
        for (prefix, treatment) in &changes {
            match treatment {
                Some(treatment) => made.insert(*prefix, *treatment),
                None => made.remove(prefix),
            };
        }
        assert_eq!(made, trimmed(&new));
        assert_eq!(changes.len(), 3, "what stays is not touched: {changes:?}");
    }
}
