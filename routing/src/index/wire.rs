//! The bytes of requests and replies. Everything is big-endian; a byte of version and one of kind come first.
//!
//! ```text
//! request  = 1, 1, key, wide(1)                                          find
//!          | 1, 2, terms, count(2), count × change, signature(64)        announce
//!          | 1, 3, terms, root(8), signature(64)                         renew
//! terms    = holder(32), owner(32), generation(8), sequence(8)
//! change   = 0, bucket(1) | 1, record | 2, key(32)
//! record   = key(32), manifest(32), fraction(1), generation(8)
//! reply    = 1, 1, count(1), count × provider, count(1), count × contact providers
//!          | 1, 2, count(2), count × place(2)                            accepted
//!          | 1, 3, room(1)                                               kept
//!          | 1, 4, room(1), 256 × digest(8)                              differs
//!          | 1, 5, reason(1), where stale generation(8), sequence(8)     refused
//! provider = holder(32), addresses, manifest(32), fraction(1), generation(8)
//! contact  = id(32), addresses
//! addresses = count(1), count × (4, ip(4), port(2) | 6, ip(16), port(2))
//! ```
//!
//! Each value has one form only: what decodes encodes to the same bytes. So a signature may be checked over what is encoded again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    message::{Announcement, CHANGES_MAX, Change, Refusal, Renewal, Reply, Request, Signed, Terms},
    record::{
        ADDRESSES_MAX, Answer, BUCKETS, CLOSER_MAX, Contact, PROVIDERS_MAX, Provider, Record,
    },
};
use crate::{Key, NodeId};

/// Bytes of the largest request or reply; a reader need not take more.
pub const MESSAGE_BYTES_MAX: usize = 48 * 1024;

const VERSION: u8 = 1;

/// Bytes that mean no request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("ends too early")]
    Short,
    /// More follows.
    #[error("{0} bytes too many")]
    Long(usize),
    /// Another version of the format.
    #[error("version {0} of the format, not {VERSION}")]
    Version(u8),
    /// A value that has no meaning.
    #[error("{what} of {got}")]
    Value {
        /// Of what.
        what: &'static str,
        /// The value.
        got: u64,
    },
    /// A list that is too long.
    #[error("{got} {what}, at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The bound.
        max: usize,
    },
}

/// Bytes that are yet to be read.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            got => Err(unknown(what, got)),
        }
    }

    fn list<T: Codec>(&mut self, what: &'static str, max: usize) -> Result<Vec<T>, Malformed> {
        let got = usize::from(self.byte()?);
        self.items(got, what, max)
    }

    fn long_list<T: Codec>(&mut self, what: &'static str, max: usize) -> Result<Vec<T>, Malformed> {
        let got = usize::from(self.array().map(u16::from_be_bytes)?);
        self.items(got, what, max)
    }

    fn items<T: Codec>(
        &mut self,
        got: usize,
        what: &'static str,
        max: usize,
    ) -> Result<Vec<T>, Malformed> {
        if got > max {
            return Err(Malformed::TooMany { what, got, max });
        }
        (0..got).map(|_| T::take(self)).collect()
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Long(self.0.len()))
        }
    }
}

fn unknown(what: &'static str, got: u8) -> Malformed {
    Malformed::Value {
        what,
        got: u64::from(got),
    }
}

/// Something that has bytes.
pub(crate) trait Codec: Sized {
    /// Writes it.
    fn put(&self, to: &mut Vec<u8>);

