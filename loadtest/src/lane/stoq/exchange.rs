//! The bench exchanges: what a load asks of `stoq-bench stoq-server`, to measure STOQ itself and no cache behind it.
//!
//! # Participants
//! The *asker* (a load run) and the *answerer* (`stoq-bench stoq-server`), two nodes of one cluster on a STOQ
//! connection. Any role will do.
//!
//! # Goals
//! * Bytes of any number in one direction (BULK), and short questions with short answers (RPC), with nothing else on
//!   the way: no store, no lookup.
//! * Both sides know every byte beforehand, so both verify: a request that is not the pattern is refused, an answer
//!   that is not is [`Failure::Wrong`].
//!
//! # Non-goals
//! Uploads, and objects of a cluster; those are asked of a shield.
//!
//! # Exchanges
//! | kind | name | the request's control bytes | answer |
//! |---|---|---|---|
//! | 0x4201 | BULK | seed u64, length u64 | HEAD: length u64; then so many bytes as data; END |
//! | 0x4202 | RPC | seed u64, answer's length u32, then the pattern up to the request's length | HEAD: the answer; END |
//!
//! Integers are big-endian. The pattern of a seed is endless ([`Pattern`]); bodies and the filling of requests begin at
//! its place 0, the answer of an RPC at the place that is the request's length, so that an echo is no answer.
//!
//! # Bounds
//! | what | bound | beyond it |
//! |---|---|---|
//! | a BULK body | 2^40 bytes | refused with code 1 |
//! | an RPC's request | 12 to 65,528 bytes, one frame | refused with code 1 |
//! | an RPC's answer | 65,536 bytes, one frame | refused with code 1 |
//!
//! Other kinds are refused with code 2. The codes travel in the transport's ERROR.
//!
//! [`Failure::Wrong`]: crate::lane::Failure::Wrong
//! [`Pattern`]: super::pattern::Pattern

use bytes::{BufMut, Bytes, BytesMut};
use stoq::wire::{CONTROL_BYTES_MAX, REQUEST_CONTROL_BYTES_MAX};

use super::pattern::Pattern;

/// Exchange kind.
pub(super) const BULK: u16 = 0x4201;
/// Exchange kind.
pub(super) const RPC: u16 = 0x4202;

/// Most bytes of a BULK body: 1 TiB.
pub(super) const BULK_BYTES_MAX: u64 = 1 << 40;
/// Bytes of an RPC's request before the pattern.
const RPC_PREFIX: usize = 12;

/// ERROR code: the request cannot be read, or is beyond a bound.
pub(super) const MALFORMED: u32 = 1;
/// ERROR code: neither kind.
pub(super) const UNKNOWN_KIND: u32 = 2;

/// What is asked for, as its path says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `/bulk/LENGTH`
    Bulk(u64),
    /// `/rpc/REQUEST/ANSWER`
    Rpc {
        /// Bytes of the request.
        request: usize,
        /// Bytes of the answer.
        answer: usize,
    },
}

