//! `Vary`: which stored response fits which request (RFC 9111 §4.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use super::negotiation;

/// Variants kept for one URL unless the operator says otherwise; the one stored longest ago makes room.
pub const VARIANTS_MAX: usize = 16;

/// The most fields a `Vary` may nominate; a response with more is not stored.
pub const NOMINATED_MAX: usize = 16;

/// The fields a response nominates, sorted, none twice; `None` where nothing can match (`*`, a broken name, too many).
#[must_use]
pub fn nominated(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names: Vec<HeaderName> = Vec::new();
    for line in response.get_all(header::VARY) {
        for member in line
            .to_str()
            .ok()?
            .split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
        {
            //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
            //# A stored response with a Vary header field value containing a member
            //# "*" always fails to match.
            if member == "*" {
                return None;
            }
            names.push(HeaderName::from_bytes(member.as_bytes()).ok()?);
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    (names.len() <= NOMINATED_MAX).then_some(names)
}

/// A field's lines as one normal value.
type Value = Box<[u8]>;

/// What of a field's meaning a comparison uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    /// All there is to know without its response.
    Plain,
    /// An `Accept-Encoding` whose response is in a coding that all who ask alike can read.
    Codings,
}

/// One nominated field of the request that brought a response.
#[derive(Debug, Clone)]
struct Field {
    name: HeaderName,
    sense: Sense,
    /// Its only line as it was written, to compare at no cost.
    written: Option<Value>,
    /// Its normal value; `None` where the request had no such field.
    normal: Option<Value>,
}

impl Field {
    fn is_written_in(&self, request: &mut Presented<'_>) -> bool {
        match request.lines(&self.name) {
            Lines::None => self.normal.is_none(),
            Lines::One(only) => self.written.as_deref() == Some(only),
            Lines::Several => false,
        }
    }
}

/// How it was written decides nothing.
impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.sense, &self.normal) == (&other.name, other.sense, &other.normal)
    }
}

impl Eq for Field {}

/// One field of a [`Selector`], as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SelectorPart {
    pub(crate) name: HeaderName,
    /// Whether codings are compared ([`Sense::Codings`]).
    pub(crate) by_codings: bool,
    pub(crate) written: Option<Box<[u8]>>,
    pub(crate) normal: Option<Box<[u8]>>,
}

/// What a request must say to be answered by one variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    fields: Box<[Field]>,
}

impl Selector {
    /// The selector of a response, given the request that brought it; `None` where nothing can match.
    #[must_use]
    pub fn of(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        // Were the response in a coding that is left out of the normal form, it would be given to who cannot read it.
        let is_told_apart = response
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .all(negotiation::is_told_apart);
        let fields = nominated(response)?
            .into_iter()
            .map(|name| {
                let sense = if name == header::ACCEPT_ENCODING && is_told_apart {
                    Sense::Codings
                } else {
                    Sense::Plain
                };
                let normal = normal(request, &name, sense);
                let mut lines = request.get_all(&name).iter();
                let written = match (lines.next(), lines.next()) {
                    (Some(only), None) => Some(only.as_bytes().into()),
                    _ => None,
                };
                Field {
                    name,
                    sense,
                    written,
                    normal,
                }
            })
            .collect();
        Some(Self { fields })
    }

