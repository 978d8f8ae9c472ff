//! `xdp probe`, `xdp test-pcap`: what the program at the NIC would do, before anybody lets it. Neither changes anything. The verbs for a node that
//! runs are in [`live`].

mod live;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::Serialize;
use stoq_ebpf::capture::Capture;
use stoq_ebpf::replay::Replay;
use stoq_ebpf::{Mode, Policy, Port, Report, Rules, Treatment, is_for_want_of_privilege};
use stoq_node::report::{Exit, Output};
use stoq_node::{Config, Env, Role};

use crate::xdp::of_file;

/// The verbs under `xdp`.
#[derive(Debug, Subcommand)]
pub(super) enum XdpVerb {
    /// What would happen on an interface, and why. Exit code 3 where the mode asked for cannot be had.
    Probe(Probe),
    /// The verdict on each packet of a capture (pcap or pcapng): through the program where this process may load it, else through its model.
    ///
    /// It is what a node would say that has just started: nothing is shed, nobody is known or has smaller budgets. Connection IDs are not checked, since
    /// their keys are a running node's own, so what carries one of those counts as if it carried another.
    TestPcap(TestPcap),
    /// Attach the program to the interface of `[xdp]`, on trial: it is taken away again unless `xdp confirm` comes in time. Exit code 3 where the mode
    /// asked for was not had.
    Enable(live::Enable),
    /// What is on trial stays, and the next start attaches it as well.
    Confirm(live::Node),
    /// Take the program away, and do not attach it at the next start.
    Disable(live::Node),
    /// Take budgets, lists and `dry_run` from the file anew.
    Reload(live::Node),
    /// What becomes of packets, by reason, once a second. With --json once.
    Top(live::Top),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wish {
    Native,
    Generic,
}

#[derive(Debug, Args)]
pub(super) struct Probe {
    /// The interface, such as eth0.
    interface: String,
    /// The mode asked for.
    #[arg(long, value_enum, default_value_t = Wish::Native)]
    mode: Wish,
}

#[derive(Debug, Args)]
pub(super) struct TestPcap {
    /// The capture.
    file: PathBuf,
    /// Ports, budgets and lists of this configuration file (TOML). Without it nothing has a budget.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["udp", "tcp", "allow", "deny"])]
    config: Option<PathBuf>,
    /// UDP ports of ours, to which QUIC comes. Packets to ports that are not ours pass.
    #[arg(long = "udp", value_name = "PORT", default_values_t = [443_u16])]
    udp: Vec<u16>,
    /// TCP ports of ours.
    #[arg(long = "tcp", value_name = "PORT", default_values_t = [443_u16])]
    tcp: Vec<u16>,
    /// Prefixes whose packets pass, such as 192.0.2.0/24. The longest that matches decides.
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<IpNet>,
    /// Prefixes whose packets are dropped.
    #[arg(long, value_name = "PREFIX")]
    deny: Vec<IpNet>,
    /// Through the model, be the program to be had or not.
    #[arg(long)]
    model: bool,
}

pub(super) fn xdp(verb: &XdpVerb, json: bool, output: &Output) -> anyhow::Result<Exit> {
    match verb {
        XdpVerb::Enable(args) => live::enable(args, output),
        XdpVerb::Confirm(node) => live::confirm(node, output),
        XdpVerb::Disable(node) => live::disable(node, output),
        XdpVerb::Reload(node) => live::reload(node, output),
        XdpVerb::Top(args) => live::top(args, json, output),
        XdpVerb::Probe(args) => probe(args, output),
        XdpVerb::TestPcap(args) => test_pcap(args, output),
    }
}

fn probe(args: &Probe, output: &Output) -> anyhow::Result<Exit> {
    let wish = match args.mode {
        Wish::Native => Mode::Native,
        Wish::Generic => Mode::Generic,
    };
    let interface = &args.interface;
    let report = Report::of(interface, wish).with_context(|| format!("interface {interface}"))?;
    output.result(&report)?;
    Ok(if report.would == wish {
        Exit::Done
    } else {
        Exit::Degraded
    })
}

fn policy(args: &TestPcap) -> Policy {
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    let port = |port| Port {
        port,
        udp: false,
        tcp: false,
        peers: false,
        keyed: false,
    };
    for number in &args.udp {
        ports.entry(*number).or_insert_with(|| port(*number)).udp = true;
    }
    for number in &args.tcp {
        ports.entry(*number).or_insert_with(|| port(*number)).tcp = true;
    }
    Policy {
        ports: ports.into_values().collect(),
        ..Policy::default()
    }
}

fn rules(args: &TestPcap) -> anyhow::Result<Rules> {
    let mut rules = Rules::new();
    let allowed = args.allow.iter().map(|prefix| (prefix, Treatment::Allow));
    let denied = args.deny.iter().map(|prefix| (prefix, Treatment::Deny));
    for (prefix, treatment) in allowed.chain(denied) {
        let before = rules.insert(prefix.trunc(), treatment);
        ensure!(
            before.is_none_or(|before| before == treatment),
            "{prefix} is both allowed and denied: leave one of them out"
        );
    }
    Ok(rules)
}

/// One packet's verdict, a line of its own.
#[derive(Debug, Serialize)]
struct Verdict {
    packet: u64,
    at_ns: u64,
    verdict: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10}  {}", self.packet, self.verdict)
    }
}

