//! What the user says of a run, on the command line or in a profile: the same names in both (`--idle-rate`,
//! `idle_rate`), the same values, one rule for each. A flag wins over the profile.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::amount;
use super::workload::Choice;
use super::{Handshake, Idle, Plan, Protocol, Session, Shape, Stop};
use crate::client::{Target, Trust};

/// A number, or a number with its unit: text on the command line, either in a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// With a unit.
    Text(String),
    /// Whole.
    Whole(u64),
    /// With a fraction.
    Fraction(f64),
}

impl Amount {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
        }
    }
}

impl From<String> for Amount {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Everything that can be said of a run. Each key is a flag of the same name, with `-` for `_`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Wishes {
    /// What is asked for: `https://host[:port]/path`, `http://` for HTTP/1.1 in the clear, `stoq://` for a node.
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// What the run is called in tables and plots [default: the URL].
    #[arg(long)]
    pub name: Option<String>,
    /// Version of HTTP: 3, 2 or 1 [default: 3 for https://, 1 for http://].
    #[arg(long, value_name = "3|2|1")]
    pub http: Option<u8>,
    /// Connections [default: 10].
    #[arg(short, long, value_name = "N")]
    pub connections: Option<u32>,
    /// Requests that may be under way on each connection [default: 10; 1 for HTTP/1.1].
    #[arg(short = 'm', long, value_name = "N")]
    pub streams: Option<u32>,
    /// Threads of the client [default: 1].
    #[arg(short, long, value_name = "N")]
    pub threads: Option<u32>,
    /// Open loop: so many requests a second, evenly. Latency counts from when a request was due.
    #[arg(long, value_name = "N/s")]
    pub rate: Option<Amount>,
    /// Open loop: so many requests a second at random times, as independent users make them.
    #[arg(long, value_name = "N/s")]
    pub poisson: Option<Amount>,
    /// Open loop: a rate that goes in a straight line from the first to the second.
    #[arg(long, value_name = "FROM-TO")]
    pub ramp: Option<String>,
    /// Open loop: at the times of --trace, so many times as fast as it was recorded.
    #[arg(long, value_name = "SPEED")]
    pub replay: Option<f64>,
    /// How long requests begin [default: 10s].
    #[arg(short, long, value_name = "TIME")]
    pub duration: Option<Amount>,
    /// Stop after so many requests.
    #[arg(short = 'n', long, value_name = "N")]
    pub requests: Option<u64>,
    /// Before that, the same load without counting [default: 1s].
    #[arg(long, value_name = "TIME")]
    pub warmup: Option<Amount>,
    /// A request that takes longer has failed [default: 10s].
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Amount>,
    /// What a connection is good for: kept, churn=TIME (opened again when so old), or a new one for each request with a
    /// full, resumed or 0-rtt handshake [default: kept].
    #[arg(long, value_name = "kept|churn=TIME|full|resumed|0-rtt")]
    pub session: Option<String>,
    /// Each body is read at no more than so many bytes a second: a slow reader.
    #[arg(long, value_name = "BYTES")]
    pub read_rate: Option<Amount>,
    /// Open so many connections beside the others, hold them, and ask one request on each at the end.
    #[arg(long, value_name = "N")]
    pub idle: Option<u32>,
    /// New idle connections a second [default: 2000].
    #[arg(long, value_name = "N")]
    pub idle_rate: Option<u32>,
    /// How long all idle connections are held [default: 5s].
    #[arg(long, value_name = "TIME")]
    pub idle_hold: Option<Amount>,
    /// How often each shows that it is alive [default: never].
    #[arg(long, value_name = "TIME")]
    pub idle_keep_alive: Option<Amount>,
    /// Send this field with each request. May be repeated.
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Believe the certificates in this PEM file, and no others.
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Believe any certificate.
    #[arg(long)]
    pub insecure: bool,
    /// Connect to ADDR for HOST:PORT instead of looking it up. May be repeated.
    #[arg(long, value_name = "HOST:PORT:ADDR")]
    pub resolve: Vec<String>,
    /// Connect from this local address. May be repeated: connections take them in turn.
    #[arg(long, value_name = "ADDR")]
    pub source: Vec<IpAddr>,
    /// An object may be nothing but zeros; otherwise such a body ends the run.
    #[arg(long)]
    pub zeros: bool,
    /// Whatever is random comes from it [default: random, and printed].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What is asked of the server.
    #[serde(rename = "workload")]
    #[command(flatten)]
    pub choice: Choice,
}

/// A wish that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {reason}")]
pub struct Refused {
    /// Its key, as in a profile.
    pub key: &'static str,
    /// Why not, and what would do.
    pub reason: String,
}

pub(super) fn refused(key: &'static str, reason: impl Into<String>) -> Refused {
    Refused {
        key,
        reason: reason.into(),
    }
}

/// Takes a value out of its text, or refuses the key.
pub(super) fn read<T>(
    key: &'static str,
    amount: Option<&Amount>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Refused> {
    let text = amount.map(Amount::text);
    text.map(|text| parse(&text).map_err(|reason| refused(key, reason)))
        .transpose()
}

impl Wishes {
    /// These, and where they say nothing, `under`.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        fn list<T>(over: Vec<T>, under: Vec<T>) -> Vec<T> {
            if over.is_empty() { under } else { over }
        }
        let paced = [&self.rate, &self.poisson].into_iter().any(Option::is_some);
        // One shape of load on the command line takes the place of another in the profile.
        let shaped = paced || self.ramp.is_some() || self.replay.is_some();
        Self {
            url: self.url.or(under.url),
            name: self.name.or(under.name),
            http: self.http.or(under.http),
            connections: self.connections.or(under.connections),
            streams: self.streams.or(under.streams),
            threads: self.threads.or(under.threads),
            rate: self.rate.or_else(|| under.rate.filter(|_| !shaped)),
            poisson: self.poisson.or_else(|| under.poisson.filter(|_| !shaped)),
            ramp: self.ramp.or_else(|| under.ramp.filter(|_| !shaped)),
            replay: self.replay.or_else(|| under.replay.filter(|_| !shaped)),
            duration: self.duration.or(under.duration),
            requests: self.requests.or(under.requests),
            warmup: self.warmup.or(under.warmup),
            timeout: self.timeout.or(under.timeout),
            session: self.session.or(under.session),
            read_rate: self.read_rate.or(under.read_rate),
            idle: self.idle.or(under.idle),
            idle_rate: self.idle_rate.or(under.idle_rate),
            idle_hold: self.idle_hold.or(under.idle_hold),
            idle_keep_alive: self.idle_keep_alive.or(under.idle_keep_alive),
            header: list(self.header, under.header),
            cacert: self.cacert.or(under.cacert),
            insecure: self.insecure || under.insecure,
            resolve: list(self.resolve, under.resolve),
            source: list(self.source, under.source),
            zeros: self.zeros || under.zeros,
            seed: self.seed.or(under.seed),
            choice: self.choice.over(under.choice),
        }
    }

