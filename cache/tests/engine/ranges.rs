//! Ranges against a plain reference: random sets, conditions and methods, over objects that are absent, arriving, stored,
//! full of holes, expired or replaced. Whatever comes out is byte for byte what the reference makes of one version.
//!
//! `STOQ_TEST_SEED` sets the seed (it is printed when a case fails) and `STOQ_RANGE_CASES` the number of requests: 10,000 unless
//! set, 100,000 for a nightly run.

use std::{
    env,
    ops::Range,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use stoq_cache::{
    engine::{CacheRequest, Lookup},
    reply::Reply,
    upstream::{FetchBody, FetchRequest, FetchResponse},
};

use super::script::{House, Script, body, cache_status, house, noise, response};

const PARTS_MAX: usize = 16;
const LIFETIME_SECONDS: u64 = 60;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// An origin of one object that changes on command. It knows single ranges only.
struct Origin {
    length: usize,
    version: AtomicU64,
    strong: bool,
    declares: bool,
    piece: usize,
}

impl Origin {
    fn body(&self, version: u64) -> Bytes {
        // Each version has a length of its own.
        noise(version, self.length + (version % 7) as usize)
    }

    fn tag(&self, version: u64) -> String {
        format!("{}\"v{version}\"", if self.strong { "" } else { "W/" })
    }

    fn answer(&self, request: &FetchRequest) -> FetchResponse {
        let version = self.version.load(Ordering::Relaxed);
        let (body, tag) = (self.body(version), self.tag(version));
        let mut answer = response(200, &[("cache-control", "max-age=60")], FetchBody::Empty);
        answer
            .headers
            .insert("etag", HeaderValue::try_from(tag.clone()).unwrap());
        answer
            .headers
            .insert("content-type", HeaderValue::from_static("text/plain"));
        let asked = Asked::of(&request.method, &request.headers);
        let expected = asked.reference(&tag, &body);
        answer.status = StatusCode::from_u16(expected.status()).unwrap();
        let sent = match expected {
            Expected::Empty(416) => {
                let value = format!("bytes */{}", body.len());
                answer
                    .headers
                    .insert("content-range", HeaderValue::try_from(value).unwrap());
                None
            }
            Expected::Empty(_) => None,
            Expected::Parts(parts) if parts.len() == 1 => {
                let Range { start, end } = parts[0].clone();
                let value = format!("bytes {start}-{}/{}", end - 1, body.len());
                answer
                    .headers
                    .insert("content-range", HeaderValue::try_from(value).unwrap());
                Some(body.slice(start..end))
            }
            Expected::Whole | Expected::Parts(_) => {
                answer.status = StatusCode::OK;
                Some(body)
            }
        };
        if let Some(sent) = sent {
            if self.declares {
                answer
                    .headers
                    .insert("content-length", HeaderValue::from(sent.len()));
            }
            if request.method == Method::HEAD {
                return answer;
            }
            let piece = self.piece;
            let count = sent.len().div_ceil(piece);
            // Every piece waits its turn, so that readers meet the body at every state of its arrival.
            answer.body = FetchBody::Stream(Box::pin(stream::iter(0..count).then(move |i| {
                let bytes = sent.slice(i * piece..sent.len().min((i + 1) * piece));
                async move {
                    tokio::task::yield_now().await;
                    Ok(bytes)
                }
            })));
        }
        answer
    }
}

/// What a request asks for, read by the plainest means.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    range: Option<String>,
    if_range: Option<String>,
    if_none_match: Option<String>,
    if_match: Option<String>,
}

/// What the reference makes of it.
#[derive(Debug, PartialEq)]
enum Expected {
    Whole,
    Parts(Vec<Range<usize>>),
    Empty(u16),
}

impl Expected {
    fn status(&self) -> u16 {
        match self {
            Self::Whole => 200,
            Self::Parts(_) => 206,
            Self::Empty(status) => *status,
        }
    }
}

