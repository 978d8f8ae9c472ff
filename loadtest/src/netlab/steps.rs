//! The commands that build a lab, in order, as values: what `--dry-run` prints is what is run.

use std::fmt;

use super::line::Impairment;
use super::names::{BRIDGE, Names};
use super::scenario::{Host, Scenario};

/// What a host calls its only interface.
pub(super) const INTERFACE: &str = "eth0";

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Run a program of iproute2.
    Command(Vec<String>),
    /// Start the relay of a host's link: an index into the scenario's hosts.
    Relay {
        /// Which host.
        host: usize,
        /// What it does, in words.
        what: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(words) => out.write_str(&words.join(" ")),
            Self::Relay { what, .. } => write!(out, "# {what}"),
        }
    }
}

/// What delays and loses frames, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impairer {
    /// Our relay between two TAP devices.
    Relay,
    /// The kernel's `netem`.
    Netem,
}

impl fmt::Display for Impairer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Relay => "our relay",
            Self::Netem => "the kernel's netem",
        })
    }
}

/// Splits a command line written here into its words.
fn command(line: &str) -> Step {
    Step::Command(line.split_whitespace().map(str::to_owned).collect())
}

/// All that builds the hosts, the bridge and the links between them.
pub(super) fn build(
    scenario: &Scenario,
    names: &Names,
    impairer: Impairer,
    ipv6: bool,
) -> Vec<Step> {
    let bridge = names.bridge();
    // Without an address of the interface's own making, nothing but the scenario's traffic is on the links.
    let quiet = if ipv6 { "addrgenmode none " } else { "" };
    let mut steps = vec![
        command(&format!("ip netns add {bridge}")),
        command(&format!("ip -n {bridge} link set dev lo up")),
        command(&format!(
            "ip -n {bridge} link add dev {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        )),
        command(&format!("ip -n {bridge} link set dev {BRIDGE} {quiet}up")),
    ];
    for (number, host) in scenario.hosts.iter().enumerate() {
        host_steps(&mut steps, scenario, names, impairer, quiet, number, host);
    }
    neighbours(&mut steps, scenario, names, ipv6);
    steps
}

/// What removes all of it. Interfaces, queues and addresses go with their namespace.
pub(super) fn remove(scenario: &Scenario, names: &Names) -> Vec<Step> {
    namespaces(scenario, names)
        .iter()
        .map(|namespace| command(&format!("ip netns delete {namespace}")))
        .collect()
}

/// Names of all namespaces, the bridge's last.
pub(super) fn namespaces(scenario: &Scenario, names: &Names) -> Vec<String> {
    let hosts = scenario
        .hosts
        .iter()
        .map(|host| names.namespace(&host.name));
    hosts.chain([names.bridge()]).collect()
}

fn host_steps(
    steps: &mut Vec<Step>,
    scenario: &Scenario,
    names: &Names,
    impairer: Impairer,
    quiet: &str,
    number: usize,
    host: &Host,
) {
    let (bridge, namespace, port) = (names.bridge(), names.namespace(&host.name), &host.name);
    let (link, mac) = (&host.link, mac(number));
    let mtu = link.mtu;
    let relayed = !link.impairment.is_nothing() && impairer == Impairer::Relay;
    steps.push(command(&format!("ip netns add {namespace}")));
    steps.push(command(&format!("ip -n {namespace} link set dev lo up")));
    if relayed {
        for line in [
            format!("ip -n {namespace} tuntap add dev {INTERFACE} mode tap"),
            format!("ip -n {namespace} link set dev {INTERFACE} address {mac} mtu {mtu}"),
            format!("ip -n {bridge} tuntap add dev {port} mode tap"),
            format!("ip -n {bridge} link set dev {port} mtu {mtu}"),
        ] {
            steps.push(command(&line));
        }
    } else {
        steps.push(command(&format!(
            "ip link add dev {INTERFACE} netns {namespace} address {mac} mtu {mtu} type veth peer name {port} netns {bridge} mtu {mtu}"
        )));
    }
    for line in [
        format!("ip -n {bridge} link set dev {port} {quiet}master {BRIDGE} up"),
        format!("ip -n {namespace} link set dev {INTERFACE} {quiet}up"),
        format!(
            "ip -n {namespace} address add {}/{} dev {INTERFACE}",
            host.address,
            scenario.network.prefix_len()
        ),
    ] {
        steps.push(command(&line));
    }
    if !quiet.is_empty() {
        // No duplicate address detection: a second in which the address cannot be used.
        steps.push(command(&format!(
            "ip -n {namespace} address add {}/{} dev {INTERFACE} nodad",
            host.address6,
            scenario.network6.prefix_len()
        )));
    }
    // Each direction is shaped where it enters the link: upwards at the host, downwards at the bridge's port.
    for (namespace, device) in [(&namespace, INTERFACE), (&bridge, port.as_str())] {
        let place = format!("tc -n {namespace} qdisc add dev {device}");
        let netem = !relayed && !link.impairment.is_nothing();
        if netem {
            let options = netem_options(&link.impairment);
            steps.push(command(&format!("{place} root handle 1: netem {options}")));
        }
        if let Some(rate) = link.rate {
            let parent = if netem {
                "parent 1:1 handle 10:"
            } else {
                "root"
            };
            let (burst, wait) = (burst(rate, mtu), link.queue.as_micros());
            steps.push(command(&format!(
                "{place} {parent} tbf rate {rate}bit burst {burst}b latency {wait}us"
            )));
        }
    }
    if relayed {
        steps.push(Step::Relay {
            host: number,
            what: format!(
                "relay between {namespace}/{INTERFACE} and {bridge}/{port}: {}",
                describe(&link.impairment)
            ),
        });
    }
}

/// Each host knows each other's hardware address, so that no frame of a measurement waits for a question that was
/// lost, and none of the lost ones was a question.
fn neighbours(steps: &mut Vec<Step>, scenario: &Scenario, names: &Names, ipv6: bool) {
    for host in &scenario.hosts {
        let namespace = names.namespace(&host.name);
        for (number, other) in scenario.hosts.iter().enumerate() {
            if other.name == host.name {
                continue;
            }
            let mac = mac(number);
            let mut add = |address: String| {
                steps.push(command(&format!(
                    "ip -n {namespace} neighbour add {address} lladdr {mac} dev {INTERFACE} nud permanent"
                )));
            };
            add(other.address.to_string());
            if ipv6 {
                add(other.address6.to_string());
            }
        }
    }
}

/// A hardware address of the local range for each host.
fn mac(number: usize) -> String {
    format!("02:73:62:00:00:{:02x}", number + 1)
}

/// The bucket of `tbf`: what the link sends in 2 ms, and two packets at least. Small, for it is what the link can be
/// ahead of its rate.
fn burst(rate: u64, mtu: u32) -> u64 {
    (rate / 8 / 500).max(2 * (u64::from(mtu) + 18))
}

/// As words.
pub(super) fn describe(set: &Impairment) -> String {
    let mut words = vec![format!("delay {:?}", set.delay)];
    if !set.jitter.is_zero() {
        words.push(format!("jitter {:?} (even)", set.jitter));
    }
    if set.loss > 0.0 {
        words.push(format!("loss {}", percent(set.loss)));
    }
    if let Some(bursts) = set.bursts {
        words.push(format!(
            "bursts enter {} leave {} lost {}",
            percent(bursts.enter),
            percent(bursts.leave),
            percent(bursts.lost)
        ));
    }
    if set.reorder > 0.0 {
        words.push(format!(
            "reorder {} by {:?}",
            percent(set.reorder),
            set.reorder_by
        ));
    }
    words.join(", ")
}

/// `share` of 1 as `1%`, to a ten-thousandth.
fn percent(share: f64) -> String {
    let rounded = (share * 1e6).round() / 1e4;
    format!("{rounded}%")
}

/// Whether `netem` does the same as the relay would. Its `reorder` lets frames overtake instead of holding them back, and
/// beside bursts it has no independent loss.
pub(super) fn netem_can(set: &Impairment) -> bool {
    set.reorder <= 0.0 && (set.bursts.is_none() || set.loss <= 0.0)
}

fn netem_options(set: &Impairment) -> String {
    // As many frames as the relay would hold of full size.
    let mut options = format!("limit 40000 delay {}us", set.delay.as_micros());
    if !set.jitter.is_zero() {
        options.push_str(&format!(" {}us", set.jitter.as_micros()));
    }
    if set.loss > 0.0 {
        options.push_str(&format!(" loss {}", percent(set.loss)));
    }
    if let Some(bursts) = set.bursts {
        options.push_str(&format!(
            " loss gemodel {} {} {} 0%",
            percent(bursts.enter),
            percent(bursts.leave),
            percent(bursts.lost)
        ));
    }
    options
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SCENARIO: &str = r#"
[[host]]
name = "server"
link = { rate = "100Mbit" }
[[host]]
name = "client"
link = { delay = "20ms", jitter = "1ms", loss = "1%", rate = "10Mbit", queue = "20ms", mtu = 1400 }
"#;

    fn plan(impairer: Impairer) -> String {
        let scenario = Scenario::parse(Path::new("x.toml"), SCENARIO).unwrap();
        let steps = build(&scenario, &Names::of(7), impairer, true);
        let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn the_plan_with_the_relay_is_this() {
        assert_eq!(
            plan(Impairer::Relay),
            "\
ip netns add sb7-bridge
ip -n sb7-bridge link set dev lo up
ip -n sb7-bridge link add dev bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0
ip -n sb7-bridge link set dev bridge addrgenmode none up
ip netns add sb7-server
ip -n sb7-server link set dev lo up
ip link add dev eth0 netns sb7-server address 02:73:62:00:00:01 mtu 1500 type veth peer name server netns sb7-bridge mtu 1500
ip -n sb7-bridge link set dev server addrgenmode none master bridge up
ip -n sb7-server link set dev eth0 addrgenmode none up
ip -n sb7-server address add 10.77.0.1/24 dev eth0
ip -n sb7-server address add fd77::1/64 dev eth0 nodad
tc -n sb7-server qdisc add dev eth0 root tbf rate 100000000bit burst 25000b latency 50000us
tc -n sb7-bridge qdisc add dev server root tbf rate 100000000bit burst 25000b latency 50000us
ip netns add sb7-client
ip -n sb7-client link set dev lo up
ip -n sb7-client tuntap add dev eth0 mode tap
ip -n sb7-client link set dev eth0 address 02:73:62:00:00:02 mtu 1400
ip -n sb7-bridge tuntap add dev client mode tap
ip -n sb7-bridge link set dev client mtu 1400
ip -n sb7-bridge link set dev client addrgenmode none master bridge up
ip -n sb7-client link set dev eth0 addrgenmode none up
ip -n sb7-client address add 10.77.0.2/24 dev eth0
ip -n sb7-client address add fd77::2/64 dev eth0 nodad
tc -n sb7-client qdisc add dev eth0 root tbf rate 10000000bit burst 2836b latency 20000us
tc -n sb7-bridge qdisc add dev client root tbf rate 10000000bit burst 2836b latency 20000us
# relay between sb7-client/eth0 and sb7-bridge/client: delay 20ms, jitter 1ms (even), loss 1%
ip -n sb7-server neighbour add 10.77.0.2 lladdr 02:73:62:00:00:02 dev eth0 nud permanent
ip -n sb7-server neighbour add fd77::2 lladdr 02:73:62:00:00:02 dev eth0 nud permanent
ip -n sb7-client neighbour add 10.77.0.1 lladdr 02:73:62:00:00:01 dev eth0 nud permanent
ip -n sb7-client neighbour add fd77::1 lladdr 02:73:62:00:00:01 dev eth0 nud permanent"
        );
    }

    #[test]
    fn with_netem_the_link_is_a_veth_and_the_queues_do_it() {
        let plan = plan(Impairer::Netem);
        assert!(!plan.contains("tap") && !plan.contains("relay"));
        for line in [
            "tc -n sb7-client qdisc add dev eth0 root handle 1: netem limit 40000 delay 20000us 1000us loss 1%",
            "tc -n sb7-client qdisc add dev eth0 parent 1:1 handle 10: tbf rate 10000000bit burst 2836b latency 20000us",
            "tc -n sb7-bridge qdisc add dev client root handle 1: netem limit 40000 delay 20000us 1000us loss 1%",
        ] {
            assert!(plan.lines().any(|other| other == line), "{line}\n{plan}");
        }
    }

    #[test]
    fn removing_is_deleting_the_namespaces() {
        let scenario = Scenario::parse(Path::new("x.toml"), SCENARIO).unwrap();
        let lines: Vec<String> = remove(&scenario, &Names::of(7))
            .iter()
            .map(Step::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "ip netns delete sb7-server",
                "ip netns delete sb7-client",
                "ip netns delete sb7-bridge"
            ]
        );
    }
}
