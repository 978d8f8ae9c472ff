//! Fields that ask an origin for another resource or method than the request line does.
//!
//! No key holds them. Beside an answer that others may get they are nobody's to say: a request that is looked up or stored must not carry them
//! to the origin.

use http::HeaderName;

/// Their names.
pub static REDIRECTIONS: [HeaderName; 8] = [
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-original-uri"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-forwarded-path"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];
