//! One access record: what is written of a request, as one JSON object or one line for people. Pure.
//!
//! Never written: `Authorization`, `Cookie`, any other request field beyond the two below, and the values of query
//! parameters whose name speaks of a secret. The access log outlives sessions and is read by many.

use std::fmt::Write as _;
use std::io::Write as _;

use http::header::{HeaderName, REFERER, USER_AGENT};
use serde::Serialize;
use stoq_cache::time::Timestamp;

use super::metrics::{UNANSWERED, end_word};
use crate::service::{RequestView, Sent};
use stoq_cache::http::cache_status::CacheStatus;

/// Bytes kept of each piece of text that a client chooses; the rest is cut off.
const TEXT_BYTES_MAX: usize = 1024;

/// Parts of parameter names that stand for secrets.
const SECRET_NAMES: [&str; 8] = [
    "token", "secret", "sig", "key", "pass", "auth", "cred", "session",
];

#[derive(Debug, Serialize)]
struct Record<'a> {
    time: &'a str,
    client: std::net::IpAddr,
    connection: u64,
    protocol: &'static str,
    method: &'a str,
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
    site: Option<&'a str>,
    status: Option<u16>,
    outcome: &'static str,
    end: &'static str,
    bytes: u64,
    request_bytes: u64,
    head_us: Option<u64>,
    total_us: u64,
    inline: bool,
    referer: Option<&'a str>,
    user_agent: Option<&'a str>,
}

/// Everything about one request that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) request: &'a RequestView<'a>,
    pub(crate) site: Option<&'a str>,
    pub(crate) outcome: Option<CacheStatus>,
    pub(crate) sent: &'a Sent,
    pub(crate) now: Timestamp,
}

/// Appends the record and a line feed to `out`.
pub(crate) fn write(out: &mut Vec<u8>, json: bool, ended: Ended<'_>) {
    let Ended {
        request,
        site,
        outcome,
        sent,
        now,
    } = ended;
    let mut time = String::with_capacity(24);
    push_time(&mut time, now);
    let mut path = String::with_capacity(request.path_and_query.as_str().len().min(TEXT_BYTES_MAX));
    push_target(&mut path, cut(request.path_and_query.as_str()));
    let record = Record {
        time: &time,
        client: request.peer.ip().to_canonical(),
        connection: request.connection.id,
        protocol: match request.version {
            http::Version::HTTP_3 => "HTTP/3",
            http::Version::HTTP_2 => "HTTP/2",
            http::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        method: cut(request.method.as_str()),
        scheme: request.scheme.as_str(),
        host: cut(request.authority.map_or("", |authority| authority.as_str())),
        path: &path,
        site,
        status: sent.status.map(|status| status.as_u16()),
        outcome: outcome.map_or(UNANSWERED, CacheStatus::word),
        end: end_word(sent.end),
        bytes: sent.body_bytes,
        request_bytes: sent.request_body_bytes,
        head_us: sent
            .head_after
            .map(|after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX)),
        total_us: u64::try_from(sent.total.as_micros()).unwrap_or(u64::MAX),
        inline: sent.inline,
        referer: field(request, &REFERER),
        user_agent: field(request, &USER_AGENT),
    };
    let start = out.len();
    let written = if json {
        serde_json::to_writer(&mut *out, &record).is_ok()
    } else {
        line(out, &record).is_ok()
    };
    if written {
        out.push(b'\n');
    } else {
        // A `Vec` takes every write, so only a bug comes here; half a record would spoil the next.
        out.truncate(start);
    }
}

/// The record for people, close to the combined format of web servers.
fn line(out: &mut Vec<u8>, record: &Record<'_>) -> std::io::Result<()> {
    let Record {
        time,
        client,
        method,
        scheme,
        host,
        path,
        protocol,
        ..
    } = record;
    write!(
        out,
        "{time} {client} \"{method} {scheme}://{host}{} {protocol}\" ",
        path.escape_debug()
    )?;
    match record.status {
        Some(status) => write!(out, "{status}")?,
        None => write!(out, "-")?,
    }
    let seconds = std::time::Duration::from_micros(record.total_us).as_secs_f64();
    write!(
        out,
        " {} {} {} {seconds:.6}",
        record.bytes, record.outcome, record.end
    )?;
    for text in [record.referer, record.user_agent] {
        match text {
            Some(text) => write!(out, " \"{}\"", text.escape_debug())?,
            None => write!(out, " \"-\"")?,
        }
    }
    Ok(())
}

