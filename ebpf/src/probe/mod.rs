//! What would happen here, and why: the answer of `xdp probe`, and the reasons that [`attach`](crate::Attachment::attach)
//! gives when it refuses or falls back.
//!
//! [`Facts`] are gathered, [`judge`] decides: a pure function, so that drivers, kernels and offloads which this machine
//! does not have are tested like the ones it has. Nothing here loads or attaches anything, so what only an attempt can
//! show (a driver short of queues, say) is not foreseen; the attempt's own error says it then.

mod facts;
mod netlink;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::facts::{Attached, Device, Facts, How};

/// The first kernel that runs the program compiled, by what is newest in it: compare-and-swap, which Linux has since 5.12
/// (commit 5ffa25502b5a) and compiles for arm64 since 5.18 (commit 1902472b4fa9). Older needs are the coarse clock of 5.11, the
/// ring buffer of 5.8 and loops of 5.3. One that calls itself older may have it brought in by its distributor, so an attempt is
/// made, and a warning given.
pub const KERNEL_MIN: (u32, u32) = if cfg!(target_arch = "aarch64") {
    (5, 18)
} else {
    (5, 12)
};
/// Before this one maps are charged to `RLIMIT_MEMLOCK`, and before 5.9 a program can outlive its owner: refused.
const KERNEL_REFUSED_BELOW: (u32, u32) = (5, 11);

/// Drivers give a program one page a packet. 4,096 bytes, less 256 of headroom, 320 for the kernel's own record behind
/// the packet, and 14 of Ethernet header.
pub const NATIVE_MTU_MAX: u32 = 4096 - 256 - 320 - 14;

/// Where packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the driver, before the kernel makes anything of a packet: about 0.15 µs for one that is dropped.
    Native,
    /// In the kernel's stack, on any interface: the packet has been copied into a buffer of the kernel's by then.
    Generic,
    /// At the endpoint's socket, by the model: costs the way through the kernel, needs no privileges.
    UserSpace,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::UserSpace => "user-space",
        })
    }
}

/// How a finding bears on a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It cannot work.
    Refuses,
    /// It may fail, or do less.
    Warns,
    /// Good to know.
    Notes,
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuses => "refuses",
            Self::Warns => "warns",
            Self::Notes => "notes",
        })
    }
}