impl Asked {
    fn of(method: &Method, headers: &HeaderMap) -> Self {
        let field = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        Self {
            method: method.clone(),
            range: field("range"),
            if_range: field("if-range"),
            if_none_match: field("if-none-match"),
            if_match: field("if-match"),
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("range", &self.range),
            ("if-range", &self.if_range),
            ("if-none-match", &self.if_none_match),
            ("if-match", &self.if_match),
        ] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::try_from(value.clone()).unwrap());
            }
        }
        headers
    }

    fn reference(&self, tag: &str, body: &[u8]) -> Expected {
        let bare = |tag: &str| tag.trim_start_matches("W/").to_owned();
        let strong = |asked: &String| !tag.starts_with("W/") && asked == tag;
        if self.if_match.as_ref().is_some_and(|asked| !strong(asked)) {
            return Expected::Empty(412);
        }
        if self
            .if_none_match
            .as_ref()
            .is_some_and(|asked| bare(asked) == bare(tag))
        {
            return Expected::Empty(304);
        }
        let Some(range) = self.range.as_ref().filter(|_| self.method == Method::GET) else {
            return Expected::Whole;
        };
        if self.if_range.as_ref().is_some_and(|asked| !strong(asked)) {
            return Expected::Whole;
        }
        let mut parts: Vec<Range<usize>> = Vec::new();
        for member in range.strip_prefix("bytes=").unwrap().split(',') {
            let (first, last) = member.split_once('-').unwrap();
            let part = match (first.parse::<usize>(), last.parse::<usize>()) {
                (Ok(first), Ok(last)) if last < first => return Expected::Whole,
                (Ok(first), Ok(last)) => first..body.len().min(last + 1),
                (Ok(first), Err(_)) => first..body.len(),
                (Err(_), Ok(0)) => continue,
                (Err(_), Ok(_)) if body.is_empty() => return Expected::Whole,
                (Err(_), Ok(count)) => body.len().saturating_sub(count)..body.len(),
                (Err(_), Err(_)) => return Expected::Whole,
            };
            if part.start < part.end {
                parts.push(part);
            }
        }
        // Join any two that overlap or touch, in the place of the first, until none do.
        'again: loop {
            for i in 0..parts.len() {
                for j in i + 1..parts.len() {
                    let (a, b) = (parts[i].clone(), parts[j].clone());
                    if a.start <= b.end && b.start <= a.end {
                        parts[i] = a.start.min(b.start)..a.end.max(b.end);
                        parts.remove(j);
                        continue 'again;
                    }
                }
            }
            break;
        }
        match parts.len() {
            0 => Expected::Empty(416),
            count if count > PARTS_MAX => Expected::Whole,
            _ => Expected::Parts(parts),
        }
    }
}

/// A random request. Tags are those of versions near the current one.
fn ask(rng: &mut StdRng, origin: &Origin) -> Asked {
    let version = origin.version.load(Ordering::Relaxed);
    let mut tag = |chance: f64| {
        let near = version.saturating_sub(rng.random_range(0..2));
        let weak = rng.random_bool(0.1);
        rng.random_bool(chance)
            .then(|| match (origin.strong, weak) {
                (true, false) => format!("\"v{near}\""),
                _ => format!("W/\"v{near}\""),
            })
    };
    let (if_range, if_none_match, if_match) = (tag(0.3), tag(0.08), tag(0.08));
    let length = origin.length + 8;
    let members = match rng.random_range(0..10) {
        0 => 0,
        1..=4 => 1,
        5..=8 => rng.random_range(2..6),
        _ => rng.random_range(10..24),
    };
    let set: Vec<String> = (0..members)
        .map(|_| {
            let first = rng.random_range(0..length + 20);
            let span = match rng.random_range(0..3) {
                0 => rng.random_range(0..4),
                1 => rng.random_range(0..200),
                _ => rng.random_range(0..length),
            };
            match rng.random_range(0..20) {
                0..=2 => format!("{first}-"),
                3..=5 => format!("-{span}"),
                6 if first > 0 => format!("{first}-{}", first - 1),
                _ => format!("{first}-{}", first + span),
            }
        })
        .collect();
    Asked {
        method: if rng.random_bool(0.1) {
            Method::HEAD
        } else {
            Method::GET
        },
        range: (members > 0).then(|| format!("bytes={}", set.join(","))),
        if_range,
        if_none_match,
        if_match,
    }
}

