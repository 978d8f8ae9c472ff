//! What a shield says of an object, under its signature: so that any node of the cluster may believe it, from whomever it comes.
//!
//! A shield adds a voucher to each whole object that it relays to be stored. The edges that store the object keep it, and give it on to edges that ask while no shield
//! answers. It binds the URL's key, the response's head, the request's fields that the response varies by, and the manifest; chunks verify by their names
//! in that. Its age counts from when the shield sent it.
//!
//! # Form
//! Integers are big-endian, `str` is a u16 length and that many bytes: version u8, key 32 bytes, chunk key id 16, site `str`, status u16, root 32, total length u64, time
//! in milliseconds since 1970 u64, the response's fields, the request's (each a count u16, then name `str`, value `str`), the identity certificate (DER) of who
//! vouches `str`, and last its Ed25519 signature, 64 bytes, over [`CONTEXT`] and all before.
//!
//! Invariant: bytes that [`Voucher::open`] accepts were signed by a node whose certificate says, now, that it may vouch for this site.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header};
use stoq::identity::{Identity, Refusal, Role};
use stoq_cache::content::ManifestId;
use stoq_cache::http::vary::{Selector, nominated};
use stoq_cache::upstream::VOUCHER_BYTES_MAX;

use super::wire::{DecodeError, Reader, VERSION, bad, put_fields, put_str};

/// What the signature is for, and nothing else.
const CONTEXT: &[u8] = b"stoq vouched object v1\0";

const SIGNATURE_BYTES: usize = 64;

/// The fields of a request that other nodes than shield and origin are told, in what they are asked and in what is said of objects: those that responses commonly vary by and that say
/// nothing of who asks. Cookies, credentials, addresses, and whatever a site has of its own are not among them.
static TOLD: [HeaderName; 13] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::ORIGIN,
    header::USER_AGENT,
    HeaderName::from_static("save-data"),
    HeaderName::from_static("sec-ch-ua-mobile"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-requested-with"),
];

/// What other nodes are told of a request's fields.
pub(crate) fn told(request: &HeaderMap) -> HeaderMap {
    let mut told = HeaderMap::new();
    for name in &TOLD {
        for value in request.get_all(name) {
            told.append(name, value.clone());
        }
    }
    told
}

/// Why a voucher is not believed.
#[derive(Debug, thiserror::Error)]
pub enum VoucherError {
    /// It is none.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Who vouches is not of this cluster, or not any more.
    #[error("its certificate: {0}")]
    Papers(#[from] Refusal),
    /// Who vouches has not the role for it.
    #[error("{0} is no shield, nor may it fetch site {1:?}")]
    Role(String, String),
    /// It was altered, or never signed.
    #[error("its signature is not that of {0}")]
    Signature(String),
    /// The chunks named beside it are not those of its manifest.
    #[error("the chunks named are others than it vouches for")]
    Manifest,
}

/// What is said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// CacheKey of the URL.
    pub key: [u8; 32],
    /// Fingerprint of the key that names the site's chunks.
    pub chunk_key_id: [u8; 16],
    /// The site's name.
    pub site: String,
    /// Status of the response.
    pub status: StatusCode,
    /// Root of the body's manifest.
    pub root: ManifestId,
    /// Length of the body in bytes.
    pub total: u64,
    /// When it was sent, milliseconds since 1970 by the clock of who vouches.
    pub sent_ms: u64,
    /// The response's end-to-end fields as they were sent, `Age` included.
    pub response: HeaderMap,
    /// Those fields of the request that the response varies by.
    pub request: HeaderMap,
}

impl Voucher {
    /// The fields of `request` that `response` varies by; `None` where it fits no other request (`Vary: *`), or one of them may say who asks: then it is nobody else's to have.
    #[must_use]
    pub fn selecting(response: &HeaderMap, request: &HeaderMap) -> Option<HeaderMap> {
        let mut selecting = HeaderMap::new();
        for name in nominated(response)? {
            if request.contains_key(&name) && !TOLD.contains(&name) {
                return None;
            }
            for value in request.get_all(&name) {
                selecting.append(name.clone(), value.clone());
            }
        }
        Some(selecting)
    }

    /// Whether a request with these fields may have the response.
    #[must_use]
    pub fn answers(&self, request: &HeaderMap) -> bool {
        Selector::of(&self.response, &self.request)
            .is_some_and(|selector| selector.matches(request))
    }