    /// What the run is called.
    #[must_use]
    pub fn title(&self) -> String {
        let name = self.name.as_deref().or(self.url.as_deref());
        name.unwrap_or("run").to_owned()
    }

    /// The plan. `node` is the target where the URL begins with `stoq://`.
    ///
    /// # Errors
    /// The key that cannot be granted, why, and what would do.
    pub fn plan(&self, node: Option<Target>) -> Result<Plan, Refused> {
        let url = self.url.as_deref();
        let url =
            url.ok_or_else(|| refused("url", "what is to be asked for? `https://host/path`"))?;
        let stoq = url.starts_with("stoq://");
        let target = self.target(url, node)?;
        let protocol = self.protocol(url)?;
        let session = self.session(protocol, url)?;
        let shape = self.shape()?;
        let duration = read("duration", self.duration.as_ref(), amount::duration)?;
        let duration = duration.unwrap_or(Duration::from_secs(10));
        if duration.is_zero() {
            return Err(refused("duration", "a run of no time measures nothing"));
        }
        let timeout = read("timeout", self.timeout.as_ref(), amount::duration)?;
        let timeout = timeout.unwrap_or(Duration::from_secs(10));
        if timeout.is_zero() {
            return Err(refused("timeout", "no request is answered in no time"));
        }
        if self.requests == Some(0) {
            return Err(refused("requests", "at least 1, or leave it out"));
        }
        let streams = self.streams(protocol, session)?;
        let read_rate = read("read_rate", self.read_rate.as_ref(), amount::bytes)?;
        if read_rate == Some(0) {
            return Err(refused(
                "read_rate",
                "who reads nothing never ends; at least 1",
            ));
        }
        let warmup = read("warmup", self.warmup.as_ref(), amount::duration)?;
        // Fewer than 2^53: a reader of the result that knows but floating point gets it whole.
        let seed = self.seed.unwrap_or_else(|| rand::random::<u64>() >> 11);
        Ok(Plan {
            target,
            protocol,
            shape,
            connections: at_least_one("connections", self.connections, 10)?,
            streams,
            threads: at_least_one("threads", self.threads, 1)?,
            sources: self.source.clone(),
            stop: Stop {
                duration,
                requests: self.requests,
            },
            warmup: warmup.unwrap_or(Duration::from_secs(1)),
            timeout,
            workload: Arc::new(self.choice.workload(url, stoq, seed)?),
            fields: self.fields()?,
            session,
            read_rate,
            zeros: self.zeros,
            idle: self.idle()?,
            seed,
        })
    }