    /// Reads one.
    ///
    /// # Errors
    /// Where the bytes are none.
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// Lists are within their bounds by who makes them; one that were not would be cut here.
fn put_list<T: Codec>(list: &[T], max: usize, to: &mut Vec<u8>) {
    let count = u8::try_from(list.len().min(max)).unwrap_or(u8::MAX);
    to.push(count);
    for item in list.iter().take(usize::from(count)) {
        item.put(to);
    }
}

fn put_long_list<T: Codec>(list: &[T], max: usize, to: &mut Vec<u8>) {
    let count = u16::try_from(list.len().min(max)).unwrap_or(u16::MAX);
    to.extend(count.to_be_bytes());
    for item in list.iter().take(usize::from(count)) {
        item.put(to);
    }
}

impl Codec for u16 {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self.to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.array().map(Self::from_be_bytes)
    }
}

impl Codec for SocketAddr {
    fn put(&self, to: &mut Vec<u8>) {
        match self.ip() {
            IpAddr::V4(ip) => {
                to.push(4);
                to.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                to.push(6);
                to.extend(ip.octets());
            }
        }
        to.extend(self.port().to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let ip = match from.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(from.array::<16>()?)),
            got => return Err(unknown("kind of address", got)),
        };
        Ok(Self::new(ip, from.array().map(u16::from_be_bytes)?))
    }
}

impl Codec for Record {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self.key.0);
        to.extend(self.manifest);
        to.push(self.fraction);
        to.extend(self.generation.to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            key: Key(from.array()?),
            manifest: from.array()?,
            fraction: fraction(from)?,
            generation: from.number()?,
        })
    }
}

fn fraction(from: &mut Reader<'_>) -> Result<u8, Malformed> {
    match from.byte()? {
        0 => Err(unknown("fraction", 0)),
        some => Ok(some),
    }
}

impl Codec for Change {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Clear(bucket) => to.extend([0, *bucket]),
            Self::Add(record) => {
                to.push(1);
                record.put(to);
            }
            Self::Remove(key) => {
                to.push(2);
                to.extend(key.0);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.byte()? {
            0 => from.byte().map(Self::Clear),
            1 => Record::take(from).map(Self::Add),
            2 => from.array().map(|key| Self::Remove(Key(key))),
            got => Err(unknown("kind of change", got)),
        }
    }
}

impl Codec for Terms {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self.holder.0);
        to.extend(self.owner.0);
        to.extend(self.generation.to_be_bytes());
        to.extend(self.sequence.to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            holder: NodeId(from.array()?),
            owner: NodeId(from.array()?),
            generation: from.number()?,
            sequence: from.number()?,
        })
    }
}

impl Codec for Announcement {
    fn put(&self, to: &mut Vec<u8>) {
        self.terms.put(to);
        put_long_list(&self.changes, CHANGES_MAX, to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            terms: Terms::take(from)?,
            changes: from.long_list("changes", CHANGES_MAX)?,
        })
    }
}

impl Codec for Renewal {
    fn put(&self, to: &mut Vec<u8>) {
        self.terms.put(to);
        to.extend(self.root.to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            terms: Terms::take(from)?,
            root: from.number()?,
        })
    }
}

impl<S: Codec> Codec for Signed<S> {
    fn put(&self, to: &mut Vec<u8>) {
        self.statement.put(to);
        to.extend(self.signature);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            statement: S::take(from)?,
            signature: from.array()?,
        })
    }
}

impl Codec for Provider {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self.holder.0);
        put_list(&self.addresses, ADDRESSES_MAX, to);
        to.extend(self.manifest);
        to.push(self.fraction);
        to.extend(self.generation.to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            holder: NodeId(from.array()?),
            addresses: from.list("addresses", ADDRESSES_MAX)?,
            manifest: from.array()?,
            fraction: fraction(from)?,
            generation: from.number()?,
        })
    }
}

impl Codec for Contact {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self.id.0);
        put_list(&self.addresses, ADDRESSES_MAX, to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            id: NodeId(from.array()?),
            addresses: from.list("addresses", ADDRESSES_MAX)?,
        })
    }
}

