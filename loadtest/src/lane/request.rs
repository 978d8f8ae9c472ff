//! What all requests of a run have in common, in the terms of HTTP/1.1 and HTTP/2.

use http::header::{CONTENT_LENGTH, HOST, RANGE, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};

use super::Failure;
use crate::client::ClientError;
use crate::plan::Plan;
use crate::workload::{Ask, Verb};

/// Scheme, authority and fields of every request.
#[derive(Debug, Clone)]
pub(super) struct Common {
    /// `http` or `https`.
    pub(super) scheme: http::uri::Scheme,
    /// Where an object names none: the plan's `Host` field, or the target's.
    authority: String,
    /// Without `Host`.
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
}

impl Common {
    /// # Errors
    /// A field that would say where a request's body ends.
    pub(super) fn of(plan: &Plan) -> Result<Self, ClientError> {
        let framing = [CONTENT_LENGTH, TRANSFER_ENCODING];
        if let Some((name, _)) = plan.fields.iter().find(|(name, _)| framing.contains(name)) {
            return Err(ClientError::Target(format!(
                "field `{name}` is written by the tool itself, where a request has a body"
            )));
        }
        let host = plan.fields.iter().find(|(name, _)| *name == HOST);
        let host = host.and_then(|(_, value)| value.to_str().ok());
        let authority = host.unwrap_or_else(|| plan.target.authority().as_str());
        let authority = authority.to_owned();
        let fields = plan.fields.iter().filter(|(name, _)| *name != HOST);
        Ok(Self {
            scheme: plan.target.scheme().clone(),
            authority,
            fields: fields.cloned().collect(),
        })
    }

    /// As [`of`](Self::of), for versions that carry many requests on a connection.
    ///
    /// # Errors
    /// As there, and a field of the connection: RFC 9114 §4.2 says the same of HTTP/3.
    pub(super) fn multiplexed(plan: &Plan) -> Result<Self, ClientError> {
        let common = Self::of(plan)?;
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
        //# An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields.
        let of_the_connection = |name: &HeaderName| {
            matches!(
                name.as_str(),
                "connection" | "keep-alive" | "proxy-connection" | "upgrade"
            )
        };
        match common
            .fields
            .iter()
            .find(|(name, _)| of_the_connection(name))
        {
            Some((name, _)) => Err(ClientError::Target(format!(
                "field `{name}` belongs to HTTP/1.1 and cannot be sent over HTTP/2 or HTTP/3"
            ))),
            None => Ok(common),
        }
    }

    /// As of a plan with one field.
    #[cfg(test)]
    pub(super) fn plain(authority: &str) -> Self {
        Self {
            scheme: http::uri::Scheme::HTTP,
            authority: authority.to_owned(),
            fields: vec![(HeaderName::from_static("x"), HeaderValue::from_static("y"))],
        }
    }

    pub(super) fn authority<'a>(&'a self, ask: &'a Ask) -> &'a str {
        ask.object.authority.as_deref().unwrap_or(&self.authority)
    }
}

/// The method of a request.
pub(super) fn method(verb: &Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::Range { .. } => "GET",
        Verb::Head => "HEAD",
        Verb::Put(_) => "PUT",
        Verb::Purge => "PURGE",
    }
}

/// The field that asks for a range.
pub(super) fn range(verb: &Verb) -> Option<(HeaderName, HeaderValue)> {
    match verb {
        Verb::Range { first, last } => {
            let value = HeaderValue::try_from(format!("bytes={first}-{last}")).ok()?;
            Some((RANGE, value))
        }
        Verb::Get | Verb::Head | Verb::Put(_) | Verb::Purge => None,
    }
}

/// The `Content-Length` of a response, from its fields of that name.
//= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
//# a recipient of a Content-Length header field value consisting of the same decimal value repeated as a
//# comma-separated list (e.g, "Content-Length: 42, 42") MAY either reject the message as invalid or replace that
//# invalid field value with a single valid Content-Length
pub(super) fn declared<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, Failure> {
    let mut length = None;
    for value in values {
        let digits = std::str::from_utf8(value)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        let one: u64 = digits.and_then(|text| text.parse().ok()).ok_or_else(|| {
            Failure::Protocol(format!(
                "Content-Length `{}` is no number",
                value.escape_ascii()
            ))
        })?;
        if length.is_some_and(|other| other != one) {
            return Err(Failure::Protocol(
                "two Content-Lengths that differ".to_owned(),
            ));
        }
        length = Some(one);
    }
    Ok(length)
}

/// A path that can stand in a request line. Paths of a trace come from a file.
pub(super) fn path(ask: &Ask) -> Result<&str, Failure> {
    let path = &*ask.object.path;
    let sound = path.starts_with('/') && path.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if sound {
        Ok(path)
    } else {
        Err(Failure::Protocol(format!(
            "`{}` is no path to ask for",
            path.escape_debug()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_said_once_or_the_same_each_time() {
        let of = |values: &[&'static str]| declared(values.iter().map(|text| text.as_bytes()));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["42"]), Ok(Some(42)));
        assert_eq!(of(&["42", "42"]), Ok(Some(42)));
        for bad in [
            &["42", "43"][..],
            &[""],
            &["+4"],
            &["4 2"],
            &["42, 42"],
            &["99999999999999999999"],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