impl Call {
    /// Reads `/bulk/N` and `/rpc/Q/A`; `/rpc` is `/rpc/64/1024`.
    pub(super) fn of_path(path: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{path}` is neither `/bulk/BYTES` (at most 2^40) nor `/rpc/REQUEST/ANSWER` ({RPC_PREFIX} to \
                 {REQUEST_CONTROL_BYTES_MAX} and at most {CONTROL_BYTES_MAX} bytes)"
            )
        };
        let mut parts = path.split('/').skip(1);
        let call = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("bulk"), Some(length), None, None) => {
                Self::Bulk(length.parse().map_err(|_| wrong())?)
            }
            (Some("rpc"), None, None, None) => Self::Rpc {
                request: 64,
                answer: 1024,
            },
            (Some("rpc"), Some(request), Some(answer), None) => Self::Rpc {
                request: request.parse().map_err(|_| wrong())?,
                answer: answer.parse().map_err(|_| wrong())?,
            },
            _ => return Err(wrong()),
        };
        if call.is_within_bounds() {
            Ok(call)
        } else {
            Err(wrong())
        }
    }

    fn is_within_bounds(self) -> bool {
        match self {
            Self::Bulk(length) => length <= BULK_BYTES_MAX,
            Self::Rpc { request, answer } => {
                (RPC_PREFIX..=REQUEST_CONTROL_BYTES_MAX).contains(&request)
                    && answer <= CONTROL_BYTES_MAX
            }
        }
    }

    pub(super) fn kind(self) -> u16 {
        match self {
            Self::Bulk(_) => BULK,
            Self::Rpc { .. } => RPC,
        }
    }

    /// Bytes of the answer.
    pub(super) fn length(self) -> u64 {
        match self {
            Self::Bulk(length) => length,
            Self::Rpc { answer, .. } => answer as u64,
        }
    }

    /// Where in the pattern the answer begins.
    pub(super) fn begins(self) -> u64 {
        match self {
            Self::Bulk(_) => 0,
            Self::Rpc { request, .. } => request as u64,
        }
    }

    /// The request's control bytes.
    pub(super) fn encode(self, seed: u64, pattern: &Pattern) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u64(seed);
        match self {
            Self::Bulk(length) => out.put_u64(length),
            Self::Rpc { request, answer } => {
                // Within the bounds, which fit.
                out.put_u32(u32::try_from(answer).unwrap_or(u32::MAX));
                out.put(pattern.slice(0, request.saturating_sub(RPC_PREFIX) as u64));
            }
        }
        out.freeze()
    }

    /// Reads a request: its seed, what it asks for, and the filling to be verified.
    pub(super) fn decode(kind: u16, control: &Bytes) -> Result<(u64, Self, Bytes), Refused> {
        let malformed = |text: &str| Refused {
            code: MALFORMED,
            text: text.to_owned(),
        };
        let number = |range| control.get(range);
        let seed = number(0..8)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes);
        let seed = seed.ok_or_else(|| malformed("no seed"));
        let (call, filling) = match kind {
            BULK => {
                let length = number(8..16).and_then(|bytes| bytes.try_into().ok());
                let length = length.map(u64::from_be_bytes);
                let length = length.ok_or_else(|| malformed("no length"))?;
                if control.len() > 16 {
                    return Err(malformed("more than seed and length"));
                }
                (Self::Bulk(length), Bytes::new())
            }
            RPC => {
                let answer = number(8..RPC_PREFIX).and_then(|bytes| bytes.try_into().ok());
                let answer = answer.map(u32::from_be_bytes);
                let answer = answer.ok_or_else(|| malformed("no length of an answer"))?;
                let call = Self::Rpc {
                    request: control.len(),
                    answer: usize::try_from(answer).unwrap_or(usize::MAX),
                };
                (call, control.slice(RPC_PREFIX..))
            }
            other => {
                return Err(Refused {
                    code: UNKNOWN_KIND,
                    text: format!("exchange kind {other:#06x} is none of the bench's"),
                });
            }
        };
        if call.is_within_bounds() {
            Ok((seed?, call, filling))
        } else {
            Err(malformed("more than the bench answers"))
        }
    }
}

/// Why a request gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: u32,
    pub(super) text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_is_asked_for() {
        assert_eq!(Call::of_path("/bulk/0"), Ok(Call::Bulk(0)));
        let rpc = |request, answer| Ok(Call::Rpc { request, answer });
        assert_eq!(Call::of_path("/rpc"), rpc(64, 1024));
        assert_eq!(Call::of_path("/rpc/12/0"), rpc(12, 0));
        assert_eq!(Call::of_path("/rpc/65528/65536"), rpc(65_528, 65_536));
        for bad in [
            "/",
            "/bulk",
            "/bulk/x",
            "/bulk/-1",
            "/bulk/1/2",
            "/bulk/1099511627777",
            "/rpc/11/1",
            "/rpc/65529/1",
            "/rpc/64/65537",
            "/rpc/64",
            "/index.html",
        ] {
            assert!(Call::of_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_cut_is_refused() {
        let pattern = Pattern::of(3);
        for path in [
            "/bulk/0",
            "/bulk/1099511627776",
            "/rpc",
            "/rpc/12/0",
            "/rpc/65528/65536",
        ] {
            let call = Call::of_path(path).unwrap();
            let control = call.encode(3, &pattern);
            let (seed, decoded, filling) = Call::decode(call.kind(), &control).unwrap();
            assert_eq!((seed, decoded), (3, call), "{path}");
            assert!(pattern.is_at(0, &filling));
            for length in 0..control.len().min(12) {
                let cut = control.slice(..length);
                let refused = Call::decode(call.kind(), &cut).unwrap_err();
                assert_eq!(refused.code, MALFORMED, "{path} {length}");
            }
        }
        let beyond = Call::Bulk(BULK_BYTES_MAX + 1).encode(3, &pattern);
        assert_eq!(Call::decode(BULK, &beyond).unwrap_err().code, MALFORMED);
        let longer = [&beyond[..], b"x"].concat().into();
        assert_eq!(Call::decode(BULK, &longer).unwrap_err().code, MALFORMED);
        assert_eq!(Call::decode(1, &beyond).unwrap_err().code, UNKNOWN_KIND);
    }
}