/// One thing that was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// How it bears on the modes.
    pub weight: Weight,
    /// The modes it bears on.
    pub modes: Vec<Mode>,
    /// What is so.
    pub what: String,
    /// What would change it.
    pub fix: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.fix {
            Some(fix) => write!(f, "; fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// What would happen on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What the answer rests on.
    pub facts: Facts,
    /// The mode that would be had: the first of those wished for that nothing refuses.
    pub would: Mode,
    /// Everything found, what refuses first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Looks at the machine and `interface` and says what would happen if `wish` were configured.
    ///
    /// # Errors
    ///
    /// As [`Facts::gather`].
    pub fn of(interface: &str, wish: Mode) -> std::io::Result<Self> {
        Ok(judge(Facts::gather(interface)?, wish))
    }

    /// Why `mode` cannot be had; empty where nothing is in its way.
    pub fn refusals(&self, mode: Mode) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| {
            finding.weight == Weight::Refuses && finding.modes.contains(&mode)
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        writeln!(f, "interface  {}", facts.interface)?;
        if let Some(device) = &facts.device {
            writeln!(
                f,
                "driver     {}, MTU {}, {}",
                device.driver.as_deref().unwrap_or("unknown"),
                device.mtu,
                if device.up { "up" } else { "down" },
            )?;
        }
        writeln!(f, "kernel     {}", facts.kernel)?;
        writeln!(f, "would run  {}", self.would)?;
        for finding in &self.findings {
            let modes: Vec<String> = finding.modes.iter().map(Mode::to_string).collect();
            writeln!(
                f,
                "{:<10} {}: {finding}",
                finding.weight.to_string(),
                modes.join(", ")
            )?;
        }
        Ok(())
    }
}

/// What follows from the facts when `wish` is configured. With [`Mode::Native`] wished for, generic is the next best; the
/// user-space limiter is what always remains.
#[must_use]
pub fn judge(facts: Facts, wish: Mode) -> Report {
    let mut findings = of_the_machine(&facts);
    match &facts.device {
        Some(device) => findings.extend(of_the_device(&facts.interface, device)),
        None => findings.push(finding(
            Weight::Refuses,
            &[Mode::Native, Mode::Generic],
            format!(
                "this network namespace has no interface `{}`",
                facts.interface
            ),
            Some("name one of those that `ip link` lists".to_owned()),
        )),
    }
    findings.sort_by_key(|finding| finding.weight);
    let mut report = Report {
        facts,
        would: Mode::UserSpace,
        findings,
    };
    let wished: &[Mode] = match wish {
        Mode::Native => &[Mode::Native, Mode::Generic],
        Mode::Generic => &[Mode::Generic],
        Mode::UserSpace => &[],
    };
    if let Some(mode) = wished
        .iter()
        .find(|mode| report.refusals(**mode).next().is_none())
    {
        report.would = *mode;
    }
    report
}

fn finding(weight: Weight, modes: &[Mode], what: String, fix: Option<String>) -> Finding {
    Finding {
        weight,
        modes: modes.to_vec(),
        what,
        fix,
    }
}

const BOTH: &[Mode] = &[Mode::Native, Mode::Generic];
const NATIVE: &[Mode] = &[Mode::Native];
const GENERIC: &[Mode] = &[Mode::Generic];

fn of_the_machine(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let (major, minor) = KERNEL_MIN;
    match release(&facts.kernel) {
        Some(version) if version >= KERNEL_MIN => {}
        Some(version) => found.push(finding(
            if version < KERNEL_REFUSED_BELOW {
                Weight::Refuses
            } else {
                Weight::Warns
            },
            BOTH,
            format!(
                "kernel {}: it has not all that the program calls, unless its distributor brought it in",
                facts.kernel
            ),
            Some(format!("run Linux {major}.{minor} or later")),
        )),
        None => found.push(finding(
            Weight::Warns,
            BOTH,
            format!("kernel {}: not a release this understands", facts.kernel),
            None,
        )),
    }
    if !facts.missing_capabilities.is_empty() {
        let missing = facts.missing_capabilities.join(", ");
        let flags = facts.missing_capabilities.join(",").to_lowercase();
        found.push(finding(
            Weight::Refuses,
            BOTH,
            format!("this process has not {missing}"),
            Some(format!(
                "start it as root, or with AmbientCapabilities={} in its unit, or after `setcap {flags}+ep` on the binary; \
                 only the helper keeps them",
                facts.missing_capabilities.join(" ")
            )),
        ));
    }
    if facts.jit == Some(false) {
        found.push(finding(
            Weight::Warns,
            BOTH,
            "the kernel interprets programs instead of compiling them: several times slower"
                .to_owned(),
            Some("sysctl -w net.core.bpf_jit_enable=1".to_owned()),
        ));
    }
    found
}

fn of_the_device(interface: &str, device: &Device) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_on = |offload: &str| {
        device
            .offloads
            .as_ref()
            .is_some_and(|on| on.contains(offload))
    };
    if !device.ethernet {
        found.push(finding(
            Weight::Refuses,
            BOTH,
            "its packets do not begin with an Ethernet header".to_owned(),
            Some("name the interface that packets arrive on from outside".to_owned()),
        ));
    }
    if let Some(attached) = device.attached {
        found.push(finding(
            Weight::Refuses,
            BOTH,
            format!(
                "program {} is attached already ({})",
                attached.program, attached.how
            ),
            Some(format!(
                "look whose it is (`bpftool prog show id {0}`); `ip link set dev {interface} xdp off` takes it away where no \
                 running process holds it",
                attached.program
            )),
        ));
    }
    match device.native_xdp {
        Some(true) => {}
        // Such drivers say so only once the offload is off, so the offload is what has to be named.
        Some(false) if is_on("rx-gro-hw") || is_on("rx-lro") => {}
        Some(false) => found.push(finding(
            Weight::Refuses,
            NATIVE,
            format!(
                "the driver ({}) does not run programs itself",
                device.driver.as_deref().unwrap_or("unknown")
            ),
            None,
        )),
        None => found.push(finding(
            Weight::Notes,
            NATIVE,
            "the kernel does not say whether the driver runs programs itself: an attempt will show it".to_owned(),
            None,
        )),
    }
    for (offload, name) in [
        ("rx-gro-hw", "GRO in hardware"),
        ("rx-lro", "large receive offload"),
    ] {
        if is_on(offload) {
            found.push(finding(
                if device.driver.as_deref() == Some("virtio_net") || offload == "rx-lro" {
                    Weight::Refuses
                } else {
                    Weight::Warns
                },
                NATIVE,
                format!("{name} is on, which joins packets before a program could see them"),
                Some(format!("ethtool -K {interface} {offload} off")),
            ));
        }
    }
    if device.mtu > NATIVE_MTU_MAX {
        found.push(finding(
            Weight::Refuses,
            NATIVE,
            format!(
                "MTU {}: a packet has to fit one page, which leaves {NATIVE_MTU_MAX}",
                device.mtu
            ),
            Some(format!(
                "ip link set dev {interface} mtu {NATIVE_MTU_MAX}, or less where the driver asks for it"
            )),
        ));
    }
    if !device.up {
        found.push(finding(
            Weight::Warns,
            BOTH,
            "the interface is down".to_owned(),
            Some(format!("ip link set dev {interface} up")),
        ));
    }
    found.push(finding(
        Weight::Notes,
        GENERIC,
        "packets are dropped after the kernel has made a buffer for them: less is saved than in the driver".to_owned(),
        None,
    ));
    found
}

