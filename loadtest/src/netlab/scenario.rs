//! A scenario file, read and checked: hosts, their links and processes, and the load. Whatever is wrong with it is said
//! with file, line, column and what to write instead, before anything is made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;
use toml::Spanned;

use super::line::{Bursts, Impairment};
use super::names::BRIDGE;
use super::placeholder;
use super::quantity;

/// Hosts of one scenario: each pair costs two commands, for neighbour entries.
pub const HOSTS_MAX: usize = 32;

/// Longest name of a host: it also names an interface, and those have 15 bytes.
const NAME_MAX: usize = 12;

/// Largest MTU: beyond it an IPv4 packet ends.
const MTU_MAX: u32 = 65_521;

/// A checked scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// For people: `name` in the file, else the file's stem.
    pub name: String,
    /// The file's directory: `{dir}` in commands.
    pub directory: PathBuf,
    /// Seed of all that is random. Default 1.
    pub seed: u64,
    /// What delays and loses frames. Default [`Means::Auto`].
    pub means: Means,
    /// The IPv4 network of all hosts. Default 10.77.0.0/24.
    pub network: Ipv4Net,
    /// The IPv6 network of all hosts. Default fd77::/64.
    pub network6: Ipv6Net,
    /// How long a process has to become ready. Default 10 s.
    pub ready_timeout: Duration,
    /// At least one.
    pub hosts: Vec<Host>,
    /// What is run once all processes are ready. Without one, the lab stands until it is interrupted.
    pub load: Option<Load>,
}

/// What delays, loses and reorders frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// `netem` where the kernel has it and the scenario asks for nothing that it does otherwise, else the relay.
    Auto,
    /// Our relay, on any kernel.
    Relay,
    /// The kernel's `netem`, or nothing.
    Netem,
}

/// A host: a network namespace with one interface, `eth0`, on the lab's bridge.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Lower-case letters, digits and `-`; at most 12.
    pub name: String,
    /// Within [`Scenario::network`].
    pub address: Ipv4Addr,
    /// Within [`Scenario::network6`].
    pub address6: Ipv6Addr,
    /// Its link to the bridge.
    pub link: Link,
    /// Started in order, each once the one before is ready; hosts in the order of the file.
    pub processes: Vec<Process>,
}

/// The link between a host and the bridge. All holds for each direction by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Bytes of an IP packet. Default 1500. On a bridge of unlike MTUs, a packet too large for the far link vanishes
    /// without an ICMP message, as on an Ethernet.
    pub mtu: u32,
    /// Bits a second, Ethernet headers included. `None`: as fast as the machine is.
    pub rate: Option<u64>,
    /// How long frames may wait for the rate before they are dropped. Default 50 ms.
    pub queue: Duration,
    /// Delay, loss and reordering.
    pub impairment: Impairment,
}

/// A program that runs on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// For `sh -c`, with placeholders.
    pub run: String,
    /// What shows that it is ready. `None`: at once.
    pub ready: Option<Ready>,
    /// Set for it, beside what the tool's own environment has.
    pub env: BTreeMap<String, String>,
}

/// What shows that a process is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// A UDP socket of its host is bound to this port.
    Udp(u16),
    /// A TCP socket of its host listens on this port.
    Tcp(u16),
    /// It wrote this to its standard output or error.
    Line(String),
}

/// What is run and measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// On which host: an index into [`Scenario::hosts`].
    pub host: usize,
    /// What.
    pub what: LoadKind,
    /// It has failed if it takes longer. Default 10 min.
    pub timeout: Duration,
}

/// A load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadKind {
    /// The flags of a `stoq-bench run`, with placeholders; its bundle is read back.
    Run(String),
    /// Any command for `sh -c`, with placeholders; only its exit code counts.
    Command(String),
}

/// A scenario that cannot be: where, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Refused {
    /// The file, as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and the fix.
    pub message: String,
}

