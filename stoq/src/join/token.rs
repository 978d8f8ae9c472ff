//! What a machine is given to become a node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::UnixTime;
use thiserror::Error;

pub(super) const ID_BYTES: usize = 8;
pub(super) const SECRET_BYTES: usize = 32;

/// Bytes of the check at the end, which finds what was lost in copying.
const CHECK_BYTES: usize = 4;

/// How the text begins.
const PREFIX: &str = "stoq-join-1.";

/// Longer texts are not decoded: with an IPv6 address a token has 143 characters.
const TEXT_BYTES_MAX: usize = 256;

/// Lets one node into a cluster. Its text is a secret until it was used or its time is over: whoever has it becomes the
/// node that it was made for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub(super) root: [u8; 32],
    pub(super) id: [u8; ID_BYTES],
    pub(super) secret: [u8; SECRET_BYTES],
    pub(super) expires: UnixTime,
    pub(super) addr: SocketAddr,
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Something else.
    #[error("not a join token: one begins with {PREFIX}")]
    NotOne,
    /// Cut off or changed.
    #[error("the join token is damaged; copy it once more, the whole of it")]
    Damaged,
}

impl Token {
    /// Where the desk is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The last second in which it can be used, by the desk's clock.
    #[must_use]
    pub fn expires(&self) -> UnixTime {
        self.expires
    }

    /// BLAKE3 of the certificate of the cluster's root.
    #[must_use]
    pub fn root_fingerprint(&self) -> &[u8; 32] {
        &self.root
    }

    /// What the log and the audit call it; no secret.
    #[must_use]
    pub fn id(&self) -> String {
        id_text(&self.id)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(self.root);
        bytes.extend(self.id);
        bytes.extend(self.secret);
        bytes.extend(self.expires.as_secs().to_be_bytes());
        bytes.extend(self.addr.port().to_be_bytes());
        match self.addr.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
        bytes.extend(check(&bytes));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bytes, found) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        if check(bytes) != *found {
            return None;
        }
        let (root, bytes) = bytes.split_first_chunk()?;
        let (id, bytes) = bytes.split_first_chunk()?;
        let (secret, bytes) = bytes.split_first_chunk()?;
        let (expires, bytes) = bytes.split_first_chunk()?;
        let (port, ip) = bytes.split_first_chunk()?;
        let ip = match ip.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
            _ => return None,
        };
        let expires = Duration::from_secs(u64::from_be_bytes(*expires));
        Some(Self {
            root: *root,
            id: *id,
            secret: *secret,
            expires: UnixTime::since_unix_epoch(expires),
            addr: SocketAddr::new(ip, u16::from_be_bytes(*port)),
        })
    }
}

pub(super) fn id_text(id: &[u8; ID_BYTES]) -> String {
    format!("{:016x}", u64::from_be_bytes(*id))
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d]
}

/// The whole token, secret included.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

/// Without the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id())
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotOne)?;
        if rest.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        URL_SAFE_NO_PAD
            .decode(rest)
            .ok()
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or(TokenError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(addr: &str) -> Token {
        Token {
            root: [1; 32],
            id: [2; ID_BYTES],
            secret: [0xee; SECRET_BYTES],
            expires: UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)),
            addr: addr.parse().unwrap(),
        }
    }

    #[test]
    fn text_and_token_are_inverse() {
        for addr in ["192.0.2.1:7444", "[2001:db8::1]:65535"] {
            let token = token(addr);
            assert_eq!(token.to_string().parse(), Ok(token.clone()));
            assert_eq!(format!(" {token}\n").parse(), Ok(token.clone()));
            assert!(token.to_string().len() - PREFIX.len() <= 143);
            assert!(!format!("{token:?}").contains("ee"), "{token:?}");
        }
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let text = token("192.0.2.1:7444").to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<Token>().is_err(), "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(changed.parse::<Token>().is_err(), "changed at {at}");
        }
        assert_eq!("".parse::<Token>(), Err(TokenError::NotOne));
        let long = format!("{PREFIX}{}", "A".repeat(10_000));
        assert_eq!(long.parse::<Token>(), Err(TokenError::Damaged));
    }
}