impl Codec for Request {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Find { key, wide } => {
                to.push(1);
                to.extend(key.0);
                to.push(u8::from(*wide));
            }
            Self::Announce(announcement) => {
                to.push(2);
                announcement.put(to);
            }
            Self::Renew(renewal) => {
                to.push(3);
                renewal.put(to);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.byte()? {
            1 => Ok(Self::Find {
                key: Key(from.array()?),
                wide: from.flag("width")?,
            }),
            2 => Signed::take(from).map(Self::Announce),
            3 => Signed::take(from).map(Self::Renew),
            got => Err(unknown("kind of request", got)),
        }
    }
}

impl Codec for Reply {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Providers(answer) => {
                to.push(1);
                put_list(&answer.providers, PROVIDERS_MAX, to);
                put_list(&answer.closer, CLOSER_MAX, to);
            }
            Self::Accepted { refused } => {
                to.push(2);
                put_long_list(refused, CHANGES_MAX, to);
            }
            Self::Kept { room } => to.extend([3, u8::from(*room)]),
            Self::Differs { digests, room } => {
                to.extend([4, u8::from(*room)]);
                to.extend(digests.iter().flat_map(|digest| digest.to_be_bytes()));
            }
            Self::Refused(refusal) => {
                to.push(5);
                to.push(u8::try_from(refusal.at()).unwrap_or(u8::MAX));
                if let Refusal::Stale {
                    generation,
                    sequence,
                } = refusal
                {
                    to.extend(generation.to_be_bytes());
                    to.extend(sequence.to_be_bytes());
                }
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.byte()? {
            1 => Ok(Self::Providers(Answer {
                providers: from.list("providers", PROVIDERS_MAX)?,
                closer: from.list("closer nodes", CLOSER_MAX)?,
            })),
            2 => {
                let refused: Vec<u16> = from.long_list("refused changes", CHANGES_MAX)?;
                let ordered = refused.is_sorted_by(|one, next| one < next);
                match refused.last() {
                    Some(last) if !ordered || usize::from(*last) >= CHANGES_MAX => {
                        Err(Malformed::Value {
                            what: "place of a refused change",
                            got: u64::from(*last),
                        })
                    }
                    Some(_) | None => Ok(Self::Accepted { refused }),
                }
            }
            3 => from.flag("room").map(|room| Self::Kept { room }),
            4 => {
                let room = from.flag("room")?;
                let mut digests = Box::new([0; BUCKETS]);
                for digest in digests.iter_mut() {
                    *digest = from.number()?;
                }
                Ok(Self::Differs { digests, room })
            }
            5 => refusal(from).map(Self::Refused),
            got => Err(unknown("kind of reply", got)),
        }
    }
}

fn refusal(from: &mut Reader<'_>) -> Result<Refusal, Malformed> {
    Ok(match from.byte()? {
        0 => Refusal::Malformed,
        1 => Refusal::ForAnother,
        2 => Refusal::NotForMe,
        3 => Refusal::Unknown,
        4 => Refusal::Revoked,
        5 => Refusal::Forged,
        6 => Refusal::Stale {
            generation: from.number()?,
            sequence: from.number()?,
        },
        7 => Refusal::Full,
        8 => Refusal::Busy,
        got => return Err(unknown("reason", got)),
    })
}

fn encode(value: &impl Codec) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    value.put(&mut bytes);
    bytes
}

fn decode<T: Codec>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut reader = Reader(bytes);
    match reader.byte()? {
        VERSION => {}
        version => return Err(Malformed::Version(version)),
    }
    let value = T::take(&mut reader)?;
    reader.end()?;
    Ok(value)
}

impl Request {
    /// Its bytes, at most [`MESSAGE_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The request these bytes are. Allocates no more than a few times their length.
    ///
    /// # Errors
    /// Where they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes)
    }
}

impl Reply {
    /// Its bytes, at most [`MESSAGE_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The reply these bytes are. Allocates no more than a few times their length.
    ///
    /// # Errors
    /// Where they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes)
    }
}

#[cfg(test)]
mod tests;