/// Of the whole capture.
#[derive(Debug, Serialize)]
struct Summary {
    ok: bool,
    judge: &'static str,
    packets: u64,
    verdicts: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_model: Option<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (verdict, count) in &self.verdicts {
            writeln!(f, "{count:>10}  {verdict}")?;
        }
        write!(
            f,
            "{:>10}  packets, judged by the {}",
            self.packets, self.judge
        )?;
        match &self.why_model {
            Some(why) => writeln!(f, ": {why}"),
            None => writeln!(f),
        }
    }
}

fn test_pcap(args: &TestPcap, output: &Output) -> anyhow::Result<Exit> {
    let summary = judge(args, |verdict| Ok(output.result(verdict)?))?;
    output.result(&summary)?;
    Ok(Exit::Done)
}

/// Judges each packet, and says so.
fn judge(
    args: &TestPcap,
    mut say: impl FnMut(&Verdict) -> anyhow::Result<()>,
) -> anyhow::Result<Summary> {
    let (policy, rules) = match &args.config {
        Some(path) => of_file(&Config::load(path, &Env::from_process(), Role::Edge)?),
        None => (policy(args), rules(args)?),
    };
    let program = (!args.model).then(|| Replay::through_program(&policy, &rules));
    let (mut replay, why_model) = match program {
        Some(Ok(replay)) => (replay, None),
        Some(Err(error)) if is_for_want_of_privilege(&error) => {
            let why = format!("the program may not be loaded: {error}");
            (Replay::through_model(&policy, &rules)?, Some(why))
        }
        Some(Err(error)) => return Err(error.into()),
        None => (Replay::through_model(&policy, &rules)?, None),
    };
    let mut capture = open(&args.file)?;
    let mut summary = Summary {
        ok: true,
        judge: replay.judge(),
        packets: 0,
        verdicts: BTreeMap::new(),
        why_model,
    };
    let place = || format!("{}", args.file.display());
    while let Some(packet) = capture.next_packet().with_context(place)? {
        summary.packets += 1;
        let verdict = Verdict {
            packet: summary.packets,
            at_ns: packet.at_ns,
            verdict: replay.captured(&packet)?.to_string(),
        };
        say(&verdict)?;
        *summary.verdicts.entry(verdict.verdict).or_default() += 1;
    }
    Ok(summary)
}

