//! Datagrams that the kernel dropped because a socket's receive buffer was full.
//!
//! QUIC sees only the loss and slows down; the operator should see the cause. The kernel shows the count in its
//! table of UDP sockets, which is read when somebody asks, never on the path of a packet.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

/// Finds one socket in the kernel's table.
#[derive(Debug, Clone)]
pub(super) struct KernelDrops {
    table: &'static str,
    inode: u64,
}

impl KernelDrops {
    /// `None` where the process cannot see its own descriptors (`/proc` not mounted).
    pub(super) fn of(socket: &UdpSocket) -> Option<Self> {
        let table = match socket.local_addr().ok()? {
            SocketAddr::V4(_) => "/proc/thread-self/net/udp",
            SocketAddr::V6(_) => "/proc/thread-self/net/udp6",
        };
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
        let inode = link
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()?;
        Some(Self { table, inode })
    }

    /// The count now. Costs a read of the table: some microseconds for each UDP socket of the host.
    pub(super) fn read(&self) -> io::Result<Option<u64>> {
        Ok(find(&fs::read_to_string(self.table)?, self.inode))
    }
}

/// Fields of a line of the table, counted from 0 and separated by blanks.
const INODE: usize = 9;
const DROPS: usize = 12;

fn find(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let of_line: u64 = fields.nth(INODE)?.parse().ok()?;
        if of_line != inode {
            return None;
        }
        fields.nth(DROPS - INODE - 1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_found_by_inode_and_its_last_field_read() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             12: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31337 2 0000000000000000 41\n\
             13: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31338 2 0000000000000000 0\n\
             short line\n";
        assert_eq!(find(table, 31337), Some(41));
        assert_eq!(find(table, 31338), Some(0));
        assert_eq!(find(table, 1), None);
        assert_eq!(find("", 1), None);
    }

    #[test]
    fn overflowing_socket_shows_its_drops() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&socket)
            .set_recv_buffer_size(4096)
            .unwrap();
        let drops = KernelDrops::of(&socket).unwrap();
        assert_eq!(drops.read().unwrap(), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender
                .send_to(&[0; 1000], socket.local_addr().unwrap())
                .unwrap();
        }
        assert!(drops.read().unwrap().unwrap() > 0);
    }
}