fn field<'a>(request: &RequestView<'a>, name: &HeaderName) -> Option<&'a str> {
    request
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(cut)
}

/// At most [`TEXT_BYTES_MAX`] bytes of `text`, whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Writes path and query, leaving out the values of secret parameters.
fn push_target(out: &mut String, target: &str) {
    let Some((path, query)) = target.split_once('?') else {
        out.push_str(target);
        return;
    };
    out.push_str(path);
    for (position, pair) in query.split('&').enumerate() {
        out.push(if position == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => {
                out.push_str(name);
                out.push_str("=***");
            }
            _ => out.push_str(pair),
        }
    }
}

fn is_secret(name: &str) -> bool {
    let bytes = name.as_bytes();
    SECRET_NAMES.iter().any(|part| {
        bytes
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
    })
}

/// `2026-11-21T04:05:06.789Z`.
fn push_time(out: &mut String, now: Timestamp) {
    let (millis, seconds) = (now.0 % 1000, now.as_secs());
    let (day, in_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to the Gregorian calendar, counted in eras of 400 years that start on 1 March.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    // Writing to a `String` cannot fail.
    let _ = write!(
        out,
        "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::super::sample;
    use super::*;
    use crate::service::End;

    fn sent() -> Sent {
        Sent {
            status: Some(StatusCode::OK),
            body_bytes: 12,
            request_body_bytes: 0,
            head_after: Some(Duration::from_micros(80)),
            total: Duration::from_micros(1500),
            end: End::Complete,
            inline: true,
        }
    }

    fn written(request: &str, json: bool) -> String {
        let head = sample::head(request);
        let mut out = Vec::new();
        let ended = Ended {
            request: &head.view(),
            site: Some("a"),
            outcome: Some(CacheStatus::Hit),
            sent: &sent(),
            now: Timestamp(1_795_233_906_789),
        };
        write(&mut out, json, ended);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_record_is_one_line_of_json() {
        let text = written(
            "GET https://a.test/x?y=1 3\nuser-agent: a \"b\"\nauthorization: Bearer hidden",
            true,
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains("hidden"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["outcome"], "hit");
        assert_eq!(json["path"], "/x?y=1");
        assert_eq!(json["user_agent"], "a \"b\"");
        assert_eq!(
            (json["status"].as_u64(), json["bytes"].as_u64()),
            (Some(200), Some(12))
        );
        assert_eq!(json["time"], "2026-11-21T04:05:06.789Z");
    }

    #[test]
    fn the_text_form_cannot_be_forged_by_a_client() {
        let text = written(
            "GET https://a.test/ 3\nuser-agent: x\" 200 \"\treferer: y",
            false,
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains("\"GET https://a.test/ HTTP/3\" 200 12 hit complete 0.001500 \"-\" \"x\\\" 200 \\\"\\t"), "{text}");
    }

    #[test]
    fn secrets_in_the_query_are_left_out() {
        for (target, want) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?b=1&c", "/a?b=1&c"),
            ("/a?X-Amz-Signature=abc&b=2", "/a?X-Amz-Signature=***&b=2"),
            ("/a?access_token=abc", "/a?access_token=***"),
            ("/a?API_KEY=a=b", "/a?API_KEY=***"),
        ] {
            let mut out = String::new();
            push_target(&mut out, target);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn times_are_calendar_dates() {
        for (millis, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = String::new();
            push_time(&mut out, Timestamp(millis));
            assert_eq!(out, want);
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut(&"x".repeat(2000)).len(), TEXT_BYTES_MAX);
        assert_eq!(cut(&format!("{}é", "x".repeat(1023))).len(), 1023);
    }
}
