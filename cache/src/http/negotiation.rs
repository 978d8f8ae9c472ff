//! Request fields that ask for a kind of content, in one spelling for all that ask alike.
//!
//! What is known about a field's meaning is used only as far as its specification goes; a value that does not follow it has no
//! normal form here and is compared as it is.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, header};

/// The codings whose order among each other counts, by which [`accept_encoding`] knows what a client can read.
const CODINGS: [&str; 4] = ["br", "gzip", "identity", "zstd"];

/// Members of a list that are looked at; a longer one has no normal form.
const MEMBERS_MAX: usize = 64;

/// Whether a `Content-Encoding` is one that [`accept_encoding`] tells from others, so that who asks alike can read it.
#[must_use]
pub fn is_told_apart(coding: &[u8]) -> bool {
    let coding = coding.trim_ascii();
    CODINGS
        .iter()
        .chain(&["x-gzip"])
        .any(|known| coding.eq_ignore_ascii_case(known.as_bytes()))
}

/// An `Accept-Encoding` as the codings that matter, the best first: `br=gzip>zstd`, and `!` before an identity that is refused.
///
/// Weights say no more than their order (RFC 9110 §12.4.2: "relative weight"). Codings that are not known here are left out, so this
/// serves only to choose among responses in a known coding: see [`is_told_apart`]. `None`: not a list of codings.
#[must_use]
pub fn accept_encoding(value: &str) -> Option<String> {
    let mut weights: [Option<u16>; CODINGS.len()] = [None; CODINGS.len()];
    let mut others = None;
    for (name, weight) in weighted(value)? {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1.3
        //# A recipient SHOULD consider "x-gzip" to be equivalent to "gzip".
        let name = if name == "x-gzip" {
            "gzip".to_owned()
        } else {
            name
        };
        let slot = match CODINGS.iter().position(|coding| *coding == name) {
            Some(place) => weights.get_mut(place)?,
            None if name == "*" => &mut others,
            None => continue,
        };
        // Said twice in two ways: no telling which was meant.
        if slot.is_some_and(|said| said != weight) {
            return None;
        }
        *slot = Some(weight);
    }
    let mut ranked = Vec::with_capacity(CODINGS.len());
    let mut text = String::new();
    for (coding, weight) in CODINGS.iter().zip(weights) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-12.5.3
        //# The asterisk "*" symbol in an Accept-Encoding field matches any
        //# available content coding not explicitly listed in the field.
        match weight.or(others) {
            Some(0) if *coding == "identity" => text.push('!'),
            Some(0) | None => {}
            Some(weight) => ranked.push((weight, *coding)),
        }
    }
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let mut last = None;
    for (weight, coding) in ranked {
        match last.replace(weight) {
            Some(last) if last == weight => text.push('='),
            Some(_) => text.push('>'),
            None => {}
        }
        text.push_str(coding);
    }
    Some(text)
}

/// The `Accept-Encoding` to send for a client's: the same codings in the same order of preference, in one spelling. `None` where the
/// client's own has no normal form.
#[must_use]
pub fn accept_encoding_to_send(value: &str) -> Option<String> {
    let normal = accept_encoding(value)?;
    let (refuses_identity, ranks) = match normal.strip_prefix('!') {
        Some(ranks) => (true, ranks),
        None => (false, normal.as_str()),
    };
    let mut text = String::new();
    for (rank, codings) in ranks.split('>').enumerate() {
        for coding in codings.split('=').filter(|coding| !coding.is_empty()) {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(coding);
            // At most four ranks: 1, 0.9, 0.8, 0.7.
            if rank > 0 {
                let written = write!(text, ";q=0.{}", 10_usize.saturating_sub(rank));
                debug_assert!(written.is_ok(), "a string takes all");
            }
        }
    }
    if refuses_identity {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str("identity;q=0");
    }
    Some(text)
}

/// Puts a request's `Accept-Encoding` into the form of [`accept_encoding_to_send`], where it has one.
pub fn write_accept_encoding(headers: &mut HeaderMap) {
    let lines: Result<Vec<&str>, _> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .map(|line| line.to_str())
        .collect();
    let Some(lines) = lines.ok().filter(|lines| !lines.is_empty()) else {
        return;
    };
    let normal = accept_encoding_to_send(&lines.join(","));
    if let Some(value) = normal.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}

