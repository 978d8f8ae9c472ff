//! Takes each case of a table through a whole edge six ways: HTTP/3, HTTP/2, HTTP/1.1, each with and without a shield.
//!
//! Nothing waits for time to pass: an origin that wants its response old says so in `Age`, or in a `Date` of long ago.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use integration::{Answer, Client, Cluster, Origin, Payload, Running, Seen, Version, until};

use crate::case::{Case, Step, Want};

const EACH: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// How long a background refresh may take to be seen.
const EVENTUALLY: Duration = Duration::from_secs(20);

/// An answer, read to its end.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    /// All lines of a field, joined.
    fn field(&self, name: &str) -> Option<String> {
        lines(&self.headers, name)
    }

    /// What the cache whose name begins like this wrote into `Cache-Status` behind its name.
    fn said(&self, cache: &str) -> String {
        let field = self.field("cache-status").unwrap_or_default();
        let member = field.split(", ").find(|member| member.starts_with(cache));
        let said = member.and_then(|member| member.split_once("; "));
        said.map(|(_, said)| said.to_owned()).unwrap_or_default()
    }
}

fn lines(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(name).iter();
    let lines: Vec<_> = lines
        .map(|line| String::from_utf8_lossy(line.as_bytes()))
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// Where a case is walked through.
struct Place<'a> {
    origin: &'a Origin,
    cluster: &'a Running,
    clients: &'a [Client],
    path: String,
    began: Instant,
}

/// Walks through all cases, all ways.
///
/// # Panics
/// With everything that was not as it must be.
pub(crate) async fn run(cases: Vec<Case>) {
    let cases = Arc::new(cases);
    let origin = Origin::start({
        let cases = Arc::clone(&cases);
        move |seen| {
            let answer = answer(&cases, &seen);
            async move { answer }
        }
    })
    .await;
    let (mut wrong, mut answers) = (Vec::new(), 0);
    for shielded in [false, true] {
        let cluster = Cluster::new().origin(&origin);
        let cluster = match shielded {
            true => cluster.shield().edges(2).start().await,
            false => cluster.start().await,
        };
        for version in EACH {
            let mut clients = Vec::new();
            for edge in &cluster.edges {
                clients.push(edge.client(version).await);
            }
            for (number, case) in cases.iter().enumerate() {
                let place = Place {
                    origin: &origin,
                    cluster: &cluster,
                    clients: &clients,
                    path: format!("/{number}/{shielded}/{version:?}"),
                    began: Instant::now(),
                };
                for (at, step) in case.steps.iter().enumerate() {
                    if step.elsewhere && !shielded {
                        continue;
                    }
                    answers += 1;
                    if let Err(said) = take(&place, step).await {
                        let tiers = if shielded { "with" } else { "without" };
                        wrong.push(format!(
                            "{}: {version}, {tiers} a shield, request {}: {said}",
                            case.name,
                            at + 1
                        ));
                        // What follows builds upon it.
                        break;
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    println!("{} cases, {answers} answers", cases.len());
}

fn answer(cases: &[Case], seen: &Seen) -> Answer {
    let number = seen.uri.path().split('/').nth(1);
    let case = number.and_then(|number| cases.get(number.parse::<usize>().ok()?));
    case.map_or_else(|| Answer::status(501), |case| (case.script)(seen))
}

/// One request and what is wanted of it.
async fn take(place: &Place<'_>, step: &Step) -> Result<(), String> {
    let path = format!("{}{}", place.path, step.below);
    let client = &place.clients[usize::from(step.elsewhere)];
    let deadline = Instant::now() + EVENTUALLY;
    loop {
        let got = send(client, step, &path).await?;
        settled(place.cluster).await;
        let seen = check(place, step, &path, &got);
        match seen {
            Err(_) if step.eventually && Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            seen => {
                return seen.map_err(|wrong| {
                    let status = got.field("cache-status").unwrap_or_default();
                    format!("{wrong} ({} {:?}; {status})", got.status, got.body)
                });
            }
        }
    }
}

async fn send(client: &Client, step: &Step, path: &str) -> Result<Got, String> {
    let payload = match step.method {
        "GET" | "HEAD" | "OPTIONS" => Payload::empty(),
        _ => Payload::bytes("change"),
    };
    let mut request = Request::builder().method(step.method).uri(path);
    for (name, value) in &step.fields {
        request = request.header(*name, *value);
    }
    let request = request.body(payload).map_err(|error| error.to_string())?;
    let answer = client.send(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let (status, headers) = (answer.status.as_u16(), answer.headers.clone());
    let body = answer.bytes(1 << 20).await;
    Ok(Got {
        status,
        headers,
        body: body.map_err(|error| error.to_string())?,
    })
}

/// Waits until nothing fills any more: a body that was read whole may not be stored yet.
async fn settled(cluster: &Running) {
    until("nothing fills any more", || {
        let edges = cluster.edges.iter();
        let mut open = edges.map(|edge| edge.metric("stoq_cache_fills_open", &[]));
        let shield = cluster.shields.first();
        let behind = shield.map_or(0.0, |shield| shield.metric("stoq_cache_fills_open", &[]));
        open.all(|open| open == 0.0) && behind == 0.0
    })
    .await;
}

fn check(place: &Place<'_>, step: &Step, path: &str, got: &Got) -> Result<(), String> {
    for want in &step.wants {
        let found = match *want {
            Want::Status(status) => got.status == status,
            Want::Body(body) => got.body == body,
            Want::Has(name, value) => got.field(name).as_deref() == Some(value),
            Want::Lacks(name) => got.field(name).is_none(),
            Want::Age(seconds) => {
                let age = got.field("age").unwrap_or_else(|| "0".to_owned());
                let passed = place.began.elapsed().as_secs() + 1;
                let range = seconds..=seconds + passed;
                age.parse().is_ok_and(|age| range.contains(&age))
            }
            Want::Edge(said) => got.said("edge-").starts_with(said),
            Want::Shield(said) => {
                place.cluster.shields.is_empty() || got.said("shield-").starts_with(said)
            }
            Want::Nearest(said) => {
                let shield = !place.cluster.shields.is_empty();
                let cache = if shield { "shield-" } else { "edge-" };
                got.said(cache).starts_with(said)
            }
            Want::Asked(times) => place.origin.requests(path) == times,
            Want::Told(name, value) => {
                let seen = place.origin.seen();
                let mut last = seen.iter().rev().filter(|seen| seen.uri.path() == path);
                last.next()
                    .is_some_and(|seen| lines(&seen.headers, name).unwrap_or_default() == value)
            }
        };
        if !found {
            let field = match want {
                Want::Has(name, _) | Want::Lacks(name) => got.field(name),
                Want::Age(_) => got.field("age"),
                Want::Asked(_) => Some(place.origin.requests(path).to_string()),
                _ => None,
            };
            return Err(format!("not {want:?}, but {field:?}"));
        }
    }
    Ok(())
}