    /// Whether a request may be answered by this variant: each nominated field has the same normal value, or is absent from both.
    #[must_use]
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fits(&mut Presented::new(request))
    }

    fn fits(&self, request: &mut Presented<'_>) -> bool {
        request.compared += 1;
        self.fields.iter().all(|field| {
            field.is_written_in(request)
                || field.normal.is_some()
                    && request.normal(&field.name, field.sense) == field.normal.as_deref()
        })
    }

    /// Whether a request has the nominated fields byte by byte as the one that brought the response: the common case, which
    /// brings nothing into another form and allocates nothing.
    fn is_written_in(&self, request: &mut Presented<'_>) -> bool {
        request.compared += 1;
        self.fields.iter().all(|field| field.is_written_in(request))
    }

    /// Whether both nominate the same fields and compare them in the same sense. If they differ, no request fits both then.
    fn nominates_as(&self, other: &Self) -> bool {
        let compared = |field: &Field| (field.name.clone(), field.sense);
        let others = other.fields.iter().map(compared);
        self.fields.iter().map(compared).eq(others)
    }

    /// Whether this variant is the only one there can be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The values a request has for the fields of this selector, as one hashable key among requests for the same URL.
    #[must_use]
    pub fn key_of(&self, request: &HeaderMap) -> Vec<u8> {
        let mut key = Vec::new();
        for field in &self.fields {
            key.extend_from_slice(field.name.as_str().as_bytes());
            match normal(request, &field.name, field.sense) {
                None => key.push(0),
                Some(value) => {
                    key.push(1);
                    key.extend_from_slice(&value);
                }
            }
            key.push(b'\n');
        }
        key
    }

    /// What it is made of, to be stored.
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = SelectorPart> {
        self.fields.iter().map(|field| SelectorPart {
            name: field.name.clone(),
            by_codings: field.sense == Sense::Codings,
            written: field.written.clone(),
            normal: field.normal.clone(),
        })
    }

    /// The selector that was made of these parts.
    pub(crate) fn from_parts(parts: Vec<SelectorPart>) -> Self {
        let fields = parts.into_iter().map(|part| Field {
            name: part.name,
            sense: if part.by_codings {
                Sense::Codings
            } else {
                Sense::Plain
            },
            written: part.written,
            normal: part.normal,
        });
        Self {
            fields: fields.collect(),
        }
    }

    /// Bytes it weighs.
    #[must_use]
    pub fn weight(&self) -> usize {
        let bytes = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.len());
        self.fields
            .iter()
            .map(|field| size_of::<Field>() + 32 + bytes(&field.written) + bytes(&field.normal))
            .sum()
    }
}

/// The lines of a field of a request.
#[derive(Debug, Clone, Copy)]
enum Lines<'a> {
    None,
    One(&'a [u8]),
    Several,
}

/// A request's fields while variants are compared with them: each is looked up once, and brought into its normal form once, when it must be.
#[derive(Debug)]
pub struct Presented<'a> {
    headers: &'a HeaderMap,
    lines: SmallVec<[(HeaderName, Lines<'a>); 2]>,
    normal: SmallVec<[(HeaderName, Sense, Option<Value>); 2]>,
    /// Comparisons with a variant, by bytes or by meaning.
    compared: usize,
}

impl<'a> Presented<'a> {
    /// The fields of a request.
    #[must_use]
    pub fn new(headers: &'a HeaderMap) -> Self {
        Self {
            headers,
            lines: SmallVec::new(),
            normal: SmallVec::new(),
            compared: 0,
        }
    }

    fn lines(&mut self, name: &HeaderName) -> Lines<'a> {
        if let Some((_, lines)) = self.lines.iter().find(|(known, _)| known == name) {
            return *lines;
        }
        let mut found = self.headers.get_all(name).iter();
        let lines = match (found.next(), found.next()) {
            (None, _) => Lines::None,
            (Some(only), None) => Lines::One(only.as_bytes()),
            (Some(_), Some(_)) => Lines::Several,
        };
        self.lines.push((name.clone(), lines));
        lines
    }

    fn normal(&mut self, name: &HeaderName, sense: Sense) -> Option<&[u8]> {
        let known = self
            .normal
            .iter()
            .position(|(known, in_sense, _)| known == name && *in_sense == sense);
        let place = known.unwrap_or_else(|| {
            let value = normal(self.headers, name, sense);
            self.normal.push((name.clone(), sense, value));
            self.normal.len() - 1
        });
        self.normal
            .get(place)
            .and_then(|(_, _, value)| value.as_deref())
    }
}