    fn target(&self, url: &str, node: Option<Target>) -> Result<Target, Refused> {
        if url.starts_with("stoq://") {
            return node.ok_or_else(|| {
                refused(
                    "url",
                    "a `stoq://` target needs `--identity FILE --root FILE`",
                )
            });
        }
        // What fills in the place of an object is no part of a URL.
        let plain = url.replace(['{', '}'], "");
        let mut target = Target::new(&plain).map_err(|error| refused("url", error.to_string()))?;
        if let Some(path) = &self.cacert {
            if self.insecure {
                return Err(refused("insecure", "and `cacert`: one or the other"));
            }
            let pem = std::fs::read(path)
                .map_err(|error| refused("cacert", format!("{}: {error}", path.display())))?;
            target = target.trusting(Trust::Pem(pem));
        } else if self.insecure {
            target = target.trusting(Trust::Insecure);
        }
        for text in &self.resolve {
            let (host, address) = resolve(text).map_err(|reason| refused("resolve", reason))?;
            if host.eq_ignore_ascii_case(target.host()) && address.port() == target.port() {
                target = target.at(address);
            }
        }
        Ok(target)
    }

    fn protocol(&self, url: &str) -> Result<Protocol, Refused> {
        let (secure, stoq) = (url.starts_with("https://"), url.starts_with("stoq://"));
        match self.http {
            Some(_) if stoq => Err(refused("http", "a `stoq://` target speaks STOQ")),
            None if stoq => Ok(Protocol::Stoq),
            Some(3) if !secure => Err(refused("http", "HTTP/3 is spoken over https:// only")),
            None if secure => Ok(Protocol::Http3),
            None => Ok(Protocol::Http1),
            Some(3) => Ok(Protocol::Http3),
            Some(2) => Ok(Protocol::Http2),
            Some(1) => Ok(Protocol::Http1),
            Some(other) => Err(refused("http", format!("{other} is none of 3, 2, 1"))),
        }
    }

    fn streams(&self, protocol: Protocol, session: Session) -> Result<u32, Refused> {
        let alone = match (protocol, session) {
            (Protocol::Http1, _) => Some("HTTP/1.1 has one request at a time on a connection"),
            (_, Session::PerRequest(_)) => Some("a connection for each request carries one"),
            _ => None,
        };
        match alone {
            Some(_) if self.streams.is_none_or(|streams| streams == 1) => Ok(1),
            Some(why) => Err(refused(
                "streams",
                format!("{why}; more `connections` instead"),
            )),
            None => at_least_one("streams", self.streams, 10),
        }
    }

