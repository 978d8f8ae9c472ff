//! The three questions the loader asks the kernel about an interface, over netlink: what it is (rtnetlink), which XDP
//! its driver can do (the `netdev` family, Linux 6.3), and which offloads are on (the `ethtool` family, Linux 5.6).
//!
//! It only ever asks: nothing here changes an interface. Netlink speaks of the network namespace of the calling thread.
//! What the kernel answers is decoded with the same care as anything else that is read: no length is believed.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, send, socket_with,
    },
};

/// How long one question may take: the kernel answers from memory, so anything longer is a fault.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Datagrams of one answer: a single object comes in one, with its acknowledgement in a second.
const DATAGRAMS_MAX: usize = 8;
/// The largest datagram the kernel sends for one object (an interface with its statistics is about 2 KiB).
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;
/// Attributes of one message that are looked at; the kernel sends fewer than 100.
const ATTRIBUTES_MAX: usize = 1024;

/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// `struct genlmsghdr`: command, version, reserved.
const GENERIC_HEADER_BYTES: usize = 4;
/// `struct ifinfomsg`: family, type, index, flags, change.
const INTERFACE_HEADER_BYTES: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// The top two bits of an attribute's type say that it nests and in which byte order it is.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// `NETDEV_XDP_ACT_BASIC`: the driver runs programs itself.
const XDP_ACT_BASIC: u64 = 1;

/// What the kernel says an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The number the kernel knows it by.
    pub(crate) index: u32,
    /// Bytes of the largest packet behind the Ethernet header.
    pub(crate) mtu: u32,
    /// Receive queues, where the kernel says.
    pub(crate) rx_queues: Option<u32>,
    /// `veth`, `bond`, `vlan`, …; none for hardware.
    pub(crate) kind: Option<String>,
    /// What `ip link` calls UP.
    pub(crate) up: bool,
    /// Its packets begin with an Ethernet header.
    pub(crate) ethernet: bool,
    /// The XDP program that is attached: how (`IFLA_XDP_ATTACHED`), and its id.
    pub(crate) xdp: Option<(u8, u32)>,
}

/// Two sockets to the kernel, opened on first use.
#[derive(Debug, Default)]
pub(crate) struct Netlink {
    route: Option<OwnedFd>,
    generic: Option<OwnedFd>,
    sequence: u32,
}