/// The parts of a multipart body, read by its boundary.
fn read_multipart(headers: &HeaderMap, bytes: &[u8], total: usize) -> Vec<(Range<usize>, Vec<u8>)> {
    let kind = headers["content-type"].to_str().unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let find = |from: usize, what: &[u8]| {
        let found = bytes[from..].windows(what.len()).position(|w| w == what);
        from + found.unwrap()
    };
    let (open, next) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}"));
    assert!(bytes.starts_with(open.as_bytes()));
    let (mut at, mut parts) = (open.len(), Vec::new());
    loop {
        let fields_end = find(at, b"\r\n\r\n");
        let fields = std::str::from_utf8(&bytes[at..fields_end]).unwrap();
        assert!(fields.contains("Content-Type: text/plain"), "{fields}");
        let range = fields.split("Content-Range: bytes ").nth(1).unwrap();
        let (range, length) = range.trim().split_once('/').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), total);
        let (first, last) = range.split_once('-').unwrap();
        let range = first.parse().unwrap()..last.parse::<usize>().unwrap() + 1;
        let end = find(fields_end + 4, next.as_bytes());
        parts.push((range, bytes[fields_end + 4..end].to_vec()));
        at = end + next.len();
        if bytes[at..] == *b"--\r\n" {
            return parts;
        }
        assert!(bytes[at..].starts_with(b"\r\n"));
        at += 2;
    }
}

/// How freely a reply may differ from what the reference makes of its version.
#[derive(Debug, Clone, Copy)]
struct Leeway {
    /// The whole may stand in for parts.
    whole: bool,
    /// The body may break off, and say so: its version is gone at the origin, and chunks of it here.
    broken: bool,
}

/// Whether a reply is what the reference makes of a version.
async fn check(asked: &Asked, reply: Reply, tag: &str, whole: &[u8], leeway: Leeway) {
    let (status, headers) = (reply.status().as_u16(), reply.to_headers());
    let got = match body(reply).await {
        Ok(got) => got,
        Err(error) => {
            assert!(leeway.broken, "{error}");
            return;
        }
    };
    let mut expected = asked.reference(tag, whole);
    // While the length is not known, nor is that a range lies beyond it.
    if leeway.whole
        && status == 200
        && matches!(expected, Expected::Parts(_) | Expected::Empty(416))
    {
        expected = Expected::Whole;
    }
    assert_eq!(status, expected.status());
    let declared = headers.get("content-length").map(|v| v.to_str().unwrap());
    let declared = declared.map(|text| text.parse::<usize>().unwrap());
    match expected {
        Expected::Empty(status) => {
            assert!(got.is_empty());
            if status == 416 {
                assert_eq!(headers["content-range"], format!("bytes */{}", whole.len()));
            }
        }
        Expected::Whole if asked.method == Method::HEAD => {
            assert!(got.is_empty());
            assert!(declared.is_none_or(|length| length == whole.len()));
        }
        Expected::Whole => {
            assert!(got == whole, "{} bytes for {}", got.len(), whole.len());
            assert!(!headers.contains_key("content-range"));
        }
        Expected::Parts(parts) => {
            assert!(declared.is_none_or(|length| length == got.len()));
            if let [Range { start, end }] = parts.as_slice() {
                let range = format!("bytes {start}-{}/{}", end - 1, whole.len());
                assert_eq!(headers["content-range"], range);
                assert!(got == whole[*start..*end]);
            } else {
                assert!(!headers.contains_key("content-range"));
                let read = read_multipart(&headers, &got, whole.len());
                let expected: Vec<_> = parts
                    .into_iter()
                    .map(|part| (part.clone(), whole[part].to_vec()))
                    .collect();
                assert!(read == expected);
            }
        }
    }
}

fn request(house: &House, asked: &Asked) -> CacheRequest {
    let mut request = house.get("/object", &[]);
    request.method = asked.method.clone();
    request.headers = asked.headers();
    request
}

fn is_fresh(house: &House) -> bool {
    let plain = house.get("/object", &[]);
    let policy = &plain.site.policy;
    let found = house
        .cache
        .lookup(&plain.key, &plain.facts(), policy, house.now());
    matches!(found, Lookup::Fresh(_))
}