/// An `Accept-Language` with its ranges in lower case, the best first, and weights as whole thousandths.
///
/// Weights are kept: which languages are good enough is the origin's to say. The order of ranges of one weight says nothing:
//= https://www.rfc-editor.org/rfc/rfc9110#section-12.5.4
//# Note that some recipients treat the order in which language tags are
//# listed as an indication of descending priority, particularly for tags
//# that are assigned equal quality values (no value is the same as q=1).
//# However, this behavior cannot be relied upon.
/// Browsers write descending weights, which are told apart. `None`: not a list of ranges.
///
/// A response's `Content-Language` is not looked at. A request may like that language best and still be answered otherwise by an origin that has
/// others, or that writes what else it has into the page:
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
//# the cache MUST NOT use that stored response without revalidation unless all the
//# presented request header fields nominated by that Vary field value
//# match those fields in the original request
#[must_use]
pub fn accept_language(value: &str) -> Option<String> {
    let mut ranges = weighted(value)?;
    ranges.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranges.dedup();
    let mut text = String::with_capacity(value.len());
    for (range, weight) in ranges {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&range);
        if weight != 1000 {
            let written = write!(text, ";{weight}");
            debug_assert!(written.is_ok(), "a string takes all");
        }
    }
    Some(text)
}

/// The members of a weighted list, names in lower case, weights in thousandths. `None` where anything else stands in it.
fn weighted(value: &str) -> Option<Vec<(String, u16)>> {
    let mut members = Vec::new();
    for member in value
        .split(',')
        .map(trim)
        .filter(|member| !member.is_empty())
    {
        let (name, weight) = match member.split_once(';') {
            None => (member, 1000),
            Some((name, weight)) => (trim(name), qvalue(trim(weight))?),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) || members.len() == MEMBERS_MAX {
            return None;
        }
        members.push((name.to_ascii_lowercase(), weight));
    }
    Some(members)
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2
//# weight = OWS ";" OWS "q=" qvalue
//# qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )
fn qvalue(text: &str) -> Option<u16> {
    let (name, value) = text.split_once('=')?;
    if !name.eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Without the optional whitespace of lists (RFC 9110 §5.6.3).
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_come_down_to_the_order_of_those_that_matter() {
        #[rustfmt::skip]
        let table = [
            ("gzip, br", Some("br=gzip"), Some("br, gzip")),
            ("br,GZIP ;q=1.000,\tdeflate", Some("br=gzip"), Some("br, gzip")),
            ("gzip;q=0.9, br;q=0.95", Some("br>gzip"), Some("br, gzip;q=0.9")),
            ("x-gzip", Some("gzip"), Some("gzip")),
            ("deflate, compress", Some(""), Some("")),
            ("", Some(""), Some("")),
            ("gzip;q=0", Some(""), Some("")),
            ("gzip, identity;q=0.5", Some("gzip>identity"), Some("gzip, identity;q=0.9")),
            ("gzip, identity;q=0", Some("!gzip"), Some("gzip, identity;q=0")),
            ("*;q=0", Some("!"), Some("identity;q=0")),
            ("*, br;q=0", Some("gzip=identity=zstd"), Some("gzip, identity, zstd")),
            ("zstd;q=0.4, br;q=0.3, gzip;q=0.2, identity;q=0.1", Some("zstd>br>gzip>identity"),
             Some("zstd, br;q=0.9, gzip;q=0.8, identity;q=0.7")),
            ("gzip, gzip;q=0", None, None),
            ("gzip;q=1.5", None, None), ("gzip;level=9", None, None), ("gzip br", None, None), ("gzip;q=", None, None),
        ];
        for (value, normal, sent) in table {
            assert_eq!(accept_encoding(value).as_deref(), normal, "{value}");
            assert_eq!(accept_encoding_to_send(value).as_deref(), sent, "{value}");
            if let Some(sent) = sent {
                assert_eq!(accept_encoding(sent).as_deref(), normal, "{value} as sent");
            }
        }
    }

    #[test]
    fn languages_of_one_weight_have_no_order() {
        for (a, b) in [
            ("en, de", "de, en"),
            ("en, de", "eN,  De"),
            ("fr;q=0.5, de", "de;q=1.0, fr;q=0.500"),
            ("en, en, de", "de,en"),
            ("", " , "),
        ] {
            assert_eq!(accept_language(a), accept_language(b), "{a} | {b}");
            assert!(accept_language(a).is_some());
        }
        for (a, b) in [
            ("en, de;q=0.9", "de, en;q=0.9"),
            ("de;q=0.9", "de;q=0.8"),
            ("en", "en-GB"),
            ("en", "en, de"),
            ("de;q=0", ""),
        ] {
            assert_ne!(accept_language(a), accept_language(b), "{a} | {b}");
        }
        for odd in ["en;q=2", "en;q=0.1234", "en us", "\"en\"", "en;q=0.5;x"] {
            assert_eq!(accept_language(odd), None, "{odd}");
        }
    }
}