impl Netlink {
    /// What the interface of that name is, or `None` where there is none in this namespace.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut body = vec![0; INTERFACE_HEADER_BYTES];
        let mut terminated = name.as_bytes().to_vec();
        terminated.push(0);
        push(&mut body, IFLA_IFNAME, &terminated);
        let answer = match self.ask(Family::Route, RTM_GETLINK, &body) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                return Ok(None);
            }
            answer => answer?,
        };
        let found = answer.iter().find(|(kind, _)| *kind == RTM_NEWLINK);
        found.map(|(_, body)| decode_link(body)).transpose()
    }

    /// Whether the interface's driver runs XDP programs itself; `None` where the kernel is too old to say.
    pub(crate) fn native_xdp(&mut self, index: u32) -> io::Result<Option<bool>> {
        let Some(family) = self.family("netdev")? else {
            return Ok(None);
        };
        let mut body = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
        push(&mut body, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
        let answer = self.ask(Family::Generic, family, &body)?;
        let mut features = answer.iter().filter_map(|(_, body)| {
            let body = body.get(GENERIC_HEADER_BYTES..)?;
            find(body, NETDEV_A_DEV_XDP_FEATURES).and_then(u64_of)
        });
        Ok(features
            .next_back()
            .map(|features| features & XDP_ACT_BASIC != 0))
    }

    /// The names of the offloads that are on (`rx-gro-hw`, `rx-lro`, …, as `ethtool -k` has them); `None` where the
    /// kernel does not say.
    pub(crate) fn offloads(&mut self, index: u32) -> io::Result<Option<BTreeSet<String>>> {
        let Some(family) = self.family("ethtool")? else {
            return Ok(None);
        };
        let mut device = Vec::new();
        push(
            &mut device,
            ETHTOOL_A_HEADER_DEV_INDEX,
            &index.to_ne_bytes(),
        );
        let mut body = vec![ETHTOOL_MSG_FEATURES_GET, 1, 0, 0];
        push(&mut body, ETHTOOL_A_FEATURES_HEADER | NLA_F_NESTED, &device);
        let answer = match self.ask(Family::Generic, family, &body) {
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) =>
            {
                return Ok(None);
            }
            answer => answer?,
        };
        let mut on = None;
        for (_, body) in &answer {
            let Some(active) = body
                .get(GENERIC_HEADER_BYTES..)
                .and_then(|body| find(body, ETHTOOL_A_FEATURES_ACTIVE))
            else {
                continue;
            };
            on.get_or_insert_with(BTreeSet::new)
                .extend(names_of_set_bits(active));
        }
        Ok(on)
    }

    /// The number of a family of generic netlink; `None` where this kernel has none of that name.
    fn family(&mut self, name: &str) -> io::Result<Option<u16>> {
        let mut terminated = name.as_bytes().to_vec();
        terminated.push(0);
        let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        push(&mut body, CTRL_ATTR_FAMILY_NAME, &terminated);
        let answer = match self.ask(Family::Generic, GENL_ID_CTRL, &body) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
                return Ok(None);
            }
            answer => answer?,
        };
        Ok(answer.iter().find_map(|(_, body)| {
            let id = find(body.get(GENERIC_HEADER_BYTES..)?, CTRL_ATTR_FAMILY_ID)?;
            Some(u16::from_ne_bytes(id.first_chunk().copied()?))
        }))
    }

    /// Sends one request and gathers what answers it, without the acknowledgement.
    fn ask(
        &mut self,
        family: Family,
        message: u16,
        body: &[u8],
    ) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let socket = match family {
            Family::Route => &mut self.route,
            Family::Generic => &mut self.generic,
        };
        let socket = match socket {
            Some(open) => open,
            closed => closed.insert(open(family)?),
        };
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&message.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        request.extend_from_slice(&sequence.to_ne_bytes());
        request.extend_from_slice(&0_u32.to_ne_bytes());
        request.extend_from_slice(body);
        send(&*socket, &request, SendFlags::empty())?;

        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut answer = Vec::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..DATAGRAMS_MAX {
            wait_readable(socket, deadline)?;
            let (_, length) = recv(
                &*socket,
                buffer.as_mut_slice(),
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            )?;
            let datagram = buffer
                .get(..length)
                .ok_or_else(|| malformed("an answer larger than any should be"))?;
            if gather(datagram, sequence, &mut answer)? {
                return Ok(answer);
            }
        }
        Err(malformed("an answer that does not end"))
    }
}

#[derive(Clone, Copy)]
enum Family {
    Route,
    Generic,
}

fn open(family: Family) -> io::Result<OwnedFd> {
    let protocol: Option<Protocol> = match family {
        Family::Route => None,
        Family::Generic => Some(netlink::GENERIC),
    };
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

fn wait_readable(socket: &OwnedFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    let mut waiting = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut waiting, Some(&timeout))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Takes the messages of one datagram that answer `sequence`. True when the last of them was there.
fn gather(
    mut datagram: &[u8],
    sequence: u32,
    answer: &mut Vec<(u16, Vec<u8>)>,
) -> io::Result<bool> {
    while let Some(header) = datagram.first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let kind = u16::from_ne_bytes([t0, t1]);
        let body = datagram
            .get(HEADER_BYTES..length)
            .ok_or_else(|| malformed("a message longer than its datagram"))?;
        if u32::from_ne_bytes([s0, s1, s2, s3]) == sequence {
            match kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = body
                        .first_chunk()
                        .map(|code| i32::from_ne_bytes(*code))
                        .ok_or_else(|| malformed("an error without its number"))?;
                    return match code {
                        0 => Ok(true),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                kind => answer.push((kind, body.to_vec())),
            }
        }
        let next = length.next_multiple_of(4).min(datagram.len());
        datagram = datagram.get(next..).unwrap_or_default();
    }
    Ok(false)
}