/// The place of the variant that a request may have, among selectors from the newest to the oldest, no two of them equal. Each is
/// compared at most twice: byte by byte, and by its meaning where that found none.
pub fn select<'a>(
    selectors: impl Iterator<Item = &'a Selector> + Clone,
    request: &mut Presented<'_>,
) -> Option<usize> {
    let alike = selectors
        .clone()
        .enumerate()
        .find(|(_, selector)| !selector.is_empty() && selector.is_written_in(request));
    let mut without = None;
    for (place, selector) in selectors.enumerate() {
        if let Some((found, alike)) = alike {
            if place == found {
                return Some(place);
            }
            // Newer, and for requests with other fields.
            if selector.nominates_as(alike) {
                continue;
            }
        }
        if selector.is_empty() {
            //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
            //# When a cache has multiple stored responses for a target URI and one or
            //# more omits the Vary header field, the cache SHOULD choose the most
            //# recent (see Section 4.2.3) stored response with a valid Vary field value.
            without = without.or(Some(place));
        } else if selector.fits(request) {
            return Some(place);
        }
    }
    without
}

/// A field's lines as one value, which two requests share if and only if the field matches; `None` where it is absent.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
//# The header fields from two requests are defined to match if and only if those in the first
//# request can be transformed to those in the second request by applying any of the following:
/// whitespace where the syntax allows it, lines of one name combined, and what the field's specification says is the same.
fn normal(request: &HeaderMap, name: &HeaderName, sense: Sense) -> Option<Value> {
    /// Stands before what came of a field's own meaning. No field's value has it, so the two never meet.
    const BY_MEANING: &[u8] = &[1];
    let lines: SmallVec<[&HeaderValue; 4]> = request.get_all(name).iter().collect();
    if lines.is_empty() {
        return None;
    }
    if *name == header::COOKIE {
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3
        //# these MUST be concatenated into a single octet string using the two-octet delimiter of 0x3b, 0x20
        let lines: Vec<&[u8]> = lines
            .iter()
            .map(|line| line.as_bytes().trim_ascii())
            .collect();
        return Some(lines.join(&b"; "[..]).into());
    }
    let by_meaning = match (sense, name) {
        (Sense::Codings, _) => Some(negotiation::accept_encoding as fn(&str) -> Option<String>),
        (Sense::Plain, name) if *name == header::ACCEPT_LANGUAGE => {
            Some(negotiation::accept_language as _)
        }
        (Sense::Plain, _) => None,
    };
    let known = by_meaning.and_then(|normal_form| {
        let lines: Result<Vec<&str>, _> = lines.iter().map(|line| line.to_str()).collect();
        normal_form(&lines.ok()?.join(","))
    });
    if let Some(known) = known {
        return Some([BY_MEANING, known.as_bytes()].concat().into());
    }
    let mut joined: Vec<u8> = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        if place > 0 {
            joined.extend_from_slice(b", ");
        }
        push_without_spaces(&mut joined, line.as_bytes());
    }
    Some(joined.into())
}