    fn shape(&self) -> Result<Shape, Refused> {
        let given = [
            ("rate", self.rate.is_some()),
            ("poisson", self.poisson.is_some()),
            ("ramp", self.ramp.is_some()),
            ("replay", self.replay.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            return Err(refused(
                second,
                format!("and `{first}`: one of them shapes the load"),
            ));
        }
        let above_zero = |key, rate: f64| {
            if rate > 0.0 {
                Ok(rate)
            } else {
                Err(refused(key, "a rate above 0"))
            }
        };
        if let Some(rate) = read("rate", self.rate.as_ref(), amount::rate)? {
            let rate = above_zero("rate", rate)?;
            return Ok(Shape::Constant { rate });
        }
        if let Some(rate) = read("poisson", self.poisson.as_ref(), amount::rate)? {
            let rate = above_zero("poisson", rate)?;
            return Ok(Shape::Poisson { rate });
        }
        if let Some(speed) = self.replay {
            if self.choice.trace.is_none() {
                return Err(refused(
                    "replay",
                    "the times are those of a `trace`: it is missing",
                ));
            }
            if !(speed > 0.0 && speed.is_finite()) {
                return Err(refused("replay", "a speed above 0; 1 is as recorded"));
            }
            return Ok(Shape::Recorded { speed });
        }
        let Some(ramp) = &self.ramp else {
            return Ok(Shape::Closed);
        };
        let wrong = |reason: String| refused("ramp", reason);
        let (from, to) = ramp
            .split_once('-')
            .ok_or_else(|| wrong("FROM-TO, as in `0-1000/s`".to_owned()))?;
        let from = amount::rate(from).map_err(wrong)?;
        let to = amount::rate(to).map_err(wrong)?;
        if from <= 0.0 && to <= 0.0 {
            return Err(wrong("a ramp from 0 to 0 sends nothing".to_owned()));
        }
        Ok(Shape::Ramp { from, to })
    }

    fn session(&self, protocol: Protocol, url: &str) -> Result<Session, Refused> {
        let wrong = |reason: &str| Err(refused("session", reason));
        let session = match self.session.as_deref() {
            None | Some("kept") => Session::Kept,
            Some("full") => Session::PerRequest(Handshake::Full),
            Some("resumed") => Session::PerRequest(Handshake::Resumed),
            Some("0-rtt") => Session::PerRequest(Handshake::EarlyData),
            Some(other) => match other.strip_prefix("churn=") {
                Some(age) => {
                    let age = amount::duration(age).map_err(|reason| refused("session", reason))?;
                    if age.is_zero() {
                        return wrong("`churn=0` is `full`: a connection for each request");
                    }
                    Session::Churn(age)
                }
                None => {
                    return wrong(&format!(
                        "`{other}` is none of kept, churn=TIME, full, resumed, 0-rtt"
                    ));
                }
            },
        };
        match session {
            Session::PerRequest(Handshake::Resumed | Handshake::EarlyData)
                if protocol == Protocol::Stoq || url.starts_with("http://") =>
            {
                wrong("only HTTP over TLS can be resumed")
            }
            _ => Ok(session),
        }
    }

    fn idle(&self) -> Result<Option<Idle>, Refused> {
        let Some(connections) = self.idle else {
            let alone = [
                ("idle_rate", self.idle_rate.is_some()),
                ("idle_hold", self.idle_hold.is_some()),
                ("idle_keep_alive", self.idle_keep_alive.is_some()),
            ];
            return match alone.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(refused(key, "says how, and `idle` how many: it is missing")),
                None => Ok(None),
            };
        };
        if connections == 0 {
            return Err(refused("idle", "at least 1, or leave it out"));
        }
        let hold = read("idle_hold", self.idle_hold.as_ref(), amount::duration)?;
        let keep_alive = read(
            "idle_keep_alive",
            self.idle_keep_alive.as_ref(),
            amount::duration,
        )?;
        if keep_alive.is_some_and(|every| every < Duration::from_secs(1)) {
            return Err(refused("idle_keep_alive", "at least 1s: idle is idle"));
        }
        Ok(Some(Idle {
            connections,
            rate: at_least_one("idle_rate", self.idle_rate, 2000)?,
            hold: hold.unwrap_or(Duration::from_secs(5)),
            keep_alive,
        }))
    }