    /// The signed bytes. Costs a signature, some 25 µs.
    ///
    /// # Errors
    /// It is longer than [`VOUCHER_BYTES_MAX`], or a part does not fit its length field.
    pub fn seal(&self, identity: &Identity) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(1024);
        out.put_slice(CONTEXT);
        out.put_u8(VERSION);
        out.put_slice(&self.key);
        out.put_slice(&self.chunk_key_id);
        put_str(&mut out, "site", self.site.as_bytes())?;
        out.put_u16(self.status.as_u16());
        out.put_slice(self.root.as_bytes());
        out.put_u64(self.total);
        out.put_u64(self.sent_ms);
        put_fields(&mut out, &self.response)?;
        put_fields(&mut out, &self.request)?;
        put_str(&mut out, "certificate", identity.certificate())?;
        let signature = identity
            .sign(&out)
            .map_err(|error| bad("signature", error))?;
        out.put_slice(&signature);
        let voucher = out.freeze().slice(CONTEXT.len()..);
        if voucher.len() > VOUCHER_BYTES_MAX {
            return Err(DecodeError::TooLarge(voucher.len()));
        }
        Ok(voucher)
    }

    /// Reads a voucher, whoever it came from. Costs two signatures to check, some 150 µs.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn open(bytes: &[u8], identity: &Identity) -> Result<Self, VoucherError> {
        let (voucher, certificate, signature) = Self::parse(bytes)?;
        let papers = identity.read_papers(&certificate.into())?;
        let may = |role: &Role| match role {
            Role::Shield => true,
            Role::Fetch(site) => *site == voucher.site,
            _ => false,
        };
        if !papers.roles.iter().any(may) {
            return Err(VoucherError::Role(papers.name, voucher.site));
        }
        let signed = bytes.len().saturating_sub(SIGNATURE_BYTES);
        let message = [CONTEXT, bytes.get(..signed).unwrap_or_default()].concat();
        if !papers.signed(&message, &signature) {
            return Err(VoucherError::Signature(papers.name));
        }
        Ok(voucher)
    }

    /// What it says, and by whom, before any of that is believed.
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8], [u8; SIGNATURE_BYTES]), DecodeError> {
        if bytes.len() > VOUCHER_BYTES_MAX {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let mut reader = Reader(bytes);
        reader.version()?;
        let voucher = Self {
            key: reader.array("key")?,
            chunk_key_id: reader.array("chunk key id")?,
            site: reader.text("site")?,
            status: {
                let status = u16::from_be_bytes(reader.array("status")?);
                StatusCode::from_u16(status).map_err(|_| bad("status", status))?
            },
            root: ManifestId::from_bytes(reader.array("root")?),
            total: u64::from_be_bytes(reader.array("total length")?),
            sent_ms: u64::from_be_bytes(reader.array("time")?),
            response: reader.fields()?,
            request: reader.fields()?,
        };
        let certificate = reader.string("certificate")?;
        let signature = reader.array("signature")?;
        reader.end()?;
        Ok((voucher, certificate, signature))
    }

    /// Reads what any bytes say, believing nothing: for those who look for one of several before they ask whether it holds.
    ///
    /// # Errors
    /// It is no voucher.
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::parse(bytes).map(|(voucher, _, _)| voucher)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use http::header::{ACCEPT_LANGUAGE, ETAG, VARY};
    use proptest::prelude::*;
    use rustls_pki_types::UnixTime;
    use stoq::identity::{ClusterRoot, Validity};

    use super::*;

    fn root() -> ClusterRoot {
        ClusterRoot::generate(
            "t",
            Validity::starting(UnixTime::now(), Duration::from_secs(3600)),
        )
        .unwrap()
    }

    fn node(root: &ClusterRoot, name: &str, role: Role) -> Identity {
        let validity = Validity::starting(UnixTime::now(), Duration::from_secs(3600));
        let file = root.issue(name, &[role], validity).unwrap();
        Identity::new(file, root.certificate().clone()).unwrap()
    }

    fn voucher() -> Voucher {
        let mut response = HeaderMap::new();
        response.insert(ETAG, HeaderValue::from_static("\"1\""));
        response.insert(VARY, HeaderValue::from_static("accept-language"));
        let mut request = HeaderMap::new();
        request.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("de"));
        Voucher {
            key: [1; 32],
            chunk_key_id: [2; 16],
            site: "a.test".to_owned(),
            status: StatusCode::OK,
            root: ManifestId::from_bytes([3; 32]),
            total: 5,
            sent_ms: 7,
            response,
            request,
        }
    }

    #[test]
    fn what_a_shield_or_a_fetcher_of_the_site_says_is_believed_by_any_node_and_nobody_elses_word() {
        let founder = root();
        let reader = node(&founder, "e", Role::Edge);
        let said = voucher();
        let mut refused = Vec::new();
        for (by, believed) in [
            (node(&founder, "s", Role::Shield), true),
            (node(&founder, "f", Role::Fetch("a.test".to_owned())), true),
            (node(&founder, "g", Role::Fetch("b.test".to_owned())), false),
            (node(&founder, "e2", Role::Edge), false),
            (node(&founder, "a", Role::Admin), false),
            (node(&root(), "s", Role::Shield), false),
        ] {
            let sealed = said.seal(&by).unwrap();
            match Voucher::open(&sealed, &reader) {
                Ok(opened) if believed => assert_eq!(opened, said),
                Err(error) if !believed => refused.push(error.to_string()),
                other => panic!("{}: {other:?}", by.name()),
            }
        }
        assert!(
            refused[0].starts_with("g is no shield, nor may it fetch site \"a.test\""),
            "{refused:?}"
        );
        assert!(refused[3].starts_with("its certificate: "), "{refused:?}");
    }

    #[test]
    fn a_revoked_shields_word_is_worth_nothing() {
        let founder = root();
        let (shield, reader) = (
            node(&founder, "s", Role::Shield),
            node(&founder, "e", Role::Edge),
        );
        let sealed = voucher().seal(&shield).unwrap();
        assert!(Voucher::open(&sealed, &reader).is_ok());
        reader.revocations().replace([shield.node_id()]).unwrap();
        assert!(matches!(
            Voucher::open(&sealed, &reader),
            Err(VoucherError::Papers(Refusal::Revoked { .. }))
        ));
    }

    #[test]
    fn a_response_answers_requests_that_are_alike_in_what_it_varies_by() {
        let voucher = voucher();
        let with = |language: Option<&'static str>| {
            let mut request = HeaderMap::new();
            request.insert("x-else", HeaderValue::from_static("1"));
            if let Some(language) = language {
                request.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(language));
            }
            voucher.answers(&request)
        };
        assert_eq!(
            [with(Some("de")), with(Some("fr")), with(None)],
            [true, false, false]
        );
        let mut request = voucher.request.clone();
        request.insert("x-else", HeaderValue::from_static("1"));
        assert_eq!(
            Voucher::selecting(&voucher.response, &request),
            Some(voucher.request)
        );
        let mut any = HeaderMap::new();
        any.insert(VARY, HeaderValue::from_static("*"));
        assert_eq!(Voucher::selecting(&any, &request), None);
    }

    #[test]
    fn what_says_who_asks_is_in_no_word_and_in_no_question() {
        let mut request = HeaderMap::new();
        for name in [
            "cookie",
            "authorization",
            "x-forwarded-for",
            "forwarded",
            "x-api-key",
        ] {
            let mut varies = HeaderMap::new();
            varies.insert(VARY, format!("accept-language, {name}").parse().unwrap());
            request.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("de"));
            // Who sends none is like all others who send none.
            assert_eq!(
                Voucher::selecting(&varies, &request),
                Some(request.clone()),
                "{name}"
            );
            let mut named = request.clone();
            named.insert(name, HeaderValue::from_static("x"));
            assert_eq!(Voucher::selecting(&varies, &named), None, "{name}");
            assert_eq!(told(&named), request, "{name}");
        }
    }

    #[test]
    fn one_that_is_longer_than_what_is_kept_is_not_made() {
        let shield = node(&root(), "s", Role::Shield);
        let mut long = voucher();
        long.response.insert(
            "x-long",
            HeaderValue::from_bytes(&[b'a'; VOUCHER_BYTES_MAX]).unwrap(),
        );
        assert!(matches!(long.seal(&shield), Err(DecodeError::TooLarge(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_altered_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let founder = root();
            let sealed = voucher().seal(&node(&founder, "s", Role::Shield)).unwrap();
            let mut altered = sealed.to_vec();
            altered[at.index(sealed.len())] ^= flip;
            prop_assert!(Voucher::open(&altered, &node(&founder, "e", Role::Edge)).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Voucher::peek(&bytes);
        }
    }
}
