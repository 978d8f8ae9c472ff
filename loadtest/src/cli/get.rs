//! `stoq-bench get`: asks an HTTP server of any make and says what came, in which version, how fast, and whether it is
//! whole.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use http::header::RANGE;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::Usage;
use crate::get::{Got, Report, get};
use crate::{ClientError, Payload, Target, Trust, Version};

/// What `get` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `https://host[:port]/path`, or `http://` for plain HTTP/1.1.
    url: Uri,
    /// Version of HTTP: 3, 2 or 1 [default: 3 for https://, 1 for http://].
    #[arg(long, value_name = "3|2|1")]
    http: Option<Version>,
    /// Believe the certificates in this PEM file, and no others.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// Believe any certificate.
    #[arg(long)]
    insecure: bool,
    /// Connect to ADDR for HOST:PORT instead of looking it up. May be repeated.
    #[arg(long, value_name = "HOST:PORT:ADDR")]
    resolve: Vec<Resolve>,
    /// Send this field. May be repeated.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<Field>,
    /// Method [default: GET, or POST with --data].
    #[arg(long)]
    method: Option<Method>,
    /// Send this file as the request's body; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Ask for this range of bytes: `0-99`, `100-`, `-50`.
    #[arg(long)]
    range: Option<String>,
    /// Write the body here; `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    max_time: u64,
}

/// `HOST:PORT:ADDR`, as curl writes it; an IPv6 ADDR may stand in brackets.
#[derive(Debug, Clone)]
pub(crate) struct Resolve {
    pub(crate) host: String,
    pub(crate) address: SocketAddr,
}

impl FromStr for Resolve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not HOST:PORT:ADDR");
        let (host, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (port, address) = rest.split_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("`{address}` is no IP address"))?;
        Ok(Self {
            host: host.to_owned(),
            address: SocketAddr::new(address, port),
        })
    }
}

/// `Name: value`.
#[derive(Debug, Clone)]
pub(crate) struct Field(pub(crate) HeaderName, pub(crate) HeaderValue);

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| format!("`{text}` is not `Name: value`"))?;
        let name = name
            .trim()
            .parse()
            .map_err(|_| format!("`{name}` is no field name"))?;
        let value = value
            .trim()
            .parse()
            .map_err(|_| format!("`{value}` is no field value"))?;
        Ok(Self(name, value))
    }
}

/// Exit code 0: the answer was read to its end, whatever its status.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(ask(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(args: &Args) -> anyhow::Result<()> {
    let target = target(args)?;
    let secure = args.url.scheme_str() == Some("https");
    let version = args.http.unwrap_or(if secure {
        Version::Http3
    } else {
        Version::Http1
    });
    if !secure && version != Version::Http1 {
        return Err(Usage(format!("{version} is spoken over https:// only")).into());
    }
    let request = request(args)?;
    let mut output: Box<dyn Write> = match &args.output {
        None => Box::new(io::sink()),
        Some(path) if path.as_os_str() == "-" => Box::new(io::stdout()),
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("creating {}", path.display()))?;
            Box::new(io::BufWriter::with_capacity(256 * 1024, file))
        }
    };
    let limit = Duration::from_secs(args.max_time);
    let asked = Box::pin(get(&target, version, request, &mut output));
    let Ok(got) = tokio::time::timeout(limit, asked).await else {
        bail!("no whole answer within {limit:?}");
    };
    let got = got?;
    // With the body on standard output the report goes beside it.
    let body_on_stdout = args
        .output
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    let mut report: Box<dyn Write> = if body_on_stdout {
        Box::new(io::stderr())
    } else {
        Box::new(io::stdout())
    };
    if args.json {
        serde_json::to_writer_pretty(&mut report, &Report::from(&got))?;
        writeln!(report)?;
    } else {
        print(&mut report, &got)?;
    }
    Ok(())
}

fn target(args: &Args) -> anyhow::Result<Target> {
    let usage = |error: ClientError| Usage(error.to_string());
    let mut target = Target::new(&args.url.to_string()).map_err(usage)?;
    if args.insecure {
        target = target.trusting(Trust::Insecure);
    } else if let Some(path) = &args.cacert {
        let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        target = target.trusting(Trust::Pem(pem));
    }
    for resolve in &args.resolve {
        if resolve.host.eq_ignore_ascii_case(target.host())
            && resolve.address.port() == target.port()
        {
            target = target.at(resolve.address);
        }
    }
    Ok(target)
}

fn request(args: &Args) -> anyhow::Result<Request<Payload>> {
    let payload = match &args.data {
        None => Payload::empty(),
        Some(path) if path.as_os_str() == "-" => {
            let mut body = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut body)
                .context("reading standard input")?;
            Payload::bytes(body)
        }
        Some(path) => Payload::bytes(
            std::fs::read(path).with_context(|| format!("reading {}", path.display()))?,
        ),
    };
    let mut request = Request::new(payload);
    let by_data = if args.data.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    *request.method_mut() = args.method.clone().unwrap_or(by_data);
    *request.uri_mut() = args.url.clone();
    for Field(name, value) in &args.header {
        request.headers_mut().append(name, value.clone());
    }
    if let Some(range) = &args.range {
        let value = HeaderValue::try_from(format!("bytes={range}"))
            .map_err(|_| Usage(format!("`{range}` is no range")))?;
        request.headers_mut().insert(RANGE, value);
    }
    Ok(request)
}

fn print(out: &mut dyn Write, got: &Got) -> io::Result<()> {
    writeln!(out, "{} {} from {}", got.version, got.status, got.address)?;
    for (name, value) in &got.headers {
        writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
    }
    writeln!(out)?;
    writeln!(out, "body    {} bytes", got.length)?;
    writeln!(out, "blake3  {}", got.hash)?;
    let times = &got.times;
    writeln!(
        out,
        "times   dns {:.2?}, connect {:.2?}, tls {:.2?}, first byte {:.2?}, total {:.2?}",
        times.dns, times.connect, times.tls, times.first_byte, times.total
    )
}
