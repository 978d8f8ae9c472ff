//! `Repr-Digest` and what asks for it (RFC 9530): fields in, an algorithm out; a hash in, a field out.
//!
//! No bytes are read here; the engine does that, once an object. `Content-Digest` is not made: it is of the bytes of one message, which TLS and
//! the transports guard already.

use aws_lc_rs::digest::{self, Context};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, DictSerializer, Dictionary, Item, KeyRef, ListEntry, Parser};

/// `Repr-Digest`.
pub static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// `Want-Repr-Digest`.
pub static WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// The algorithms that RFC 9530 registers as active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `sha-256`
    Sha256,
    /// `sha-512`
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    fn key(self) -> &'static KeyRef {
        KeyRef::constant(match self {
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        })
    }

    /// The algorithm that a request likes best among ours; `None` where it wants none. `sha-256` where it likes both alike.
    #[must_use]
    pub fn wanted(request: &HeaderMap) -> Option<Self> {
        let mut lines = request.get_all(&WANT_REPR_DIGEST).iter().peekable();
        lines.peek()?;
        let lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
        // A dictionary that cannot be read says nothing (RFC 9651 §4.2): it is but a hint.
        let wishes: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
        let weight = |algorithm: Self| match wishes.get(algorithm.key()) {
            Some(ListEntry::Item(Item {
                bare_item: BareItem::Integer(weight),
                ..
            })) => i64::from(*weight),
            _ => 0,
        };
        //= https://www.rfc-editor.org/rfc/rfc9530#section-4
        //# It must be in the range 0 to 10 inclusive. 1 is the least preferred,
        //# 10 is the most preferred, and a value of 0 means "not acceptable".
        let acceptable = |algorithm: &Self| (1..=10).contains(&weight(*algorithm));
        Self::ALL
            .into_iter()
            .filter(acceptable)
            .rev()
            .max_by_key(|algorithm| weight(*algorithm))
    }

    /// A hash to feed.
    #[must_use]
    pub fn hash(self) -> Hash {
        Hash {
            algorithm: self,
            context: Context::new(match self {
                Self::Sha256 => &digest::SHA256,
                Self::Sha512 => &digest::SHA512,
            }),
        }
    }
}

/// A hash of bytes that come in pieces.
pub struct Hash {
    algorithm: Algorithm,
    context: Context,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Hash {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The field that says what the bytes came to.
    #[must_use]
    pub fn into_field(self) -> Option<HeaderValue> {
        let mut field = DictSerializer::new();
        let digest = self.context.finish();
        let _without_parameters = field.bare_item(self.algorithm.key(), digest.as_ref());
        HeaderValue::try_from(field.finish()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(lines: &[&'static str]) -> Option<Algorithm> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&WANT_REPR_DIGEST, HeaderValue::from_static(line));
        }
        Algorithm::wanted(&headers)
    }

    #[test]
    fn the_algorithm_that_is_liked_best_is_taken() {
        use Algorithm::{Sha256, Sha512};
        for (lines, expected) in [
            (&[][..], None),
            (&["sha-256=1"], Some(Sha256)),
            (&["sha-512=3, sha-256=10, unixsum=0"], Some(Sha256)),
            (&["sha-512=3", "sha-256=2"], Some(Sha512)),
            (&["sha-256=5, sha-512=5"], Some(Sha256)),
            (&["sha-256=0, sha-512=1"], Some(Sha512)),
            (&["sha-256=0"], None),
            (&["sha-256=11, sha-512=-1"], None),
            (&["sha-256"], None),
            (&["md5=10"], None),
            (&["sha-256=;"], None),
        ] {
            assert_eq!(wanted(lines), expected, "{lines:?}");
        }
    }

    /// The values of appendix B.1 and of §2.
    #[test]
    fn a_field_is_as_the_rfc_writes_it() {
        let field = |algorithm: Algorithm| {
            let mut hash = algorithm.hash();
            hash.update(b"{\"hello\": ");
            hash.update(b"\"world\"}\n");
            hash.into_field().unwrap()
        };
        assert_eq!(
            field(Algorithm::Sha256),
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        );
        assert_eq!(
            field(Algorithm::Sha512),
            "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:"
        );
    }
}