    fn fields(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Refused> {
        self.header
            .iter()
            .map(|text| {
                let wrong = |what: &str| refused("header", format!("`{text}`: {what}"));
                let (name, value) = text
                    .split_once(':')
                    .ok_or_else(|| wrong("not `Name: value`"))?;
                let name = name.trim().parse().map_err(|_| wrong("no field name"))?;
                let value = value.trim().parse().map_err(|_| wrong("no field value"))?;
                Ok((name, value))
            })
            .collect()
    }
}

fn at_least_one(key: &'static str, value: Option<u32>, default: u32) -> Result<u32, Refused> {
    match value {
        Some(0) => Err(refused(key, "at least 1")),
        value => Ok(value.unwrap_or(default)),
    }
}

/// `HOST:PORT:ADDR`, as curl writes it; an IPv6 ADDR may stand in brackets.
///
/// # Errors
/// What is wrong with it.
pub fn resolve(text: &str) -> Result<(String, SocketAddr), String> {
    let wrong = || format!("`{text}` is not HOST:PORT:ADDR");
    let (host, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (port, address) = rest.split_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("`{address}` is no IP address"))?;
    Ok((host.to_owned(), SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            url: Some("https://a.test/x".to_owned()),
            ..Wishes::default()
        }
    }

    fn text(text: &str) -> Option<Amount> {
        Some(Amount::Text(text.to_owned()))
    }

    #[test]
    fn a_url_alone_is_a_run() {
        let plan = wishes().plan(None).unwrap();
        assert_eq!(plan.protocol, Protocol::Http3);
        assert_eq!(plan.shape, Shape::Closed);
        assert_eq!((plan.connections, plan.streams, plan.threads), (10, 10, 1));
        assert_eq!(plan.stop.duration, Duration::from_secs(10));
        assert_eq!(plan.warmup, Duration::from_secs(1));
        assert_eq!(plan.workload.describe(), "/x");
    }

    #[test]
    fn a_flag_wins_over_the_profile_and_one_shape_over_another() {
        let flags = Wishes {
            connections: Some(3),
            poisson: text("5/s"),
            ..Wishes::default()
        };
        let profile = Wishes {
            connections: Some(7),
            streams: Some(4),
            rate: text("100/s"),
            ..wishes()
        };
        let plan = flags.over(profile).plan(None).unwrap();
        assert_eq!((plan.connections, plan.streams), (3, 4));
        assert_eq!(plan.shape, Shape::Poisson { rate: 5.0 });
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key_and_reason() {
        let cases: [(Wishes, &str, &str); 22] = [
            (
                Wishes {
                    url: None,
                    ..wishes()
                },
                "url",
                "https://host",
            ),
            (
                Wishes {
                    url: Some("a.test".to_owned()),
                    ..wishes()
                },
                "url",
                "https://",
            ),
            (
                Wishes {
                    url: Some("stoq://a:1".to_owned()),
                    ..wishes()
                },
                "url",
                "--identity",
            ),
            (
                Wishes {
                    http: Some(4),
                    ..wishes()
                },
                "http",
                "3, 2, 1",
            ),
            (
                Wishes {
                    http: Some(3),
                    url: Some("http://a/".to_owned()),
                    ..wishes()
                },
                "http",
                "https://",
            ),
            (
                Wishes {
                    connections: Some(0),
                    ..wishes()
                },
                "connections",
                "at least 1",
            ),
            (
                Wishes {
                    http: Some(1),
                    streams: Some(2),
                    ..wishes()
                },
                "streams",
                "one request at a time",
            ),
            (
                Wishes {
                    session: Some("full".to_owned()),
                    streams: Some(2),
                    ..wishes()
                },
                "streams",
                "for each request",
            ),
            (
                Wishes {
                    rate: text("1"),
                    ramp: Some("0-5".to_owned()),
                    ..wishes()
                },
                "ramp",
                "`rate`",
            ),
            (
                Wishes {
                    rate: text("0"),
                    ..wishes()
                },
                "rate",
                "above 0",
            ),
            (
                Wishes {
                    rate: text("10/h"),
                    ..wishes()
                },
                "rate",
                "/s or /m",
            ),
            (
                Wishes {
                    ramp: Some("5".to_owned()),
                    ..wishes()
                },
                "ramp",
                "FROM-TO",
            ),
            (
                Wishes {
                    ramp: Some("0-0".to_owned()),
                    ..wishes()
                },
                "ramp",
                "nothing",
            ),
            (
                Wishes {
                    duration: text("0s"),
                    ..wishes()
                },
                "duration",
                "nothing",
            ),
            (
                Wishes {
                    requests: Some(0),
                    ..wishes()
                },
                "requests",
                "at least 1",
            ),
            (
                Wishes {
                    timeout: text("soon"),
                    ..wishes()
                },
                "timeout",
                "number",
            ),
            (
                Wishes {
                    session: Some("cold".to_owned()),
                    ..wishes()
                },
                "session",
                "0-rtt",
            ),
            (
                Wishes {
                    session: Some("0-rtt".to_owned()),
                    url: Some("http://a/".to_owned()),
                    ..wishes()
                },
                "session",
                "TLS",
            ),
            (
                Wishes {
                    idle_hold: text("5s"),
                    ..wishes()
                },
                "idle_hold",
                "`idle`",
            ),
            (
                Wishes {
                    idle: Some(5),
                    idle_keep_alive: text("10ms"),
                    ..wishes()
                },
                "idle_keep_alive",
                "1s",
            ),
            (
                Wishes {
                    header: vec!["x".to_owned()],
                    ..wishes()
                },
                "header",
                "Name: value",
            ),
            (
                Wishes {
                    resolve: vec!["a:b".to_owned()],
                    ..wishes()
                },
                "resolve",
                "HOST:PORT:ADDR",
            ),
        ];
        for (wishes, key, part) in cases {
            let refused = wishes.plan(None).unwrap_err();
            assert_eq!(refused.key, key, "{refused}");
            assert!(refused.reason.contains(part), "{refused} / {part}");
        }
    }

    #[test]
    fn an_address_takes_the_place_of_a_lookup_for_its_host_alone() {
        let resolving = |entry: &str| Wishes {
            resolve: vec![entry.to_owned()],
            ..wishes()
        };
        let target = resolving("A.test:443:[::1]").plan(None).unwrap().target;
        assert_eq!(target.resolve().unwrap(), "[::1]:443".parse().unwrap());
        assert_eq!(
            resolve("a:1:127.0.0.1"),
            Ok(("a".to_owned(), "127.0.0.1:1".parse().unwrap()))
        );
    }
}
