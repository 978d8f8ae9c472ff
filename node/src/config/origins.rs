//! Origins as the file states them: a URL, a directory, or a table that says more about a URL.

use std::path::{Path, PathBuf};

use http::Uri;

use super::{
    hosts,
    resolved::{HttpOrigin, OriginSpec, Scheme},
};

/// Reads an origin's string: `http://host[:port]`, `https://host[:port]`, `dir:PATH`, or a path that starts with `/`, `./` or `../`.
pub(super) fn origin(text: &str, dir: &Path) -> Result<OriginSpec, String> {
    if let Some(path) = text.strip_prefix("dir:") {
        return directory(path, dir).map(OriginSpec::Directory);
    }
    if ["/", "./", "../"]
        .iter()
        .any(|start| text.starts_with(start))
        || text == "."
        || text == ".."
    {
        return directory(text, dir).map(OriginSpec::Directory);
    }
    url(text).map(OriginSpec::Http)
}

fn directory(path: &str, dir: &Path) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("names no directory (write \"dir:public\")".to_owned());
    }
    Ok(dir.join(path))
}

/// An origin's URL: scheme, host and port and nothing else.
pub(super) fn url(text: &str) -> Result<HttpOrigin, String> {
    let forms = "write \"http://host:port\", \"https://host\", or \"dir:PATH\" for a directory";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!(
            "`{text}` is neither a URL nor a directory ({forms})"
        ));
    };
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => {
            return Err(format!(
                "`{text}` has the unknown scheme `{scheme}` ({forms})"
            ));
        }
    };
    if rest.contains('@') {
        // Not repeated in the message: what stands before the `@` is likely a password.
        return Err("the URL has a user name or password, which an origin URL cannot carry (remove what stands before the `@`)".to_owned());
    }
    let uri: Uri = text
        .parse()
        .map_err(|error| format!("`{text}` is no URL: {error} ({forms})"))?;
    let Some(authority) = uri.authority() else {
        return Err(format!("`{text}` has no host ({forms})"));
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(format!(
            "`{text}` has a path (write \"{}://{authority}\"; the request's own path is used)",
            kind.as_str()
        ));
    }
    let port = match authority.port() {
        None if authority.as_str() != authority.host() => {
            return Err(format!("`{text}` has no port that exists ({forms})"));
        }
        None => kind.default_port(),
        Some(port) if port.as_u16() == 0 => return Err(format!("`{text}` has port 0 ({forms})")),
        Some(port) => port.as_u16(),
    };
    let host = hosts::host(authority.host())?;
    Ok(HttpOrigin {
        scheme: kind,
        host,
        port,
        host_header: None,
        sni: None,
        ca: None,
    })
}

/// A `Host` field: a host with or without a port.
pub(super) fn host_header(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !text.ends_with(']') && !host.contains(':') || text.starts_with('[') =>
        {
            match port.parse::<u16>() {
                Ok(port) if port != 0 => hosts::node_addr(text).map(|addr| addr.to_string()),
                _ => Err(format!(
                    "`{text}` has no usable port (write \"example.com\" or \"example.com:8080\")"
                )),
            }
        }
        _ => hosts::host(text).map(|host| {
            if host.contains(':') {
                format!("[{host}]")
            } else {
                host
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_url_or_a_directory() {
        let dir = Path::new("/etc/stoq");
        for (text, shown) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://Example.com:80/", "http://example.com"),
            ("https://[::1]", "https://[::1]"),
            ("HTTPS://a.example:8443", "https://a.example:8443"),
            ("dir:public", "dir:/etc/stoq/public"),
            ("/srv/www", "dir:/srv/www"),
            ("./public", "dir:/etc/stoq/./public"),
        ] {
            assert_eq!(
                origin(text, dir)
                    .map(|origin| origin.to_string())
                    .as_deref(),
                Ok(shown),
                "{text}"
            );
        }
        for (text, fix) in [
            ("public", "dir:PATH"),
            ("127.0.0.1:8000", "http://host:port"),
            ("ftp://a", "unknown scheme"),
            ("http://", "http://host:port"),
            ("http://a/b", "the request's own path"),
            ("http://a?x", "the request's own path"),
            ("http://a:0", "port 0"),
            ("http://a:99999", "no port that exists"),
            ("http://a:", "no port that exists"),
            ("dir:", "dir:public"),
        ] {
            let error = origin(text, dir).unwrap_err();
            assert!(error.contains(fix), "{text}: {error}");
        }
        let error = origin("http://me:secret@a", dir).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
