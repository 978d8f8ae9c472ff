//! `quickstart`: serve a directory or an origin at once, on loopback, under a certificate of the edge's own.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use stoq_node::config::{Config, Env, Role};
use stoq_node::report::{Exit, Output};
use stoq_node::telemetry;

use super::run::Signalled;
use crate::edge::{Edge, Running};
use crate::prepared::Prepared;

/// Where quickstart listens when nothing is said. Both loopbacks: `localhost` is the sixth version's first, and clients do not fall back over QUIC.
const LISTEN: [&str; 2] = ["127.0.0.1:8443", "[::1]:8443"];
/// How long quickstart keeps what states no lifetime, such as the files of a directory; so a second request is a hit.
const DEFAULT_TTL: &str = "60s";

#[derive(Debug, Args)]
pub(super) struct Quickstart {
    /// What to serve: a directory, or a site's URL.
    #[arg(long, default_value = ".", value_name = "URL|DIR")]
    origin: String,
    /// Address and port to serve on; repeat it for several. Default: port 8443 on both loopback addresses.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// Print a line for each request to standard error.
    #[arg(long)]
    access_log: bool,
}

/// What a client needs to know.
#[derive(Debug, Serialize)]
struct Ready {
    ok: bool,
    origin: String,
    urls: Vec<String>,
    ca: String,
    spki_sha256: String,
    /// A path that is worth asking for.
    path: String,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            origin,
            ca,
            path,
            spki_sha256,
            ..
        } = self;
        let url = self.urls.first().map_or("", String::as_str);
        let host = url.trim_start_matches("https://");
        writeln!(
            f,
            "serving {origin} at {} over HTTP/3, HTTP/2 and HTTP/1.1",
            self.urls.join(" ")
        )?;
        writeln!(f, "CA: {ca}\n\nTry it:")?;
        writeln!(
            f,
            "  cargo run --release -p stoq-loadtest --bin stoq-bench -- get {url}{path} --cacert {ca}"
        )?;
        writeln!(f, "  curl --cacert {ca} {url}{path}")?;
        writeln!(
            f,
            "  curl --http3-only --cacert {ca} {url}{path}     # a curl built with HTTP/3"
        )?;
        writeln!(
            f,
            "  chromium --origin-to-force-quic-on={host} --ignore-certificate-errors-spki-list={spki_sha256} {url}{path}"
        )?;
        write!(f, "\nCtrl-C ends it.")
    }
}

pub(super) fn quickstart(args: &Quickstart, output: &Output) -> anyhow::Result<Exit> {
    let state = state_dir()?;
    let (listen, skipped) = listen(&args.listen);
    let config = config(args, &listen, &state)?;
    telemetry::init(&config.log)?;
    let path = sample(&args.origin);
    let signalled = Signalled::listen()?;
    let running = Edge::start(Prepared::new(config)?)?;
    for addr in skipped {
        eprintln!("not served on {addr}: this system does not have that address");
    }
    output.result(&ready(&running, args, path)?)?;
    signalled.until_end(running)
}

/// The same way as any operator's file, so that quickstart can do nothing that a file cannot.
fn config(args: &Quickstart, listen: &[SocketAddr], state: &Path) -> anyhow::Result<Config> {
    let origin = if args.origin.contains("://") {
        // The origin is to be asked for its own name, not for `localhost`.
        let authority = args
            .origin
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .unwrap_or_default();
        format!(
            "{{ url = {}, host = {} }}",
            quoted(&args.origin),
            quoted(authority)
        )
    } else {
        let dir = std::fs::canonicalize(&args.origin)
            .with_context(|| format!("--origin {}", args.origin))?;
        quoted(
            dir.to_str()
                .with_context(|| format!("{}: not UTF-8", dir.display()))?,
        )
    };
    let listen: Vec<_> = listen
        .iter()
        .map(|addr| quoted(&addr.to_string()))
        .collect();
    let state = state
        .to_str()
        .with_context(|| format!("{}: not UTF-8", state.display()))?;
    let text = format!(
        "[node]\nname = \"quickstart\"\nstate_dir = {}\ndrain = \"5s\"\n[listen]\nhttps = [{}]\n[log]\nfilter = \"warn,access=info\"\naccess = {}\n\
         [[site]]\nname = \"quickstart\"\nhosts = [\"*\"]\norigins = [{origin}]\ndefault_ttl = \"{DEFAULT_TTL}\"\n",
        quoted(state),
        listen.join(", "),
        args.access_log,
    );
    Ok(Config::parse(
        "quickstart",
        &text,
        Path::new("."),
        &Env::none(),
        Role::Edge,
    )?)
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The addresses to bind. Of the defaults, those the system has; what was asked for is never left out.
fn listen(asked: &[SocketAddr]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    if !asked.is_empty() {
        return (asked.to_vec(), Vec::new());
    }
    let defaults = LISTEN
        .iter()
        .filter_map(|text| text.parse::<SocketAddr>().ok());
    // Port 0: whether the address exists, not whether the port is free, which is an error of its own.
    defaults.partition(|addr| std::net::UdpSocket::bind((addr.ip(), 0)).is_ok())
}

/// Kept between runs, so that a client that trusts the CA today trusts it tomorrow.
fn state_dir() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    match base {
        Some(base) => Ok(base.join("stoq/quickstart")),
        None => bail!(
            "neither XDG_STATE_HOME nor HOME says where the development CA may be kept: set one of them"
        ),
    }
}

/// A file to show: the README of a directory, else any file in it, else its root.
fn sample(origin: &str) -> String {
    let file = |name: &str| {
        Path::new(origin)
            .join(name)
            .is_file()
            .then(|| name.to_owned())
    };
    let first = || {
        let names = std::fs::read_dir(origin)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names
            .filter(|name| !name.starts_with('.') && is_plain(name))
            .collect();
        names.sort();
        names.into_iter().find_map(|name| file(&name))
    };
    let name = if origin.contains("://") {
        None
    } else {
        file("README.md").or_else(first)
    };
    format!("/{}", name.unwrap_or_default())
}

/// Whether a name stands in a URL and a shell as it is.
fn is_plain(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

fn ready(running: &Running, args: &Quickstart, path: String) -> anyhow::Result<Ready> {
    let dev = running
        .dev_tls()
        .context("quickstart serves under its own CA")?;
    let mut urls: Vec<String> = Vec::new();
    for addr in running.https_addrs() {
        let url = if addr.ip().is_loopback() {
            format!("https://localhost:{}", addr.port())
        } else {
            format!("https://{addr}")
        };
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    Ok(Ready {
        ok: true,
        origin: args.origin.clone(),
        urls,
        ca: dev.ca.display().to_string(),
        spki_sha256: dev.spki_sha256.clone(),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_survives_the_way_through_toml() {
        for text in ["/plain", "/with \"quotes\"", "/back\\slash", "/new\nline"] {
            let table: toml::Table = format!("path = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["path"].as_str(), Some(text));
        }
    }
}