/// One object's life: requests in bursts, with time, changes and lost chunks between them.
async fn live(seed: u64, requests: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let length = match rng.random_range(0..8) {
        0 => 0,
        1..=3 => rng.random_range(1..200),
        4..=5 => rng.random_range(200..20_000),
        _ => rng.random_range(20_000..90_000),
    };
    let origin = Arc::new(Origin {
        length,
        version: AtomicU64::new(1),
        strong: rng.random_bool(0.8),
        declares: rng.random_bool(0.8),
        piece: rng.random_range(1..5) * (1 + length / 12),
    });
    let house = house();
    let scripted = Arc::clone(&origin);
    let upstream = Script::new(move |request, _| std::future::ready(Ok(scripted.answer(&request))));
    // Versions that a response may still be of: the one that was current at any time since the freshest could have been fetched.
    let mut left = requests;
    let mut changed_at: Vec<(u64, u64)> = vec![(1, u64::MAX)];
    let mut clock = 0;
    let mut lost = false;
    while left > 0 {
        match rng.random_range(0..8) {
            0 => {
                clock += 70;
                house.pass_seconds(70);
            }
            1 => {
                clock += 25;
                house.pass_seconds(25);
            }
            2 => {
                let version = origin.version.fetch_add(1, Ordering::Relaxed);
                changed_at.last_mut().unwrap().1 = clock;
                changed_at.push((version + 1, u64::MAX));
            }
            3 => {
                lost = true;
                house.tier.forget(|| rng.random_bool(0.5));
            }
            4 => {
                lost = true;
                house.tier.forget(|| true);
            }
            _ => {}
        }
        let was_fresh = is_fresh(&house);
        let burst = rng.random_range(1..5).min(left);
        left -= burst;
        let asks: Vec<(Asked, u32)> = (0..burst)
            .map(|_| (ask(&mut rng, &origin), rng.random_range(0..30)))
            .collect();
        join_all(asks.iter().map(|(asked, patience)| {
            let (house, origin, upstream, changed_at) = (&house, &origin, &upstream, &changed_at);
            async move {
                for _ in 0..*patience {
                    tokio::task::yield_now().await;
                }
                let request = request(house, asked);
                let reply = match house.try_hit(&request) {
                    Some(reply) => reply,
                    None => house.serve(request, upstream).await.unwrap(),
                };
                let headers = reply.to_headers();
                let tag = headers["etag"].to_str().unwrap().to_owned();
                let digits: String = tag.chars().filter(char::is_ascii_digit).collect();
                let version: u64 = digits.parse().unwrap();
                let until = changed_at.iter().find(|(v, _)| *v == version).unwrap().1;
                assert!(
                    until == u64::MAX || clock < until + LIFETIME_SECONDS,
                    "version {version} was replaced at {until}, now {clock}"
                );
                // What is stored is answered exactly; what arrives, or passes, may be whole.
                let leeway = Leeway {
                    whole: !was_fresh || !cache_status(&reply).contains("hit"),
                    broken: until != u64::MAX && lost,
                };
                let whole = origin.body(version);
                let context = format!(
                    "{asked:?} of {} bytes: {}",
                    whole.len(),
                    cache_status(&reply)
                );
                let failed = Context(Some(context));
                check(asked, reply, &origin.tag(version), &whole, leeway).await;
                failed.fine();
            }
        }))
        .await;
    }
    house.assert_bytes_add_up();
}

/// Says what was asked when a check fails.
struct Context(Option<String>);

impl Context {
    fn fine(mut self) {
        self.0 = None;
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(context) = &self.0
            && std::thread::panicking()
        {
            eprintln!("failed: {context}");
        }
    }
}

#[tokio::test]
async fn every_range_is_what_a_plain_reference_makes_of_one_version() {
    const LIFE: u64 = 25;
    let cases = setting("STOQ_RANGE_CASES").unwrap_or(10_000);
    let seed = setting("STOQ_TEST_SEED").unwrap_or_else(rand::random);
    println!("STOQ_TEST_SEED={seed} STOQ_RANGE_CASES={cases}");
    for life in 0..cases.div_ceil(LIFE) {
        live(seed.wrapping_add(life), LIFE).await;
    }
}

#[tokio::test]
async fn a_failed_if_match_asks_the_origin_which_may_have_newer() {
    let origin = Arc::new(Origin {
        length: 100,
        version: AtomicU64::new(1),
        strong: true,
        declares: true,
        piece: 100,
    });
    let scripted = Arc::clone(&origin);
    let house = house();
    let upstream = Script::new(move |request, _| std::future::ready(Ok(scripted.answer(&request))));
    house.fetch("/object", &upstream).await;
    origin.version.store(2, Ordering::Relaxed);
    for (tag, status, body_of, fetches) in [
        ("\"v1\"", 200, Some(1), 1),
        ("\"v2\"", 200, Some(2), 2),
        ("\"v3\"", 412, None, 3),
    ] {
        let request = house.get("/object", &[("if-match", tag)]);
        let reply = match house.try_hit(&request) {
            Some(reply) => reply,
            None => house.serve(request, &upstream).await.unwrap(),
        };
        assert_eq!(reply.status().as_u16(), status, "{tag}");
        let expected = body_of.map_or_else(Bytes::new, |version| origin.body(version));
        assert!(body(reply).await.unwrap() == expected, "{tag}");
        assert_eq!(upstream.fetches(), fetches, "{tag}");
    }
}
