//! The classic BPF program that gives each datagram to the worker named in its connection ID.
//!
//! A `SO_REUSEPORT` group without it picks a socket by a hash of the four addresses, so a client whose address
//! changes lands on a worker that does not know it. The program reads the first byte of the destination
//! connection ID instead. A new connection's ID is random and spreads over the workers; from then on the ID is
//! one of ours and names its worker (see `cid`). No privilege is needed.
//!
//! One kind of packet names no worker: a stateless reset is random after its first byte and lands anywhere. Its
//! sender repeats it, with other bytes, for every packet we send, so it soon lands right.

use std::{io, os::fd::AsRawFd};

use super::cid::WORKER_MASK;

const fn op(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "every BPF operation code fits in 16 bits"
    )]
    let code = code as u16;
    libc::sock_filter {
        code,
        jt: jump_true,
        jf: jump_false,
        k,
    }
}

/// The program for `workers` sockets. It sees the UDP payload; a load beyond its end yields socket 0.
fn program(workers: u32) -> [libc::sock_filter; 8] {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JA, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD,
        BPF_RET,
    };
    /// `ret` with the accumulator; the name is not in `libc`.
    const BPF_A: u32 = 0x10;
    [
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        //= https://www.rfc-editor.org/rfc/rfc8999#section-5.1
        //# A QUIC packet with a long header has the high bit of the first byte set to 1.
        op(BPF_JMP | BPF_JSET | BPF_K, 0, 2, 0x80),
        // Long header: flags, version (4), ID length (1), then the ID.
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 6),
        op(BPF_JMP | BPF_JA, 0, 0, 1),
        // Short header: flags, then the ID.
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 1),
        op(BPF_ALU | BPF_AND | BPF_K, 0, 0, WORKER_MASK as u32),
        op(BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers),
        op(BPF_RET | BPF_A, 0, 0, 0),
    ]
}

/// Attaches the program to the group that `socket` belongs to. The number it returns is the position of a socket
/// in the order of binding, so sockets must be bound in the order of their workers.
pub(super) fn attach(socket: &impl AsRawFd, workers: u8) -> io::Result<()> {
    let mut filter = program(u32::from(workers));
    let program = libc::sock_fprog {
        len: 8,
        filter: filter.as_mut_ptr(),
    };
    #[expect(clippy::cast_possible_truncation, reason = "a struct of 16 bytes")]
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "no crate wraps this socket option")]
    // SAFETY: the descriptor is open for the call, because `socket` is borrowed. `program` points to `len`
    // initialised bytes of the type the option takes, its `filter` to as many instructions as its `len` says;
    // both outlive the call, and the kernel copies them before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter does with the handful of operations that the program uses.
    fn run(program: &[libc::sock_filter], payload: &[u8]) -> u32 {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let op = program[at];
            at += 1;
            match op.code {
                0x30 => match payload.get(op.k as usize) {
                    Some(byte) => a = u32::from(*byte),
                    None => return 0,
                },
                0x45 => at += usize::from(if a & op.k != 0 { op.jt } else { op.jf }),
                0x05 => at += op.k as usize,
                0x54 => a &= op.k,
                0x94 => a %= op.k,
                0x16 => return a,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn program_reads_the_worker_from_either_header_form() {
        for workers in 1..=64 {
            let program = program(workers);
            for byte in 0..=255u8 {
                let expected = u32::from(byte & 0x3f) % workers;
                let long = [0xc0, 0, 0, 0, 1, 12, byte, 9, 9];
                let short = [0x40, byte, 9, 9, 9, 9, 255, 9];
                assert_eq!(
                    run(&program, &long),
                    expected,
                    "long header, {workers} workers, byte {byte}"
                );
                assert_eq!(
                    run(&program, &short),
                    expected,
                    "short header, {workers} workers, byte {byte}"
                );
            }
        }
    }

    #[test]
    fn truncated_datagrams_go_to_the_first_worker() {
        for payload in [&[][..], &[0x40], &[0xc0, 0, 0, 0, 1, 12]] {
            assert_eq!(run(&program(4), payload), 0);
        }
    }
}
