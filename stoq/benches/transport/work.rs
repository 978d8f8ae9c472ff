//! What is done in a row, and how much of it.

/// What a client of the row may bring from earlier connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tickets {
    None,
    Resumed,
    Early,
}

/// What a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// One answer of so many bytes, on one connection.
    Bulk { mtu: u16, bytes: u64 },
    /// Questions of 64 bytes, answers of 1 KiB, on one connection.
    Rpc { count: usize, at_once: usize },
    /// New connections, one after the other.
    Handshakes {
        mutual: bool,
        tickets: Tickets,
        count: usize,
    },
}

/// Bytes of a question. The first eight are the length of the answer, big-endian.
pub(crate) const QUESTION: usize = 64;
/// Bytes of the answer in [`Work::Rpc`].
pub(crate) const RPC_ANSWER: u64 = 1024;
/// Bytes of the answers in [`Work::Handshakes`].
pub(crate) const SMALL_ANSWER: u64 = 64;
/// Before a bulk answer is measured: the MTU is found and the window opened meanwhile.
pub(crate) const WARM_BULK: u64 = 32 << 20;
/// Questions before those that are measured.
pub(crate) const WARM_RPCS: usize = 500;
/// Connections before those that are measured.
pub(crate) const WARM_CONNECTIONS: usize = 4;
/// UDP payload of all rows that are not about it.
pub(crate) const MTU: u16 = 1452;

impl Work {
    /// The rows. Unless they are measured, with little to do.
    pub(crate) fn all(measured: bool) -> Vec<Self> {
        let bulk = |mtu| Self::Bulk {
            mtu,
            bytes: if measured { 256 << 20 } else { 1 << 20 },
        };
        let rpc = |at_once, count| Self::Rpc {
            at_once,
            count: if measured { count } else { 2 * at_once },
        };
        let handshakes = |mutual, tickets| Self::Handshakes {
            mutual,
            tickets,
            count: if measured { 400 } else { 3 },
        };
        vec![
            bulk(1452),
            bulk(4000),
            bulk(8952),
            rpc(1, 10_000),
            rpc(16, 60_000),
            rpc(256, 120_000),
            handshakes(false, Tickets::None),
            handshakes(true, Tickets::None),
            handshakes(false, Tickets::Resumed),
            handshakes(false, Tickets::Early),
        ]
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Bulk { mtu, .. } => format!("bulk, mtu {mtu}"),
            Self::Rpc { at_once, .. } => format!("rpc, {at_once} outstanding"),
            Self::Handshakes {
                mutual, tickets, ..
            } => match (mutual, tickets) {
                (false, Tickets::None) => "handshake, full".into(),
                (true, Tickets::None) => "handshake, mutual".into(),
                (_, Tickets::Resumed) => "handshake, resumed".into(),
                (_, Tickets::Early) => "handshake, 0-RTT".into(),
            },
        }
    }

    pub(crate) const fn mtu(self) -> u16 {
        match self {
            Self::Bulk { mtu, .. } => mtu,
            Self::Rpc { .. } | Self::Handshakes { .. } => MTU,
        }
    }

    pub(crate) const fn tickets(self) -> Tickets {
        match self {
            Self::Handshakes { tickets, .. } => tickets,
            Self::Bulk { .. } | Self::Rpc { .. } => Tickets::None,
        }
    }

    pub(crate) const fn is_mutual(self) -> bool {
        matches!(self, Self::Handshakes { mutual: true, .. })
    }

    /// Streams that may be open at once.
    pub(crate) const fn streams(self) -> u32 {
        256
    }

    /// Of how many of the unit a run consists: gigabytes, or single questions or connections.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) const fn amount(self) -> f64 {
        match self {
            Self::Bulk { bytes, .. } => bytes as f64 / 1e9,
            Self::Rpc { count, .. } | Self::Handshakes { count, .. } => count as f64,
        }
    }
}

/// A question for an answer of `length` bytes.
pub(crate) fn question(length: u64) -> [u8; QUESTION] {
    let mut question = [7; QUESTION];
    question[..8].copy_from_slice(&length.to_be_bytes());
    question
}

/// The length that a question asks for.
pub(crate) fn asked(question: &[u8]) -> u64 {
    assert_eq!(question.len(), QUESTION);
    u64::from_be_bytes(question[..8].try_into().unwrap())
}