/// Writes a line with one space after each comma and none before it, but for commas within quotes. Empty members stay: a field
/// that is not known to be a list may mean something by them.
fn push_without_spaces(out: &mut Vec<u8>, line: &[u8]) {
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    let mut member = |bytes: &[u8], is_last: bool| {
        out.extend_from_slice(bytes.trim_ascii());
        if !is_last {
            out.extend_from_slice(b", ");
        }
    };
    for (at, byte) in line.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => {
                member(line.get(start..at).unwrap_or_default(), false);
                start = at + 1;
            }
            _ => {}
        }
    }
    member(line.get(start..).unwrap_or_default(), true);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn requests_match_by_the_nominated_fields_alone() {
        let stored = map(&[("accept-language", "de,  en"), ("x-other", "1")]);
        let selector = Selector::of(
            &map(&[("vary", "Accept-Language, accept-encoding")]),
            &stored,
        )
        .unwrap();
        for (request, fits) in [
            (map(&[("accept-language", "de, en")]), true),
            (
                map(&[("accept-language", "de , en,"), ("x-other", "2")]),
                true,
            ),
            (
                map(&[("accept-language", "de"), ("accept-language", "en")]),
                true,
            ),
            (map(&[("accept-language", "en, de;q=0.9")]), false),
            (
                map(&[("accept-language", "de, en"), ("accept-encoding", "")]),
                false,
            ),
            (map(&[]), false),
        ] {
            assert_eq!(selector.matches(&request), fits, "{request:?}");
            assert_eq!(
                selector.key_of(&request) == selector.key_of(&stored),
                fits,
                "{request:?}"
            );
        }
    }

    #[test]
    fn star_and_floods_of_names_match_nothing() {
        assert_eq!(nominated(&map(&[("vary", "accept"), ("vary", "*")])), None);
        let mut flood = HeaderMap::new();
        for i in 0..=NOMINATED_MAX {
            flood.append(
                header::VARY,
                HeaderValue::try_from(format!("x-{i}")).unwrap(),
            );
        }
        assert_eq!(nominated(&flood), None);
        assert!(Selector::of(&map(&[]), &map(&[])).unwrap().is_empty());
    }

    type Fields = &'static [(&'static str, &'static str)];

    #[test]
    fn fields_match_as_far_as_their_meaning_allows() {
        let gzip = map(&[
            ("vary", "accept-encoding, accept-language, foo, cookie"),
            ("content-encoding", "gzip"),
        ]);
        let deflate = map(&[("vary", "accept-encoding"), ("content-encoding", "deflate")]);
        #[rustfmt::skip]
        let table: [(&HeaderMap, Fields, Fields, bool); 20] = [
            (&gzip, &[("accept-encoding", "gzip, br, deflate")], &[("accept-encoding", "br;q=1,gzip")], true),
            (&gzip, &[("accept-encoding", "gzip, br")], &[("accept-encoding", "br, gzip;q=0.5")], false),
            (&gzip, &[("accept-encoding", "gzip")], &[], false),
            (&gzip, &[("accept-encoding", "")], &[], false),
            (&gzip, &[("accept-encoding", "gzip;bad")], &[("accept-encoding", "gzip")], false),
            // Who gave deflate away is not given deflate.
            (&deflate, &[("accept-encoding", "gzip, deflate")], &[("accept-encoding", "gzip")], false),
            (&deflate, &[("accept-encoding", "gzip, deflate")], &[("accept-encoding", "gzip,deflate")], true),
            (&gzip, &[("accept-language", "en, de")], &[("accept-language", "de, en")], true),
            (&gzip, &[("accept-language", "en, de")], &[("accept-language", "eN, De")], true),
            (&gzip, &[("accept-language", "en, de;q=0.9")], &[("accept-language", "de, en;q=0.9")], false),
            // What is in the response is not what was asked: a variant is not given to who asked otherwise.
            (&gzip, &[("accept-language", "en, de")], &[("accept-language", "de")], false),
            (&gzip, &[("foo", "1,2")], &[("foo", " 1, 2 ")], true),
            (&gzip, &[("foo", "1"), ("foo", "2")], &[("foo", "1,2")], true),
            (&gzip, &[("foo", "1, 2")], &[("foo", "2, 1")], false),
            (&gzip, &[("foo", "a")], &[("foo", "A")], false),
            (&gzip, &[("foo", "1,,2")], &[("foo", "1,2")], false),
            (&gzip, &[("foo", "\"a, b\"")], &[("foo", "\"a,b\"")], false),
            (&gzip, &[("foo", "\"\\\"\" , x")], &[("foo", "\"\\\"\",x")], true),
            (&gzip, &[("cookie", "a=1"), ("cookie", "b=2")], &[("cookie", "a=1; b=2")], true),
            (&gzip, &[("cookie", "a=1,b=2")], &[("cookie", "a=1, b=2")], false),
        ];
        for (response, stored, asked, want) in table {
            let owned = |fields: &[(&str, &str)]| {
                let mut headers = HeaderMap::new();
                for (name, value) in fields {
                    headers.append(
                        HeaderName::try_from(*name).unwrap(),
                        HeaderValue::try_from(*value).unwrap(),
                    );
                }
                headers
            };
            let (stored, asked) = (owned(stored), owned(asked));
            let selector = Selector::of(response, &stored).unwrap();
            assert_eq!(selector.matches(&asked), want, "{stored:?} {asked:?}");
        }
    }

    #[test]
    fn a_flood_of_languages_costs_one_comparison_a_variant_and_one_normal_form() {
        let response = map(&[("vary", "accept-language, accept-encoding")]);
        let mut selectors = std::collections::VecDeque::new();
        for n in 0..10_000 {
            let mut request = map(&[("accept-encoding", "gzip, br")]);
            let value = HeaderValue::try_from(format!("de-x-{n}, en;q=0.5")).unwrap();
            request.insert(header::ACCEPT_LANGUAGE, value);
            let mut presented = Presented::new(&request);
            assert_eq!(select(selectors.iter(), &mut presented), None);
            assert!(presented.compared <= 2 * VARIANTS_MAX);
            assert!(
                presented.normal.len() <= 1,
                "the first field tells them apart"
            );
            selectors.push_front(Selector::of(&response, &request).unwrap());
            selectors.truncate(VARIANTS_MAX);
            // Its own is found first, and nothing is brought into another form for it.
            let mut presented = Presented::new(&request);
            assert_eq!(select(selectors.iter(), &mut presented), Some(0));
            assert_eq!((presented.compared, presented.normal.len()), (1, 0));
        }
    }

    #[test]
    fn the_newest_that_fits_is_chosen_however_the_request_is_written() {
        let by = |names: &'static str, request: &HeaderMap| {
            Selector::of(&map(&[("vary", names)]), request).unwrap()
        };
        let (stored, asked) = (map(&[("foo", "1, 2")]), map(&[("foo", "1,2")]));
        let choose = |selectors: &[&Selector]| {
            let selectors = selectors.iter().copied();
            select(selectors, &mut Presented::new(&asked))
        };
        let (meant, written) = (by("foo, bar", &stored), by("foo", &asked));
        let other = by("foo", &map(&[("foo", "3")]));
        assert_eq!(choose(&[&other, &written]), Some(1));
        assert_eq!(choose(&[&other, &meant, &written]), Some(1));
        assert_eq!(choose(&[&written, &meant]), Some(0));
        assert_eq!(choose(&[&other, &meant]), Some(1));
        assert_eq!(choose(&[&other]), None);
    }

    #[test]
    fn a_response_without_vary_is_the_last_choice() {
        let request = map(&[("foo", "1")]);
        let with = Selector::of(&map(&[("vary", "foo")]), &request).unwrap();
        let without = Selector::default();
        let choose = |request: &HeaderMap| {
            select([&without, &with].into_iter(), &mut Presented::new(request))
        };
        assert_eq!(choose(&request), Some(1));
        assert_eq!(choose(&map(&[("foo", "2")])), Some(0));
    }

    fn request() -> impl Strategy<Value = HeaderMap> {
        let name = prop_oneof![
            Just("accept-encoding"),
            Just("accept-language"),
            Just("foo"),
            Just("cookie"),
        ];
        let value = "(gzip|br|deflate|\\*|en|EN|de|,|, |;q=1|;q=0\\.5|;q=0| |\"|\\\\){0,5}";
        prop::collection::vec((name, value), 0..4).prop_map(|fields| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::try_from(value.trim()).unwrap());
            }
            headers
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn matching_is_an_equivalence(
            requests in prop::collection::vec(request(), 3..6),
            coding in prop_oneof![Just("gzip"), Just("deflate"), Just("br, gzip"), Just("identity")],
        ) {
            let response = map(&[
                ("vary", "foo, cookie, accept-language"),
                ("vary", "Accept-Encoding"),
                ("content-encoding", coding),
            ]);
            let of = |request: &HeaderMap| Selector::of(&response, request).unwrap();
            for a in &requests {
                prop_assert!(of(a).matches(a), "reflexive: {:?}", a);
                for b in &requests {
                    let matches = of(a).matches(b);
                    prop_assert_eq!(matches, of(b).matches(a), "symmetric: {:?} {:?}", a, b);
                    prop_assert_eq!(matches, of(a) == of(b));
                    prop_assert_eq!(matches, of(a).key_of(a) == of(a).key_of(b));
                    for c in &requests {
                        prop_assert!(
                            !(matches && of(b).matches(c)) || of(a).matches(c),
                            "transitive: {:?} {:?} {:?}", a, b, c
                        );
                    }
                }
            }
        }
    }
}
