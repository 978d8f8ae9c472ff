//! What the configuration says, as the limiter takes it: ports that were really bound, budgets, lists.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use stoq::quic::CidKeys;
use stoq_ebpf::helper::Mandate;
use stoq_ebpf::{Limits, Mode, Policy, Port, Profile, Rate, Rules, Treatment};
use stoq_node::Config;
use stoq_node::config::{PacketRate, PacketRates, Xdp, XdpMode};

/// The profile of those who gave reason to be trusted less; the first is everyone's.
pub(super) const LOWERED: u8 = 1;
/// What is left of the budgets of those: a tenth.
const LOWERED_BY: u32 = 10;
/// What may be repeated of what a source may begin with, in the same terms: a tenth.
const REPEATED: u32 = 10;
/// A dropped packet of so many, of each reason and CPU, is kept for the operator's eye; the first one among them.
const SAMPLE_EVERY: u32 = 4096;

/// The ports that a process listens on for others than its own machine. Packets to all other ports pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ports(BTreeMap<u16, Port>);

impl Ports {
    /// `listen.https`: HTTP/3 with keyed connection IDs, and TLS over TCP.
    pub(crate) fn https(&mut self, port: u16) {
        let is_new = !self.0.contains_key(&port);
        let port = self.at(port);
        port.keyed = is_new || port.keyed;
        port.udp = true;
        port.tcp = true;
    }

    /// `listen.http`.
    pub(crate) fn http(&mut self, port: u16) {
        self.at(port).tcp = true;
    }

    /// `listen.stoq`. A node that restarts tells others by stateless resets that it knows their connections no longer, and a reset carries no ID
    /// of ours: so the IDs are not checked there. Whether TCP is spoken as well.
    pub(crate) fn stoq(&mut self, port: u16, tcp: bool) {
        let port = self.at(port);
        port.udp = true;
        port.tcp |= tcp;
        port.keyed = false;
    }

    fn at(&mut self, port: u16) -> &mut Port {
        self.0.entry(port).or_insert(Port {
            port,
            udp: false,
            tcp: false,
            peers: false,
            keyed: false,
        })
    }

    fn numbers(&self) -> BTreeSet<u16> {
        self.0.keys().copied().collect()
    }
}

/// What a node with this file asks of its limiter, as far as a file can say it: without connection IDs, whose keys are a process's own.
pub(crate) fn of_file(config: &Config) -> (Policy, Rules) {
    let mut ports = Ports::default();
    let listen = &config.listen;
    listen.https.iter().for_each(|at| ports.https(at.port()));
    listen.http.iter().for_each(|at| ports.http(at.port()));
    let tcp = config.stoq.tcp;
    listen.stoq.iter().for_each(|at| ports.stoq(at.port(), tcp));
    let mut policy = policy(&config.xdp, &ports, &CidKeys::random(), [0; 2]);
    policy.check_ids = false;
    policy.cid_keys.clear();
    (policy, lists(&config.xdp))
}

/// What the helper may be asked for: this interface and these ports.
pub(crate) fn mandate(config: &Xdp, ports: &Ports) -> Mandate {
    Mandate {
        interfaces: config.interface.iter().cloned().collect(),
        ports: ports.numbers(),
        pins: None,
    }
}

/// The mode asked for.
pub(crate) fn wish(mode: XdpMode) -> Mode {
    match mode {
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
        XdpMode::Off => Mode::UserSpace,
    }
}

/// What is asked of the limiter. `hash_key` is secret, and the same for the life of a process.
pub(super) fn policy(config: &Xdp, ports: &Ports, keys: &CidKeys, hash_key: [u64; 2]) -> Policy {
    let ports: Vec<Port> = ports.0.values().copied().collect();
    let usual = Profile {
        source: limits(&config.source),
        prefix: limits(&config.prefix),
        retransmissions: config
            .source
            .initial
            .map(|initial| part(rate(initial), REPEATED)),
    };
    let mut policy = Policy {
        dry_run: config.dry_run,
        check_ids: ports.iter().any(|port| port.keyed),
        // Linux follows longer chains than the program does: what hides its port behind one would come past every rule.
        drop_chains: true,
        event_mask: SAMPLE_EVERY - 1,
        ports,
        global: limits(&config.global),
        retransmissions: config.retransmissions.map(rate),
        cid_keys: keys.by_generation().into_iter().collect(),
        hash_key,
        ..Policy::default()
    };
    policy.profiles = [usual; stoq_ebpf::abi::PROFILES as usize];
    if let Some(profile) = policy.profiles.get_mut(usize::from(LOWERED)) {
        profile.source = lowered(&usual.source);
        profile.retransmissions = usual.retransmissions.map(|rate| part(rate, LOWERED_BY));
    }
    policy
}

fn limits(rates: &PacketRates) -> Limits {
    Limits {
        initial: rates.initial.map(rate),
        token: rates.token.map(rate),
        long: rates.long.map(rate),
        short: rates.short.map(rate),
        syn: rates.syn.map(rate),
    }
}

fn rate(rate: PacketRate) -> Rate {
    Rate {
        per_second: rate.per_second,
        burst: rate.burst,
    }
}

/// One part of so many, and enough to open a connection with.
fn part(rate: Rate, of: u32) -> Rate {
    Rate {
        per_second: (rate.per_second / of).max(1),
        burst: (rate.burst / of).max(2),
    }
}

/// Less for what opens connections, and as much as before for those that stand.
fn lowered(usual: &Limits) -> Limits {
    let less = |rate: Option<Rate>| rate.map(|rate| part(rate, LOWERED_BY));
    Limits {
        initial: less(usual.initial),
        token: less(usual.token),
        syn: less(usual.syn),
        ..*usual
    }
}