/// Writes one attribute, padded to four bytes.
fn push(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("what is asked fits an attribute");
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The attributes of `bytes`, as far as they are whole.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, t0, t1] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        let next = length.next_multiple_of(4).min(bytes.len());
        bytes = bytes.get(next..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & NLA_TYPE_MASK, value))
    })
    .take(ATTRIBUTES_MAX)
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.first_chunk().copied()?))
}

fn u64_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.first_chunk().copied()?))
}

fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(value.get(..end.unwrap_or(value.len())).unwrap_or_default())
        .into_owned()
}

fn decode_link(body: &[u8]) -> io::Result<Link> {
    /// `IFF_UP`.
    const UP: u32 = 1;
    /// `ARPHRD_ETHER`, and `ARPHRD_LOOPBACK`, whose packets have the header too, of zeros.
    const WITH_HEADER: [u16; 2] = [1, 772];
    let header = body
        .first_chunk::<INTERFACE_HEADER_BYTES>()
        .ok_or_else(|| malformed("an interface without its header"))?;
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let rest = body.get(INTERFACE_HEADER_BYTES..).unwrap_or_default();
    let xdp = find(rest, IFLA_XDP).and_then(|xdp| {
        let attached = *find(xdp, IFLA_XDP_ATTACHED)?.first()?;
        let program = find(xdp, IFLA_XDP_PROG_ID).and_then(u32_of).unwrap_or(0);
        (attached != 0).then_some((attached, program))
    });
    Ok(Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        mtu: find(rest, IFLA_MTU)
            .and_then(u32_of)
            .ok_or_else(|| malformed("an interface without its MTU"))?,
        rx_queues: find(rest, IFLA_NUM_RX_QUEUES).and_then(u32_of),
        kind: find(rest, IFLA_LINKINFO)
            .and_then(|info| find(info, IFLA_INFO_KIND))
            .map(text_of),
        up: u32::from_ne_bytes([f0, f1, f2, f3]) & UP != 0,
        ethernet: WITH_HEADER.contains(&u16::from_ne_bytes([t0, t1])),
        xdp,
    })
}

/// The names in a bit set of the `ethtool` family whose bits are on: all that are listed where it has no mask, else
/// those that carry a value.
fn names_of_set_bits(set: &[u8]) -> Vec<String> {
    /// `ETHTOOL_A_BITSET_NOMASK`: what is listed is on.
    const NO_MASK: u16 = 1;
    let listed_is_on = find(set, NO_MASK).is_some();
    let bits = find(set, ETHTOOL_A_BITSET_BITS).unwrap_or_default();
    attributes(bits)
        .filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS_BIT)
        .filter(|(_, bit)| listed_is_on || find(bit, ETHTOOL_A_BITSET_BIT_VALUE).is_some())
        .filter_map(|(_, bit)| find(bit, ETHTOOL_A_BITSET_BIT_NAME).map(text_of))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_loopback_interface_is_what_it_is_everywhere() {
        let link = Netlink::default().link("lo").unwrap().unwrap();
        assert_eq!(link.index, 1);
        assert!(link.kind.is_none());
        assert!(link.ethernet);
    }

    #[test]
    fn an_interface_that_is_not_there_is_none() {
        assert_eq!(Netlink::default().link("stoq-none0").unwrap(), None);
    }

    #[test]
    fn offloads_come_with_the_names_that_ethtool_gives_them() {
        let mut netlink = Netlink::default();
        let Some(on) = netlink.offloads(1).unwrap() else {
            println!("SKIPPED: this kernel has no ethtool family");
            return;
        };
        assert!(
            on.contains("tx-lockless") || on.contains("loopback"),
            "{on:?}"
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut answer = Vec::new();
            let _ = gather(&bytes, 0, &mut answer);
            let _ = decode_link(&bytes);
            let _ = names_of_set_bits(&bytes);
        }

        #[test]
        fn what_is_pushed_is_found(kind in 1_u16..0x3fff, value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = Vec::new();
            push(&mut bytes, kind, &value);
            prop_assert_eq!(find(&bytes, kind), Some(value.as_slice()));
        }
    }
}