fn open(file: &Path) -> anyhow::Result<Capture<BufReader<File>>> {
    let place = || format!("{}", file.display());
    let opened = File::open(file).with_context(place)?;
    Capture::new(BufReader::new(opened)).with_context(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame of a UDP datagram over IPv4.
    fn frame(from: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
        let length = |header: usize| u16::try_from(header + payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.extend([0x45, 0]);
        frame.extend(length(28));
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(from);
        frame.extend([192, 0, 2, 1]);
        frame.extend(50_000_u16.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(length(8));
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    /// A classic capture of Ethernet frames, so many seconds apart.
    fn capture(frames: &[Vec<u8>], apart: u32) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            file.extend(word.to_le_bytes());
        }
        for (nth, frame) in (1_u32..).zip(frames) {
            let length = u32::try_from(frame.len()).unwrap();
            for word in [nth * apart, 0, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend(frame);
        }
        file
    }

    fn args(file: &Path) -> TestPcap {
        TestPcap {
            file: file.to_owned(),
            config: None,
            udp: vec![443],
            tcp: vec![443],
            allow: Vec::new(),
            deny: vec!["198.51.100.0/24".parse().unwrap()],
            model: true,
        }
    }

    #[test]
    fn each_packet_of_a_capture_has_its_verdict() {
        // A first packet of QUIC version 1 with connection IDs of eight bytes, far below 1200.
        let mut initial = vec![0xc0, 0, 0, 0, 1, 8];
        initial.extend([7; 8]);
        initial.extend([0, 0, 0x40, 0x20]);
        initial.resize(100, 0);
        let frames = [
            frame([192, 0, 2, 7], 443, &initial),
            frame([198, 51, 100, 7], 443, &initial),
            frame([198, 51, 100, 7], 53, b"x"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), capture(&frames, 1)).unwrap();
        let mut said = Vec::new();
        let summary = judge(&args(file.path()), |verdict| {
            said.push(verdict.verdict.clone());
            Ok(())
        });
        let summary = summary.unwrap();
        assert_eq!(said[..2], ["drop_initial_small", "drop_denied"]);
        assert!(said[2].starts_with("pass_"), "{said:?}");
        assert_eq!((summary.judge, summary.packets), ("model", 3));
        assert_eq!(summary.verdicts.get("drop_denied"), Some(&1));
    }

    #[test]
    fn the_budgets_and_lists_of_a_file_are_those_that_count() {
        // First packets of one source to one port, each to another ID, and one from a network of `deny`.
        let initial = |id: u8| {
            let mut initial = vec![0xc0, 0, 0, 0, 1, 8];
            initial.extend([id; 8]);
            initial.extend([0, 0, 0x44, 0x90]);
            initial.resize(1200, 0);
            initial
        };
        let mut frames: Vec<_> = (1..=3)
            .map(|id| frame([192, 0, 2, 7], 8443, &initial(id)))
            .collect();
        frames.push(frame([198, 51, 100, 7], 8443, &initial(4)));
        frames.push(frame([192, 0, 2, 7], 443, &initial(5)));
        let state = tempfile::tempdir().unwrap();
        let [file, config] = ["a.pcap", "edge.toml"].map(|name| state.path().join(name));
        std::fs::write(&file, capture(&frames, 0)).unwrap();
        std::fs::write(
            &config,
            "[listen]\nhttps = [\"127.0.0.1:8443\"]\n[xdp]\ndeny = [\"198.51.100.0/24\"]\n\
             global = { initial = \"9/s burst 2\" }\n\
             [[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n",
        )
        .unwrap();
        let mut args = args(&file);
        (args.config, args.deny) = (Some(config), Vec::new());
        let mut said = Vec::new();
        judge(&args, |verdict| {
            said.push(verdict.verdict.clone());
            Ok(())
        })
        .unwrap();
        let [two, third] = ["pass_initial", "drop_global_initial"];
        assert_eq!(said, [two, two, third, "drop_denied", "pass_not_ours"]);
    }

    #[test]
    fn a_file_that_is_no_capture_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"GIF89a").unwrap();
        let error = judge(&args(file.path()), |_| Ok(())).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with(&file.path().display().to_string()),
            "{error}"
        );
        assert!(error.contains("neither pcap nor pcapng"), "{error}");
    }

    #[test]
    fn who_is_allowed_and_denied_is_told() {
        let mut args = args(Path::new("x"));
        args.allow.push("198.51.100.9/24".parse().unwrap());
        let error = rules(&args).unwrap_err().to_string();
        assert!(error.contains("both allowed and denied"), "{error}");
    }
}
