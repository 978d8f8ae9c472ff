//! A TLS handshake between two sessions of this process.

use std::io;

use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::CertificateDer;

use crate::quic::ConnectionError;
use crate::transport::tls::{failure, outcome};

/// ALPN protocol and certificates of the other side.
pub(super) type Shaken = (Vec<u8>, Option<Vec<CertificateDer<'static>>>);

/// Flights until both are done: two, and two more for one side's error and the other's answer to it.
const TURNS_MAX: usize = 8;

/// What the handshake comes to for the client, and for the server.
pub(super) fn shake(
    mut client: ClientConnection,
    mut server: ServerConnection,
) -> (
    Result<Shaken, ConnectionError>,
    Result<Shaken, ConnectionError>,
) {
    let (mut for_client, mut for_server) = (Ok(()), Ok(()));
    for _ in 0..TURNS_MAX {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        if let Err(error) = write(|out| client.write_tls(out), &mut there) {
            for_client = for_client.and(Err(error));
        }
        let mut bytes = &there[..];
        while !bytes.is_empty() && server.read_tls(&mut bytes).is_ok_and(|taken| taken > 0) {
            if let Err(error) = server.process_new_packets() {
                for_server = for_server.and(Err(failure(&error)));
                break;
            }
        }
        if let Err(error) = write(|out| server.write_tls(out), &mut back) {
            for_server = for_server.and(Err(error));
        }
        let mut bytes = &back[..];
        while !bytes.is_empty() && client.read_tls(&mut bytes).is_ok_and(|taken| taken > 0) {
            if let Err(error) = client.process_new_packets() {
                for_client = for_client.and(Err(failure(&error)));
                break;
            }
        }
        if there.is_empty() && back.is_empty() {
            break;
        }
    }
    (
        for_client.and_then(|()| outcome(&client)),
        for_server.and_then(|()| outcome(&server)),
    )
}

/// All that a session has to say.
fn write(
    mut write: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
    out: &mut Vec<u8>,
) -> Result<(), ConnectionError> {
    while write(out).map_err(|_| ConnectionError::Reset)? > 0 {}
    Ok(())
}
