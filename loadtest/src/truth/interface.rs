//! The interface on the way to a server, and the kernel's count of what went through it.
//!
//! The kernel is asked over a netlink socket, which answers for the network namespace of the thread that made it, knows
//! the whole of routing (rules and tables, too), and needs no rights. `/sys/class/net` would show whichever
//! namespace it was mounted in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// What the kernel's headers call these.
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTN_LOCAL: u8 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_STATS64: u16 = 23;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// In every namespace.
const LOOPBACK_INDEX: u32 = 1;

const MESSAGE_HEADER_BYTES: usize = 16;
const ROUTE_HEADER_BYTES: usize = 12;
const LINK_HEADER_BYTES: usize = 16;
/// The kernel's answers about one link are below 4 KiB, more with many virtual functions; a longer one is an error.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The interface on the way to a server.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    index: u32,
}

/// What the kernel says of it at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counters {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) rx_packets: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) rx_dropped: u64,
}

impl Link {
    /// That to `peer`: the loopback interface where its address is one of this host.
    ///
    /// # Errors
    /// There is no route, or the kernel does not say.
    pub(super) fn to(peer: SocketAddr) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let answer = ask(&socket, RTM_GETROUTE, &route_question(peer))?;
        let index = route_index(payload(&answer, RTM_NEWROUTE)?)
            .ok_or_else(|| odd("no interface in the kernel's route"))?;
        Ok(Self { socket, index })
    }

    /// Its counters now.
    ///
    /// # Errors
    /// It is gone, or the kernel does not say.
    pub(super) fn counters(&self) -> io::Result<Counters> {
        let mut question = [0; LINK_HEADER_BYTES];
        question[4..8].copy_from_slice(&self.index.to_ne_bytes());
        let answer = ask(&self.socket, RTM_GETLINK, &question)?;
        link_counters(payload(&answer, RTM_NEWLINK)?)
            .ok_or_else(|| odd("no counters in the kernel's description of the interface"))
    }

    pub(super) fn mtu(&self) -> Option<u32> {
        Some(self.counters().ok()?.mtu)
    }
}

fn odd(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn ask(socket: &OwnedFd, kind: u16, question: &[u8]) -> io::Result<Vec<u8>> {
    let length = MESSAGE_HEADER_BYTES + question.len();
    let mut message = Vec::with_capacity(length);
    let length = u32::try_from(length).map_err(|_| odd("a question that is too long"))?;
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // No sequence number: one question is under way at a time. No port: the kernel knows it.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(question);
    sendto(
        socket,
        &message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    // The answer is queued before the question's call returns, so that there is nothing to wait for.
    let (got, whole) = recv(
        socket,
        answer.as_mut_slice(),
        RecvFlags::DONTWAIT | RecvFlags::TRUNC,
    )?;
    if whole > got {
        return Err(odd("an answer that is too long"));
    }
    answer.truncate(got);
    Ok(answer)
}

/// The first message's payload, if it is of this kind.
fn payload(answer: &[u8], kind: u16) -> io::Result<&[u8]> {
    let short = || odd("an answer that is too short");
    let length = u32_at(answer, 0).ok_or_else(short)?;
    let length = usize::try_from(length).map_err(|_| short())?;
    let body = answer.get(MESSAGE_HEADER_BYTES..length).ok_or_else(short)?;
    match u16_at(answer, 4).ok_or_else(short)? {
        found if found == kind => Ok(body),
        NLMSG_ERROR => {
            let code = u32_at(body, 0).ok_or_else(short)?.cast_signed();
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        _ => Err(odd("an answer to another question")),
    }
}

fn route_question(peer: SocketAddr) -> Vec<u8> {
    let mut question = vec![0; ROUTE_HEADER_BYTES];
    let mut attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        question.extend_from_slice(&length.to_ne_bytes());
        question.extend_from_slice(&kind.to_ne_bytes());
        question.extend_from_slice(value);
    };
    let (family, bits) = match peer.ip().to_canonical() {
        IpAddr::V4(address) => {
            attribute(RTA_DST, &address.octets());
            (AF_INET, 32)
        }
        IpAddr::V6(address) => {
            attribute(RTA_DST, &address.octets());
            (AF_INET6, 128)
        }
    };
    // A link-local address means nothing without its link.
    if let SocketAddr::V6(peer) = peer
        && peer.scope_id() != 0
    {
        attribute(RTA_OIF, &peer.scope_id().to_ne_bytes());
    }
    question[0] = family;
    question[1] = bits;
    question
}

fn route_index(route: &[u8]) -> Option<u32> {
    // IPv6 names the interface that has the address; its packets go through the loopback all the same.
    if *route.get(7)? == RTN_LOCAL {
        return Some(LOOPBACK_INDEX);
    }
    attributes(route.get(ROUTE_HEADER_BYTES..)?)
        .find(|(kind, _)| *kind == RTA_OIF)
        .and_then(|(_, value)| u32_at(value, 0))
}

fn link_counters(link: &[u8]) -> Option<Counters> {
    let mut counters = Counters::default();
    let (mut named, mut counted) = (false, false);
    for (kind, value) in attributes(link.get(LINK_HEADER_BYTES..)?) {
        match kind {
            IFLA_IFNAME => {
                let name = value.split(|byte| *byte == 0).next()?;
                counters.name = String::from_utf8_lossy(name).into_owned();
                named = true;
            }
            IFLA_MTU => counters.mtu = u32_at(value, 0)?,
            IFLA_STATS64 => {
                // rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, …
                counters.rx_packets = u64_at(value, 0)?;
                counters.rx_bytes = u64_at(value, 16)?;
                counters.tx_bytes = u64_at(value, 24)?;
                counters.rx_dropped = u64_at(value, 48)?;
                counted = true;
            }
            _ => {}
        }
    }
    (named && counted).then_some(counters)
}

/// Kinds and values, to the end or to the first that is cut.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // The upper two bits are flags.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_loopback_leads_to_local_addresses_of_both_families() {
        for peer in [
            "127.0.0.1:9",
            "127.3.2.1:9",
            "[::1]:9",
            "[::ffff:127.0.0.1]:9",
        ] {
            let link = Link::to(peer.parse().unwrap()).unwrap();
            let counters = link.counters().unwrap();
            assert_eq!(counters.name, "lo", "{peer}");
            assert!(counters.mtu >= 1280, "{counters:?}");
        }
    }

    #[test]
    fn what_is_sent_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = Link::to(receiver.local_addr().unwrap()).unwrap();
        let before = link.counters().unwrap();
        let mut received = [0; 2000];
        for _ in 0..100 {
            sender
                .send_to(&[7; 1000], receiver.local_addr().unwrap())
                .unwrap();
            assert_eq!(receiver.recv(&mut received).unwrap(), 1000);
        }
        let after = link.counters().unwrap();
        assert!(after.rx_bytes - before.rx_bytes >= 100_000);
        assert!(after.tx_bytes - before.tx_bytes >= 100_000);
        assert!(after.rx_packets - before.rx_packets >= 100);
    }

    #[test]
    fn an_error_of_the_kernel_is_told_as_such() {
        let mut answer = Vec::new();
        answer.extend_from_slice(&20_u32.to_ne_bytes());
        answer.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer.extend_from_slice(&[0; 10]);
        answer.extend_from_slice(&(-101_i32).to_ne_bytes());
        let error = payload(&answer, RTM_NEWROUTE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(101));
    }

    proptest! {
        #[test]
        fn odd_answers_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = payload(&bytes, RTM_NEWLINK);
            let _ = route_index(&bytes);
            let _ = link_counters(&bytes);
        }
    }
}
