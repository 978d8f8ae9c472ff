//! The sockets of multicast DNS: one for IPv4 and one for each interface with IPv6.
//!
//! They are bound to the groups' addresses, so that nothing reaches them but what was sent to the group, which no router forwards: not what is sent to port 5353 of this machine. Others on
//! the machine that take part, such as Avahi, have sockets of their own beside them. Nothing is ever sent but to the groups.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::UdpSocket;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Addresses whose interfaces take part; those beyond are left out. A socket joins at most 20 groups, unless the machine is told otherwise.
const INTERFACES_MAX: usize = 16;

/// Where the kernel says which interface has which IPv6 address. For IPv4 an interface is named by its address.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";

/// The links that a node talks on.
#[derive(Debug)]
pub(super) struct Links {
    wanted: Vec<IpAddr>,
    v4: Option<V4>,
    v6: Vec<V6>,
}

/// One socket, and an address of each interface on which it takes part.
#[derive(Debug)]
struct V4 {
    socket: Arc<UdpSocket>,
    on: Vec<Ipv4Addr>,
}

/// A socket of an interface, by its number.
#[derive(Debug)]
struct V6 {
    socket: Arc<UdpSocket>,
    on: u32,
}

/// What [`Links::tend`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tended {
    /// The same links as before.
    Same,
    /// One more at least.
    More,
}

impl Links {
    /// On the interfaces with these addresses; none yet. `0.0.0.0` is the interface of the route to the group.
    pub(super) fn new(wanted: impl IntoIterator<Item = IpAddr>) -> Self {
        let wanted = wanted.into_iter().filter(|ip| !ip.is_loopback());
        let wanted: BTreeSet<_> = wanted.collect();
        // What the kernel chooses comes last: it may be one that is named as well.
        let (chosen, named): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|ip| ip.is_unspecified());
        let wanted = named.into_iter().chain(chosen).take(INTERFACES_MAX);
        Self {
            wanted: wanted.collect(),
            v4: None,
            v6: Vec::new(),
        }
    }

    /// Takes part on what is there now, and no more on what is not. To be repeated: interfaces come and go.
    ///
    /// # Errors
    /// There is no link at all, and why not.
    pub(super) fn tend(&mut self) -> Result<Tended, String> {
        let mut why = Vec::new();
        let has_more = self.tend_v4(&mut why) | self.tend_v6(&mut why);
        if self.v6.is_empty() && self.v4.as_ref().is_none_or(|v4| v4.on.is_empty()) {
            return Err(match why.is_empty() {
                true => "no address of an interface is known".to_owned(),
                false => why.join("; "),
            });
        }
        if !why.is_empty() {
            tracing::debug!(why = why.join("; "), "not on all interfaces");
        }
        Ok(if has_more { Tended::More } else { Tended::Same })
    }

    fn tend_v4(&mut self, why: &mut Vec<String>) -> bool {
        let wanted = self.wanted.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let wanted: Vec<_> = wanted.collect();
        if wanted.is_empty() {
            return false;
        }
        if self.v4.is_none() {
            match open_v4() {
                Ok(socket) => {
                    self.v4 = Some(V4 {
                        socket: Arc::new(socket),
                        on: Vec::new(),
                    });
                }
                Err(error) => why.push(format!("UDP {GROUP_V4}:{PORT}: {error}")),
            }
        }
        let Some(V4 { socket, on }) = &mut self.v4 else {
            return false;
        };
        let socket = SockRef::from(&**socket);
        let (mut has_more, mut has_lost) = (false, false);
        for ip in &wanted {
            match socket.join_multicast_v4(&GROUP_V4, ip) {
                Ok(()) => {
                    if !on.contains(ip) {
                        on.push(*ip);
                    }
                    has_more = true;
                }
                // By this address, or by another of the same interface.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    has_lost |= on.contains(ip);
                    why.push(format!("interface of {ip}: {error}"));
                }
            }
        }
        if has_lost {
            // Another address may lead to the interface that this one did, and the socket does not tell. A new one knows no interface yet, and can lose none.
            why.clear();
            self.v4 = None;
            return self.tend_v4(why);
        }
        has_more
    }

    fn tend_v6(&mut self, why: &mut Vec<String>) -> bool {
        let wanted = self.wanted.iter().filter_map(|ip| match ip {
            IpAddr::V6(ip) if !ip.is_unspecified() => Some(*ip),
            _ => None,
        });
        let wanted: Vec<_> = wanted.collect();
        if wanted.is_empty() {
            return false;
        }
        let table = match std::fs::read_to_string(IPV6_ADDRESSES) {
            Ok(table) => table,
            Err(error) => {
                why.push(format!("{IPV6_ADDRESSES}: {error}"));
                return false;
            }
        };
        let mut there = Vec::new();
        for ip in wanted {
            match interface_of(ip, &table) {
                Some(index) if !there.contains(&index) => there.push(index),
                Some(_) => {}
                None => why.push(format!("interface of {ip}: not on this machine")),
            }
        }
        self.v6.retain(|link| there.contains(&link.on));
        let mut has_more = false;
        for on in there {
            if self.v6.iter().any(|link| link.on == on) {
                continue;
            }
            match open_v6(on) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    self.v6.push(V6 { socket, on });
                    has_more = true;
                }
                Err(error) => why.push(format!("UDP [{GROUP_V6}%{on}]:{PORT}: {error}")),
            }
        }
        has_more
    }

    /// What to read from.
    pub(super) fn sockets(&self) -> Vec<Arc<UdpSocket>> {
        let v6 = self.v6.iter().map(|link| Arc::clone(&link.socket));
        let v4 = self.v4.iter().map(|v4| Arc::clone(&v4.socket));
        v4.chain(v6).collect()
    }

    /// Sends a message on all links, or drops it where that cannot be now: what matters is said again. On how many it went out.
    pub(super) fn send(&self, message: &[u8]) -> u64 {
        let mut sent = 0;
        let to = SockAddr::from(SocketAddr::from((GROUP_V4, PORT)));
        if let Some(V4 { socket, on }) = &self.v4 {
            let socket = SockRef::from(&**socket);
            for ip in on {
                let out = socket
                    .set_multicast_if_v4(ip)
                    .and_then(|()| socket.send_to(message, &to));
                sent += u64::from(out.is_ok());
            }
        }
        for V6 { socket, on } in &self.v6 {
            let to = SockAddr::from(SocketAddrV6::new(GROUP_V6, PORT, 0, *on));
            let out = SockRef::from(&**socket).send_to(message, &to);
            sent += u64::from(out.is_ok());
        }
        sent
    }
}

fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // Beside those of others on this machine; what is sent to a group each of them gets.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn open_v4() -> io::Result<UdpSocket> {
    let socket = open(Domain::IPV4)?;
    // Only on the interfaces that this socket has joined on, whatever others have.
    socket.set_multicast_all_v4(false)?;
    //= https://www.rfc-editor.org/rfc/rfc6762#section-11
    //# All Multicast DNS responses (including responses sent via unicast)
    //# SHOULD be sent with IP TTL set to 255.
    socket.set_multicast_ttl_v4(255)?;
    socket.bind(&SocketAddr::from((GROUP_V4, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

fn open_v6(on: u32) -> io::Result<UdpSocket> {
    let socket = open(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_all_v6(false)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(on)?;
    socket.bind(&SocketAddrV6::new(GROUP_V6, PORT, 0, on).into())?;
    socket.join_multicast_v6(&GROUP_V6, on)?;
    UdpSocket::from_std(socket.into())
}

/// The number of the interface that has an address, by what the kernel's table says: a line an address, which is first, and in digits without colons; the number is second.
fn interface_of(ip: Ipv6Addr, table: &str) -> Option<u32> {
    let digits = format!("{:032x}", ip.to_bits());
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        if fields.next() != Some(digits.as_str()) {
            return None;
        }
        u32::from_str_radix(fields.next()?, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_address() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 1a 40 00 80     eth0\n\
                     short\n";
        let of = |text: &str| interface_of(text.parse().unwrap(), table);
        assert_eq!(of("2001:db8::7"), Some(26));
        assert_eq!(of("::1"), Some(1));
        assert_eq!(of("2001:db8::8"), None);
    }

    #[tokio::test]
    async fn an_address_that_this_machine_does_not_have_is_no_link_and_that_is_said() {
        let wanted: [IpAddr; 2] = ["192.0.2.7", "2001:db8::7"].map(|text| text.parse().unwrap());
        let mut links = Links::new(wanted);
        let why = links.tend().unwrap_err();
        assert!(why.contains("192.0.2.7: "), "{why}");
        assert!(why.contains("2001:db8::7"), "{why}");
        assert_eq!(links.send(b"anything"), 0);
    }
}