/// The operator's lists.
pub(super) fn lists(config: &Xdp) -> Rules {
    let with = |treatment| move |prefix: &IpNet| (*prefix, treatment);
    let allowed = config.allow.iter().map(with(Treatment::Allow));
    let denied = config.deny.iter().map(with(Treatment::Deny));
    allowed.chain(denied).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::path::Path;

    use stoq_ebpf::abi::Reason;
    use stoq_ebpf::capture::Captured;
    use stoq_ebpf::replay::{Outcome, Replay};
    use stoq_node::{Env, Role};

    use super::*;

    fn config(tables: &str) -> Xdp {
        let text = format!(
            "[listen]\nhttp = [\"127.0.0.1:80\"]\n{tables}\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n"
        );
        let config = Config::parse("edge.toml", &text, Path::new("."), &Env::none(), Role::Edge);
        config.unwrap_or_else(|errors| panic!("{errors}")).xdp
    }

    #[test]
    fn every_key_of_the_file_reaches_the_policy() {
        let xdp = config(
            "[xdp]\nmode = \"native\"\ninterface = \"eth0\"\ndry_run = true\nretransmissions = \"7/s\"\nallow = [\"192.0.2.1\"]\ndeny = [\"192.0.2.0/24\"]\n\
             source = { initial = \"20/s burst 30\", short = \"5/s\" }\nprefix = { syn = \"9/s\" }\nglobal = { long = \"off\" }",
        );
        let mut ports = Ports::default();
        ports.https(443);
        ports.http(80);
        ports.stoq(7443, false);
        let keys = CidKeys::new(2, [7; 16], None);
        let policy = policy(&xdp, &ports, &keys, [1, 2]);
        policy.check().unwrap();
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        assert!(policy.dry_run && policy.check_ids);
        assert_eq!(policy.retransmissions, rate(7, 7));
        assert_eq!(policy.profiles[0].source.initial, rate(20, 30));
        assert_eq!(policy.profiles[0].source.short, rate(5, 5));
        assert_eq!(policy.profiles[0].prefix.syn, rate(9, 9));
        assert_eq!(policy.global.long, None);
        assert_eq!(policy.cid_keys, [(2, [7; 16])].into());
        assert_eq!(policy.hash_key, [1, 2]);
        // Those who are trusted less open fewer connections, and use those they have as everyone does.
        let lowered = &policy.profiles[usize::from(LOWERED)];
        assert_eq!(lowered.source.initial, rate(2, 3));
        assert_eq!(lowered.source.short, rate(5, 5));
        assert_eq!(lowered.prefix, policy.profiles[0].prefix);
        assert_eq!(policy.profiles[0].retransmissions, rate(2, 3));
        assert_eq!(lowered.retransmissions, rate(1, 2));
        let rules = lists(&xdp);
        assert_eq!(rules.len(), 2);
        assert_eq!(
            rules[&"192.0.2.0/24".parse().unwrap()],
            Treatment::Deny,
            "{rules:?}"
        );
        let mandate = mandate(&xdp, &ports);
        assert_eq!(mandate.ports, [80, 443, 7443].into());
        assert_eq!(mandate.interfaces, ["eth0".to_owned()].into());
    }

    /// An IPv6 packet from 2001:db8:6::1 with so many options headers before a datagram to port 443.
    fn chained(headers: u8) -> Captured {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8 * headers + 8 + 64, 60, 64]);
        for address in ["2001:db8:6::1", "2001:db8::1"] {
            frame.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        for left in (0..headers).rev() {
            frame.extend([if left == 0 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        frame.extend([0xc3, 0x50, 0x01, 0xbb, 0, 8 + 64, 0, 0]);
        frame.extend([0x40; 64]);
        Captured {
            at_ns: 1,
            frame,
            missing: 0,
        }
    }

    #[test]
    fn no_chain_of_headers_is_long_enough_to_come_past_the_rules() {
        let xdp = config("[xdp]\ndeny = [\"2001:db8:6::/48\"]");
        let mut ports = Ports::default();
        ports.https(443);
        let policy = policy(&xdp, &ports, &CidKeys::random(), [0; 2]);
        let mut replay = Replay::through_model(&policy, &lists(&xdp)).unwrap();
        for (headers, reason) in [
            (1, Reason::Denied),
            (8, Reason::Denied),
            (9, Reason::ChainDropped),
            (20, Reason::ChainDropped),
        ] {
            let outcome = replay.captured(&chained(headers)).unwrap();
            assert_eq!(outcome, Outcome::Judged(reason), "{headers} headers");
        }
    }

    #[test]
    fn a_port_is_keyed_where_nothing_but_https_comes_over_udp() {
        let keyed = |name: &[fn(&mut Ports)]| {
            let mut ports = Ports::default();
            name.iter().for_each(|add| add(&mut ports));
            let policy = policy(&config(""), &ports, &CidKeys::random(), [0; 2]);
            let flags: Vec<_> = policy
                .ports
                .iter()
                .map(|p| (p.udp, p.tcp, p.keyed))
                .collect();
            (flags, policy.check_ids)
        };
        assert_eq!(keyed(&[|p| p.https(443)]), (vec![(true, true, true)], true));
        assert_eq!(
            keyed(&[|p| p.https(443), |p| p.https(443)]),
            (vec![(true, true, true)], true)
        );
        assert_eq!(
            keyed(&[|p| p.https(443), |p| p.stoq(443, false)]),
            (vec![(true, true, false)], false)
        );
        assert_eq!(
            keyed(&[|p| p.stoq(443, false), |p| p.https(443)]),
            (vec![(true, true, false)], false)
        );
        assert_eq!(
            keyed(&[|p| p.http(80)]),
            (vec![(false, true, false)], false)
        );
    }
}
