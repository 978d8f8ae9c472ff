//! What a directory answers: heads with types and validators, preconditions, one range, and the few refusals.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_RANGE,
    LAST_MODIFIED, LOCATION,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::file::Opened;
use super::path::Target;
use crate::http::conditional::{self, Condition};
use crate::http::facts::RequestFacts;
use crate::http::range::{RangeSet, Selected, Slice, content_range, if_range_holds, unsatisfied};
use crate::http::validator::EntityTag;
use crate::time::Timestamp;
use crate::upstream::{FetchBody, FetchRequest, FetchResponse, Source};

/// A file, or as much of it as was asked for, or nothing if the client has it.
pub(super) fn file(
    request: &FetchRequest,
    target: &Target,
    file: Opened,
    now: SystemTime,
) -> FetchResponse {
    let length = file.version.len;
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(DATE, date(now));
    headers.insert(ETAG, file.version.tag(now));
    headers.insert(LAST_MODIFIED, date(file.version.last_modified(now)));
    let facts = RequestFacts {
        method: &request.method,
        headers: &request.headers,
    };
    match conditional::evaluate(&facts, &headers, Timestamp::from(now)) {
        Condition::Holds => {}
        Condition::NotModified => {
            return response(StatusCode::NOT_MODIFIED, headers, FetchBody::Empty);
        }
        Condition::Failed => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            return response(StatusCode::PRECONDITION_FAILED, headers, FetchBody::Empty);
        }
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, content_type(target.name()));
    let head_only = request.method == Method::HEAD;
    let (status, slice) = match asked(&facts, &headers, length) {
        Asked::Whole => (
            StatusCode::OK,
            Slice {
                start: 0,
                end: length,
            },
        ),
        Asked::Part(slice) => {
            headers.extend(content_range(slice, Some(length)).map(|value| (CONTENT_RANGE, value)));
            (StatusCode::PARTIAL_CONTENT, slice)
        }
        Asked::Beyond => {
            headers.remove(CONTENT_TYPE);
            headers.insert(CONTENT_RANGE, unsatisfied(length));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            return response(StatusCode::RANGE_NOT_SATISFIABLE, headers, FetchBody::Empty);
        }
    };
    let Slice { start, end } = slice;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    let body = if head_only || start == end {
        FetchBody::Empty
    } else {
        FetchBody::Stream(file.read(start, end))
    };
    response(status, headers, body)
}

/// To the same directory with a slash, for links in its index are relative to that.
pub(super) fn redirect(target: &Target, query: Option<&str>, head_only: bool) -> FetchResponse {
    let mut location = target.as_directory();
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = short(
        StatusCode::MOVED_PERMANENTLY,
        "The directory is here, with a slash.\n",
        head_only,
    );
    response.headers.insert(LOCATION, text(location));
    response
}

pub(super) fn not_found(head_only: bool) -> FetchResponse {
    short(StatusCode::NOT_FOUND, "Not found.\n", head_only)
}

pub(super) fn forbidden(head_only: bool) -> FetchResponse {
    short(
        StatusCode::FORBIDDEN,
        "The file may not be read.\n",
        head_only,
    )
}

pub(super) fn method_not_allowed() -> FetchResponse {
    let mut response = short(
        StatusCode::METHOD_NOT_ALLOWED,
        "Only GET and HEAD.\n",
        false,
    );
    response
        .headers
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn short(status: StatusCode, words: &'static str, head_only: bool) -> FetchResponse {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(DATE, date(SystemTime::now()));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(words.len()));
    let body = if head_only {
        FetchBody::Empty
    } else {
        FetchBody::Stream(stream::iter([Ok(Bytes::from_static(words.as_bytes()))]).boxed())
    };
    response(status, headers, body)
}

fn response(status: StatusCode, headers: HeaderMap, body: FetchBody) -> FetchResponse {
    FetchResponse {
        status,
        headers,
        body,
        via: Source::Origin,
        upstream_cache_status: None,
    }
}

/// By the name's ending; text says its encoding, since nothing else will.
fn content_type(name: &str) -> HeaderValue {
    let guess = mime_guess::from_path(name).first_or_octet_stream();
    let value = if guess.type_() == mime_guess::mime::TEXT {
        format!("{}; charset=utf-8", guess.essence_str())
    } else {
        guess.essence_str().to_owned()
    };
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// What part of the file a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Slice),
    Beyond,
}

/// One part is answered; several, another unit or nonsense is answered with the whole, as RFC 9110 §14.2 allows.
fn asked(facts: &RequestFacts<'_>, stored: &HeaderMap, length: u64) -> Asked {
    let Some(ranges) = RangeSet::of(facts) else {
        return Asked::Whole;
    };
    if let Some(condition) = facts.headers.get(IF_RANGE) {
        // A date would be a strong validator only if we knew that the file did not change twice within that second
        // (RFC 9110 §8.8.2.2), which we do not.
        let tag = EntityTag::parse(condition.as_bytes()).is_some();
        if !tag || !if_range_holds(facts.headers, stored) {
            return Asked::Whole;
        }
    }
    match ranges.within(length) {
        Selected::Parts(parts) => match parts.as_slice() {
            [part] => Asked::Part(*part),
            _ => Asked::Whole,
        },
        Selected::Whole => Asked::Whole,
        Selected::Nothing => Asked::Beyond,
    }
}

fn date(time: SystemTime) -> HeaderValue {
    text(httpdate::fmt_http_date(time))
}

fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("digits, dates and encoded paths are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_its_encoding_and_the_unknown_is_octets() {
        assert_eq!(content_type("a.html"), "text/html; charset=utf-8");
        assert_eq!(content_type("a.png"), "image/png");
        assert_eq!(content_type("a"), "application/octet-stream");
    }
}
