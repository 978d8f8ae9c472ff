//! `CDN-Loop` (RFC 8586): who has forwarded this request already, and whether that was us.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field's name.
pub(crate) const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// What this edge writes into `CDN-Loop`, and finds there when a request comes round again: `node.cdn_id`, one
/// name for all nodes of a cluster, as the RFC asks.
#[derive(Clone, Debug)]
pub(crate) struct CdnId(HeaderValue);

impl CdnId {
    /// The id `text`; `None` unless it can stand in a field.
    pub(crate) fn new(text: &str) -> Option<Self> {
        HeaderValue::from_str(text).ok().map(Self)
    }

    /// True when any `CDN-Loop` line of `headers` names this id.
    pub(crate) fn seen_in(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(CDN_LOOP)
            .iter()
            .any(|line| ids(line.as_bytes()).any(|id| id.eq_ignore_ascii_case(self.0.as_bytes())))
    }

    /// Adds this id at the end, as RFC 8586 asks of every CDN that forwards.
    pub(crate) fn append_to(&self, headers: &mut HeaderMap) {
        //= https://www.rfc-editor.org/rfc/rfc8586#section-2
        //# Conforming Content Delivery Networks SHOULD add a cdn-info to this header
        //# field in all requests they generate or forward (creating the header
        //# field if necessary).
        headers.append(CDN_LOOP, self.0.clone());
    }
}

/// The cdn-ids of one field line: `cdn-info = cdn-id *( OWS ";" OWS parameter )`, comma-separated, where
/// a parameter's value may be a quoted string that holds commas and semicolons itself.
fn ids(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().position(|byte| {
            if escaped {
                escaped = false;
                return false;
            }
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' => return !quoted,
                _ => {}
            }
            false
        });
        let (member, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        let id = member
            .iter()
            .position(|byte| *byte == b';')
            .map_or(member, |at| &member[..at]);
        Some(id.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loops(lines: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN_LOOP, HeaderValue::from_str(line).unwrap());
        }
        CdnId::new("stoq-1").unwrap().seen_in(&headers)
    }

    #[test]
    fn own_id_is_found_wherever_it_stands() {
        for lines in [
            &["stoq-1"][..],
            &["other, stoq-1"],
            &["other;v=1 , \tSTOQ-1 ; host=\"x\""],
            &["other", "stoq-1"],
            &["a;x=\"q,\\\",\", stoq-1"],
        ] {
            assert!(loops(lines), "{lines:?}");
        }
    }

    #[test]
    fn other_ids_and_parameters_are_no_loop() {
        for lines in [
            &[][..],
            &[""],
            &["stoq-11, xstoq-1"],
            &["a;via=stoq-1"],
            &["a;x=\"b, stoq-1\""],
            &[",,;"],
        ] {
            assert!(!loops(lines), "{lines:?}");
        }
    }

    #[test]
    fn an_appended_id_is_seen_next_time() {
        let (one, two) = (CdnId::new("one").unwrap(), CdnId::new("two").unwrap());
        let mut headers = HeaderMap::new();
        one.append_to(&mut headers);
        assert!(one.seen_in(&headers) && !two.seen_in(&headers));
    }
}