/// Major and minor of what `uname -r` says.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            interface: "eth0".to_owned(),
            kernel: "6.18.4-generic".to_owned(),
            missing_capabilities: Vec::new(),
            jit: Some(true),
            device: Some(Device {
                index: 2,
                driver: Some("virtio_net".to_owned()),
                mtu: 1500,
                rx_queues: Some(2),
                up: true,
                ethernet: true,
                native_xdp: Some(true),
                offloads: Some(["rx-gro".to_owned()].into()),
                attached: None,
            }),
        }
    }

    fn with(change: impl FnOnce(&mut Device)) -> Facts {
        let mut facts = good();
        change(facts.device.as_mut().unwrap());
        facts
    }

    #[test]
    fn a_driver_that_can_gets_native() {
        let report = judge(good(), Mode::Native);
        assert_eq!(report.would, Mode::Native);
        assert_eq!(report.refusals(Mode::Native).count(), 0);
    }

    #[test]
    fn what_is_wished_for_is_not_exceeded() {
        assert_eq!(judge(good(), Mode::Generic).would, Mode::Generic);
        assert_eq!(judge(good(), Mode::UserSpace).would, Mode::UserSpace);
    }

    /// Facts, the mode they leave, a word of the reason, and a word of the fix.
    #[test]
    fn each_thing_in_the_way_is_named_with_its_fix() {
        let gro = |device: &mut Device| {
            device.native_xdp = Some(false);
            device.offloads = Some(["rx-gro-hw".to_owned()].into());
        };
        let mut old = good();
        old.kernel = "5.10.0-28-amd64".to_owned();
        let mut powerless = good();
        powerless.missing_capabilities = vec!["CAP_BPF".to_owned(), "CAP_NET_ADMIN".to_owned()];
        let mut absent = good();
        absent.device = None;
        let cases = [
            (
                with(gro),
                Mode::Generic,
                "GRO in hardware",
                "ethtool -K eth0 rx-gro-hw off",
            ),
            (
                with(|device| device.offloads = Some(["rx-lro".to_owned()].into())),
                Mode::Generic,
                "large receive offload",
                "ethtool -K eth0 rx-lro off",
            ),
            (
                with(|device| device.mtu = 9000),
                Mode::Generic,
                "MTU 9000",
                "mtu 3506",
            ),
            (
                with(|device| device.native_xdp = Some(false)),
                Mode::Generic,
                "does not run programs",
                "",
            ),
            (
                with(|device| {
                    device.attached = Some(Attached {
                        program: 7,
                        how: How::Native,
                    });
                }),
                Mode::UserSpace,
                "program 7",
                "bpftool prog show id 7",
            ),
            (
                with(|device| device.ethernet = false),
                Mode::UserSpace,
                "Ethernet",
                "",
            ),
            (old, Mode::UserSpace, "5.10.0", "run Linux 5.1"),
            (
                powerless,
                Mode::UserSpace,
                "CAP_BPF, CAP_NET_ADMIN",
                "setcap cap_bpf,cap_net_admin+ep",
            ),
            (absent, Mode::UserSpace, "no interface `eth0`", "ip link"),
        ];
        for (facts, would, reason, fix) in cases {
            let report = judge(facts, Mode::Native);
            assert_eq!(report.would, would, "{report}");
            let first = report.refusals(Mode::Native).next().unwrap();
            assert!(first.what.contains(reason), "{reason}: {report}");
            assert!(
                first.fix.as_deref().unwrap_or_default().contains(fix),
                "{fix}: {report}"
            );
        }
    }

    #[test]
    fn a_kernel_that_may_have_been_brought_up_to_date_is_tried() {
        let mut facts = good();
        facts.kernel = "5.11.22-7-pve".to_owned();
        let report = judge(facts, Mode::Native);
        assert_eq!(report.would, Mode::Native);
        assert_eq!(report.findings[0].weight, Weight::Warns, "{report}");
    }

    #[test]
    fn a_report_is_text_and_json() {
        let report = judge(with(|device| device.mtu = 9000), Mode::Native);
        let text = report.to_string();
        assert!(text.contains("would run  generic"), "{text}");
        assert!(text.contains("refuses    native: MTU 9000"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        let back: Report = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(back, report);
        assert_eq!(json["would"], "generic");
        assert_eq!(json["findings"][0]["weight"], "refuses");
        assert_eq!(json["facts"]["device"]["driver"], "virtio_net");
    }

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        for (text, version) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("5.10.0-28-amd64", Some((5, 10))),
            ("6.1", Some((6, 1))),
            ("6", None),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(release(text), version, "{text}");
        }
    }
}
