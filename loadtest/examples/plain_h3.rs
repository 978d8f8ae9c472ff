//! The baseline of every ratio: quinn, h3-quinn and h3 as their own examples use them, answering from memory.
//!
//! One current-thread runtime, a task per connection and a task per request, `Bytes` bodies, every transport setting
//! at its default. `GET /N` answers with N bytes, always the same for the same N.
//!
//!     cargo run --release -p stoq-loadtest --example plain_h3 -- --listen 127.0.0.1:4433 --cert-out cert.pem
//!
//! Prints `listening on ADDR` once it does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use h3::server::RequestResolver;
use http::{Response, StatusCode};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// A plain HTTP/3 server of random but fixed bytes.
#[derive(Debug, Parser)]
struct Options {
    /// Address to listen on; port 0 for any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the self-signed certificate, for localhost and the loopback addresses, here.
    #[arg(long, value_name = "FILE")]
    cert_out: Option<PathBuf>,
}

/// Larger sizes are answered with 404.
const SIZE_MAX: usize = 64 << 20;

/// Bodies by size, made on first use.
type Bodies = Arc<parking_lot::Mutex<HashMap<usize, Bytes>>>;

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names)?;
    if let Some(path) = &options.cert_out {
        std::fs::write(path, made.cert.pem())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let endpoint = quinn::Endpoint::server(config, options.listen)?;
    println!("listening on {}", endpoint.local_addr()?);
    let bodies = Bodies::default();
    while let Some(incoming) = endpoint.accept().await {
        let bodies = Arc::clone(&bodies);
        tokio::spawn(async move {
            if let Err(error) = connection(incoming, &bodies).await {
                eprintln!("connection: {error:#}");
            }
        });
    }
    Ok(())
}

async fn connection(incoming: quinn::Incoming, bodies: &Bodies) -> Result<()> {
    let connection = h3_quinn::Connection::new(incoming.await?);
    let mut connection = h3::server::Connection::<_, Bytes>::new(connection).await?;
    loop {
        match connection.accept().await {
            Ok(Some(request)) => {
                let bodies = Arc::clone(bodies);
                tokio::spawn(async move {
                    if let Err(error) = answer(request, &bodies).await {
                        eprintln!("request: {error:#}");
                    }
                });
            }
            Ok(None) => return Ok(()),
            Err(error) if error.is_h3_no_error() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn answer(
    request: RequestResolver<h3_quinn::Connection, Bytes>,
    bodies: &Bodies,
) -> Result<()> {
    let (request, mut stream) = request.resolve_request().await?;
    let size = request
        .uri()
        .path()
        .strip_prefix('/')
        .and_then(|size| size.parse().ok());
    match size.filter(|size| *size <= SIZE_MAX) {
        Some(size) => {
            let body = bodies
                .lock()
                .entry(size)
                .or_insert_with(|| make(size))
                .clone();
            let head = Response::builder()
                .status(StatusCode::OK)
                .header("content-type", "application/octet-stream")
                .header("content-length", size)
                .body(())?;
            stream.send_response(head).await?;
            stream.send_data(body).await?;
        }
        None => {
            stream
                .send_response(Response::builder().status(StatusCode::NOT_FOUND).body(())?)
                .await?
        }
    }
    stream.finish().await?;
    Ok(())
}

/// `size` bytes without a pattern, the same on each run: the extended output of a hash.
fn make(size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    blake3::Hasher::new()
        .update(b"plain_h3")
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}