impl Scenario {
    /// Reads the text of `file`.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Refused> {
        let reader = Reader { file, text };
        let raw: Raw = toml::from_str(text)
            .map_err(|error| reader.refused(error.span().unwrap_or(0..0), error.message()))?;
        reader.scenario(raw)
    }

    /// The host called `name`.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Option<String>,
    seed: Option<u64>,
    impairment: Option<Spanned<String>>,
    network: Option<Spanned<String>>,
    network6: Option<Spanned<String>>,
    ready_timeout: Option<Spanned<String>>,
    #[serde(default)]
    host: Vec<Spanned<RawHost>>,
    load: Option<Spanned<RawLoad>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    name: Spanned<String>,
    address: Option<Spanned<String>>,
    address6: Option<Spanned<String>>,
    #[serde(default)]
    link: RawLink,
    #[serde(default)]
    processes: Vec<Spanned<RawProcess>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    mtu: Option<Spanned<u32>>,
    rate: Option<Spanned<String>>,
    queue: Option<Spanned<String>>,
    delay: Option<Spanned<String>>,
    jitter: Option<Spanned<String>>,
    loss: Option<Spanned<String>>,
    bursts: Option<RawBursts>,
    reorder: Option<Spanned<String>>,
    reorder_by: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBursts {
    enter: Spanned<String>,
    leave: Spanned<String>,
    lost: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProcess {
    run: Spanned<String>,
    ready: Option<Spanned<RawReady>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReady {
    udp: Option<u16>,
    tcp: Option<u16>,
    line: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLoad {
    host: Spanned<String>,
    run: Option<Spanned<String>>,
    command: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

/// Knows where in which file things stand.
struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn refused(&self, span: std::ops::Range<usize>, message: impl Into<String>) -> Refused {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Refused {
            file: self.file.display().to_string(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or("").chars().count() + 1,
            message: message.into(),
        }
    }

    /// Reads a text by `parse`, or takes the default where there is none.
    fn value<T>(
        &self,
        text: Option<&Spanned<String>>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Refused> {
        text.map_or(Ok(default), |text| {
            parse(text.get_ref()).map_err(|message| self.refused(text.span(), message))
        })
    }

    fn scenario(&self, raw: Raw) -> Result<Scenario, Refused> {
        let means = self.value(raw.impairment.as_ref(), Means::Auto, |text| match text {
            "auto" => Ok(Means::Auto),
            "relay" => Ok(Means::Relay),
            "netem" => Ok(Means::Netem),
            other => Err(format!(
                "`{other}` is no means of impairment: write auto, relay or netem"
            )),
        })?;
        let network = self.value(
            raw.network.as_ref(),
            Ipv4Net::new_assert(Ipv4Addr::new(10, 77, 0, 0), 24),
            |text| match text.parse::<Ipv4Net>() {
                Ok(network) if network.prefix_len() <= 26 => Ok(network.trunc()),
                _ => Err(format!(
                    "`{text}` is no IPv4 network for {HOSTS_MAX} hosts: write it like 10.77.0.0/24"
                )),
            },
        )?;
        let network6 = self.value(
            raw.network6.as_ref(),
            Ipv6Net::new_assert(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0), 64),
            |text| match text.parse::<Ipv6Net>() {
                Ok(network) if network.prefix_len() <= 120 => Ok(network.trunc()),
                _ => Err(format!(
                    "`{text}` is no IPv6 network: write it like fd77::/64"
                )),
            },
        )?;
        if raw.host.is_empty() {
            return Err(self.refused(0..0, "there is no [[host]]: a scenario has at least one"));
        }
        if let Some(host) = raw.host.get(HOSTS_MAX) {
            return Err(self.refused(
                host.span(),
                format!("more than {HOSTS_MAX} hosts, the most a lab has"),
            ));
        }
        let mut hosts: Vec<Host> = Vec::with_capacity(raw.host.len());
        let names: BTreeSet<String> = raw
            .host
            .iter()
            .map(|host| host.get_ref().name.get_ref().clone())
            .collect();
        for (number, host) in raw.host.iter().enumerate() {
            let host = self.host(host.get_ref(), number, &network, &network6, &hosts, &names)?;
            hosts.push(host);
        }
        let load = raw
            .load
            .as_ref()
            .map(|load| self.load(load, &hosts, &names))
            .transpose()?;
        let stem = self.file.file_stem().unwrap_or_default();
        Ok(Scenario {
            name: raw
                .name
                .unwrap_or_else(|| stem.to_string_lossy().into_owned()),
            directory: self.file.parent().map(Path::to_owned).unwrap_or_default(),
            seed: raw.seed.unwrap_or(1),
            means,
            network,
            network6,
            ready_timeout: self.value(
                raw.ready_timeout.as_ref(),
                Duration::from_secs(10),
                quantity::time,
            )?,
            hosts,
            load,
        })
    }

    fn host(
        &self,
        raw: &RawHost,
        number: usize,
        network: &Ipv4Net,
        network6: &Ipv6Net,
        before: &[Host],
        names: &BTreeSet<String>,
    ) -> Result<Host, Refused> {
        let name = raw.name.get_ref();
        let wrong = |message: String| Err(self.refused(raw.name.span(), message));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(plain) {
            return wrong(format!(
                "`{name}` is no name of a host: 1 to {NAME_MAX} of a-z, 0-9 and -"
            ));
        }
        if name == BRIDGE || name == "lo" {
            return wrong(format!("`{name}` is taken: call the host something else"));
        }
        if before.iter().any(|other| other.name == *name) {
            return wrong(format!(
                "there are two hosts `{name}`: give each its own name"
            ));
        }
        // The network has room for 2^6 addresses at least, and number is below 32.
        let last = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let own = Ipv4Addr::from_bits(network.network().to_bits().saturating_add(last));
        let own6 = network6.network().to_bits().saturating_add(last.into());
        let address = self.value(raw.address.as_ref(), own, |text| match text.parse() {
            Ok(address) if network.contains(&address) => Ok(address),
            Ok(address) => Err(format!(
                "{address} is not in {network}: choose one of these, or set `network`"
            )),
            Err(_) => Err(format!("`{text}` is no IPv4 address (without prefix)")),
        })?;
        let address6 =
            self.value(
                raw.address6.as_ref(),
                Ipv6Addr::from_bits(own6),
                |text| match text.parse() {
                    Ok(address) if network6.contains(&address) => Ok(address),
                    Ok(address) => Err(format!(
                        "{address} is not in {network6}: choose one of these, or set `network6`"
                    )),
                    Err(_) => Err(format!("`{text}` is no IPv6 address (without prefix)")),
                },
            )?;
        if let Some(other) = before
            .iter()
            .find(|other| other.address == address || other.address6 == address6)
        {
            return wrong(format!(
                "`{name}` has the address of `{}`: give one of them another",
                other.name
            ));
        }
        let processes = raw
            .processes
            .iter()
            .map(|process| self.process(process.get_ref(), names))
            .collect::<Result<_, _>>()?;
        Ok(Host {
            name: name.clone(),
            address,
            address6,
            link: self.link(&raw.link)?,
            processes,
        })
    }

    fn link(&self, raw: &RawLink) -> Result<Link, Refused> {
        let mtu = raw.mtu.as_ref().map_or(1500, |mtu| *mtu.get_ref());
        if let Some(written) = &raw.mtu
            && !(1280..=MTU_MAX).contains(&mtu)
        {
            return Err(self.refused(
                written.span(),
                format!("an MTU of {mtu} is out of range: IPv6 needs 1280, the most is {MTU_MAX}"),
            ));
        }
        let time =
            |text: Option<&Spanned<String>>, default| self.value(text, default, quantity::time);
        let share = |text: Option<&Spanned<String>>| self.value(text, 0.0, quantity::share);
        let delay = time(raw.delay.as_ref(), Duration::ZERO)?;
        let jitter = time(raw.jitter.as_ref(), Duration::ZERO)?;
        if let Some(written) = &raw.jitter
            && jitter > delay
        {
            return Err(self.refused(
                written.span(),
                format!("a jitter of {jitter:?} with a delay of {delay:?}: raise the delay to the jitter at least, no frame leaves before it came"),
            ));
        }
        let reorder = share(raw.reorder.as_ref())?;
        if let Some(written) = &raw.reorder
            && raw.reorder_by.is_none()
        {
            return Err(self.refused(
                written.span(),
                "`reorder` needs `reorder_by`, how much later the frames held back leave: add reorder_by = \"5ms\"",
            ));
        }
        if let Some(written) = &raw.reorder_by
            && raw.reorder.is_none()
        {
            return Err(self.refused(
                written.span(),
                "`reorder_by` without `reorder`, the share of frames held back: add reorder = \"1%\"",
            ));
        }
        if let Some(written) = &raw.queue
            && raw.rate.is_none()
        {
            return Err(self.refused(
                written.span(),
                "`queue` is the wait for the rate, and the link has none: add rate = \"100Mbit\"",
            ));
        }
        let bursts = raw
            .bursts
            .as_ref()
            .map(|bursts| {
                Ok(Bursts {
                    enter: share(Some(&bursts.enter))?,
                    leave: share(Some(&bursts.leave))?,
                    lost: self.value(bursts.lost.as_ref(), 1.0, quantity::share)?,
                })
            })
            .transpose()?;
        Ok(Link {
            mtu,
            rate: self.value(raw.rate.as_ref(), None, |text| {
                quantity::rate(text).map(Some)
            })?,
            queue: time(raw.queue.as_ref(), Duration::from_millis(50))?,
            impairment: Impairment {
                delay,
                jitter,
                loss: share(raw.loss.as_ref())?,
                bursts,
                reorder,
                reorder_by: time(raw.reorder_by.as_ref(), Duration::ZERO)?,
            },
        })
    }

    fn process(&self, raw: &RawProcess, names: &BTreeSet<String>) -> Result<Process, Refused> {
        let run = self.command(&raw.run, names)?;
        let ready = raw
            .ready
            .as_ref()
            .map(|ready| match ready.get_ref() {
                RawReady {
                    udp: Some(port),
                    tcp: None,
                    line: None,
                } => Ok(Ready::Udp(*port)),
                RawReady {
                    udp: None,
                    tcp: Some(port),
                    line: None,
                } => Ok(Ready::Tcp(*port)),
                RawReady {
                    udp: None,
                    tcp: None,
                    line: Some(line),
                } if !line.is_empty() => Ok(Ready::Line(line.clone())),
                _ => Err(self.refused(
                    ready.span(),
                    "`ready` is one of { udp = PORT }, { tcp = PORT }, { line = \"TEXT\" }",
                )),
            })
            .transpose()?;
        if let Some(name) = raw
            .env
            .keys()
            .find(|name| name.is_empty() || name.contains(['=', '\0']))
        {
            return Err(self.refused(
                raw.run.span(),
                format!("`{name}` in `env` is no name of a variable"),
            ));
        }
        Ok(Process {
            run,
            ready,
            env: raw.env.clone(),
        })
    }

    fn load(
        &self,
        raw: &Spanned<RawLoad>,
        hosts: &[Host],
        names: &BTreeSet<String>,
    ) -> Result<Load, Refused> {
        let load = raw.get_ref();
        let name = load.host.get_ref();
        let Some(host) = hosts.iter().position(|host| host.name == *name) else {
            return Err(self.refused(
                load.host.span(),
                format!("there is no host `{name}`: {}", placeholder::one_of(names)),
            ));
        };
        let what = match (&load.run, &load.command) {
            (Some(flags), None) => LoadKind::Run(self.command(flags, names)?),
            (None, Some(command)) => LoadKind::Command(self.command(command, names)?),
            _ => {
                return Err(self.refused(
                    raw.span(),
                    "[load] has either `run`, flags of `stoq-bench run`, or `command`, any other program",
                ));
            }
        };
        Ok(Load {
            host,
            what,
            timeout: self.value(load.timeout.as_ref(), quantity::TIME_MAX, quantity::time)?,
        })
    }

    /// A command whose placeholders can all be filled.
    fn command(&self, text: &Spanned<String>, names: &BTreeSet<String>) -> Result<String, Refused> {
        if text.get_ref().trim().is_empty() || text.get_ref().contains('\0') {
            return Err(self.refused(
                text.span(),
                "the command is empty: write a program and its arguments",
            ));
        }
        placeholder::check(text.get_ref(), names)
            .map_err(|message| self.refused(text.span(), message))?;
        Ok(text.get_ref().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Scenario::parse(Path::new("x.toml"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_scenario_has_its_defaults() {
        let text = "[[host]]\nname = \"a\"\n[[host]]\nname = \"b\"\n";
        let scenario = Scenario::parse(Path::new("labs/two.toml"), text).unwrap();
        assert_eq!(scenario.name, "two");
        assert_eq!(scenario.directory, Path::new("labs"));
        let b = scenario.host("b").unwrap();
        assert_eq!(b.address.to_string(), "10.77.0.2");
        assert_eq!(b.address6.to_string(), "fd77::2");
        assert_eq!(b.link.mtu, 1500);
        assert!(b.link.impairment.is_nothing() && b.link.rate.is_none());
    }

    #[test]
    fn a_whole_scenario_is_read() {
        let text = r#"
seed = 9
impairment = "relay"
network = "192.0.2.0/24"
[[host]]
name = "server"
address = "192.0.2.9"
link = { mtu = 9000, rate = "2.5Gbit", queue = "10ms" }
processes = [
    { run = "serve --on {host:server}:8443", ready = { udp = 8443 }, env = { RUST_LOG = "info" } },
]
[[host]]
name = "client"
[host.link]
delay = "20ms"
jitter = "2ms"
bursts = { enter = "1%", leave = "25%" }
reorder = "0.5%"
reorder_by = "5ms"
[load]
host = "client"
command = "ask {host:server}"
"#;
        let scenario = Scenario::parse(Path::new("x.toml"), text).unwrap();
        let server = &scenario.hosts[0];
        assert_eq!(server.link.rate, Some(2_500_000_000));
        assert_eq!(server.processes[0].ready, Some(Ready::Udp(8443)));
        let link = &scenario.hosts[1].link.impairment;
        assert_eq!(link.delay, Duration::from_millis(20));
        assert_eq!(link.bursts.unwrap().lost, 1.0);
        assert_eq!(scenario.load.unwrap().host, 1);
    }

    #[test]
    fn mistakes_are_refused_with_their_place_and_the_fix() {
        let two = "[[host]]\nname = \"a\"\n";
        for (text, said) in [
            ("", "x.toml:1:1: there is no [[host]]"),
            (
                "[[host]]\nname = \"A\"",
                "x.toml:2:8: `A` is no name of a host: 1 to 12 of a-z",
            ),
            (
                "[[host]]\nname = \"bridge\"",
                "x.toml:2:8: `bridge` is taken",
            ),
            (
                &format!("{two}{two}"),
                "x.toml:4:8: there are two hosts `a`",
            ),
            (
                &format!("{two}link = {{ dealy = \"1ms\" }}"),
                "x.toml:3:10: unknown field `dealy`, expected one of `mtu`",
            ),
            (
                &format!("{two}link = {{ delay = \"20\" }}"),
                "x.toml:3:18: `20` is no time: write it like 20ms",
            ),
            (
                &format!("{two}link = {{ jitter = \"2ms\" }}"),
                "x.toml:3:19: a jitter of 2ms with a delay of 0ns: raise the delay",
            ),
            (
                &format!("{two}link = {{ loss = \"0.01\" }}"),
                "x.toml:3:17: `0.01` is no share: write it like 1%",
            ),
            (
                &format!("{two}link = {{ reorder = \"1%\" }}"),
                "x.toml:3:20: `reorder` needs `reorder_by`",
            ),
            (
                &format!("{two}link = {{ queue = \"1ms\" }}"),
                "x.toml:3:18: `queue` is the wait for the rate",
            ),
            (
                &format!("{two}link = {{ mtu = 500 }}"),
                "x.toml:3:16: an MTU of 500 is out of range",
            ),
            (
                &format!("{two}address = \"192.0.2.1\""),
                "x.toml:3:11: 192.0.2.1 is not in 10.77.0.0/24",
            ),
            (
                &format!("{two}processes = [{{ run = \"x {{host:b}}\" }}]"),
                "x.toml:3:22: there is no host `b` for {host:b}: one of a",
            ),
            (
                &format!("{two}processes = [{{ run = \"x\", ready = {{ udp = 1, tcp = 2 }} }}]"),
                "x.toml:3:35: `ready` is one of",
            ),
            (
                &format!("{two}[load]\nhost = \"z\"\nrun = \"\""),
                "x.toml:4:8: there is no host `z`: one of a",
            ),
            (
                &format!("{two}[load]\nhost = \"a\""),
                "x.toml:3:1: [load] has either `run`",
            ),
            (
                &format!("impairment = \"best\"\n{two}"),
                "x.toml:1:14: `best` is no means of impairment",
            ),
            (&format!("{two}link = \"x"), "x.toml:3:"),
        ] {
            let got = refused(text);
            assert!(got.starts_with(said), "{text}\n got {got}\nwant {said}");
        }
    }

    #[test]
    fn the_shipped_scenarios_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("netlab");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(refused) = Scenario::parse(&path, &text) {
                panic!("{refused}");
            }
            read += 1;
        }
        assert!(read >= 3);
    }
}
