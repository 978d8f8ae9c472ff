//! What is so on this machine, gathered without changing anything. What follows from it is decided in the file beside.

use std::{collections::BTreeSet, fmt, fs, io, path::Path};

use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

use super::netlink::Netlink;

/// Bytes of an interface's name at most, with the end: `IFNAMSIZ`.
const NAME_BYTES_MAX: usize = 16;

/// What is so on this machine, and of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The interface that was asked about.
    pub interface: String,
    /// The kernel's release, as `uname -r` has it.
    pub kernel: String,
    /// Which of the capabilities that loading takes this process has not: `CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON`.
    pub missing_capabilities: Vec<String>,
    /// Whether the kernel compiles programs; `None` where it does not say.
    pub jit: Option<bool>,
    /// What the interface is; `None` where this network namespace has none of that name.
    pub device: Option<Device>,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The number the kernel knows it by.
    pub index: u32,
    /// The driver, or the kind where it is no hardware: `virtio_net`, `ixgbe`, `veth`, `bond`.
    pub driver: Option<String>,
    /// Bytes of the largest packet behind the Ethernet header.
    pub mtu: u32,
    /// Receive queues: as many CPUs can drop at once.
    pub rx_queues: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// Whether its packets begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether the driver says that it runs programs itself; `None` where the kernel is older than 6.3 and says nothing.
    pub native_xdp: Option<bool>,
    /// The offloads that are on, by the names of `ethtool -k`; `None` where the kernel does not say.
    pub offloads: Option<BTreeSet<String>>,
    /// The program that is attached already.
    pub attached: Option<Attached>,
}

/// A program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// Its number, by which `bpftool prog show id` knows it.
    pub program: u32,
    /// How it runs.
    pub how: How,
}

/// How a program that is attached already runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
    /// On the card itself.
    Hardware,
    /// Several, in more than one of these ways.
    Several,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Hardware => "in hardware",
            Self::Several => "several ways",
        })
    }
}

impl Facts {
    /// Looks at the machine and at `interface`, in the network namespace of the calling thread. Changes nothing and needs
    /// no privileges.
    ///
    /// # Errors
    ///
    /// Where the kernel does not answer within a second a question, or answers what no kernel should.
    pub fn gather(interface: &str) -> io::Result<Self> {
        let mut netlink = Netlink::default();
        let link = if is_a_name(interface) {
            netlink.link(interface)?
        } else {
            None
        };
        let device = match link {
            None => None,
            Some(link) => Some(Device {
                index: link.index,
                driver: driver(interface).or(link.kind),
                mtu: link.mtu,
                rx_queues: link.rx_queues,
                up: link.up,
                ethernet: link.ethernet,
                native_xdp: netlink.native_xdp(link.index)?,
                offloads: netlink.offloads(link.index)?,
                attached: link.xdp.map(Attached::of),
            }),
        };
        Ok(Self {
            interface: interface.to_owned(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            missing_capabilities: missing_capabilities()?,
            jit: jit(),
            device,
        })
    }
}

impl Attached {
    /// As rtnetlink has it.
    fn of((how, program): (u8, u32)) -> Self {
        let how = match how {
            1 => How::Native,
            2 => How::Generic,
            3 => How::Hardware,
            _ => How::Several,
        };
        Self { program, how }
    }

    /// What is attached to an interface, and nothing else: one question, where [`Facts::gather`] has five, some of them to its driver.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn to(interface: &str) -> io::Result<Option<Self>> {
        let link = Netlink::default().link(interface)?;
        Ok(link.and_then(|link| link.xdp).map(Self::of))
    }
}

/// Whether the kernel would take this as an interface's name; it is also part of a path below.
fn is_a_name(interface: &str) -> bool {
    !interface.is_empty()
        && interface.len() < NAME_BYTES_MAX
        && !matches!(interface, "." | "..")
        && interface
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

/// The driver of hardware. Virtual interfaces have no device.
fn driver(interface: &str) -> Option<String> {
    let link = Path::new("/sys/class/net")
        .join(interface)
        .join("device/driver");
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn jit() -> Option<bool> {
    match fs::read("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) => Some(text.first() != Some(&b'0')),
        // Only root may read it. A kernel that always compiles has it all the same.
        Err(_) => None,
    }
}

/// `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON`, which came out of it in Linux 5.8.
fn missing_capabilities() -> io::Result<Vec<String>> {
    let have = capabilities(None)?.effective;
    let needed = [
        (CapabilitySet::BPF | CapabilitySet::SYS_ADMIN, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (
            CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN,
            "CAP_PERFMON",
        ),
    ];
    Ok(needed
        .into_iter()
        .filter(|(any_of, _)| !have.intersects(*any_of))
        .map(|(_, name)| name.to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_takes_as_a_name_becomes_part_of_a_path() {
        for good in ["eth0", "enp0s31f6", "veth@a", "a"] {
            assert!(is_a_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../../etc",
            "a/b",
            "eth0:1",
            "a b",
            "sixteen-letters0",
            "é",
        ] {
            assert!(!is_a_name(bad), "{bad}");
        }
    }

    #[test]
    fn looking_at_the_loopback_interface_needs_no_privileges() {
        let facts = Facts::gather("lo").unwrap();
        let device = facts.device.unwrap();
        assert_eq!(device.index, 1);
        assert!(device.ethernet && device.attached.is_none());
        assert!(!facts.kernel.is_empty());
    }

    #[test]
    fn a_name_that_cannot_be_is_an_interface_that_is_not_there() {
        assert_eq!(Facts::gather("../lo").unwrap().device, None);
    }
}
