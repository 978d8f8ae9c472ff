//! Nodes by the SRV records of a name (RFC 2782), asked of the system's resolvers.
//!
//! Priority and weight are for clients that pick one; here all are used, since who is there is found out anyway.

use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

/// Targets that are looked up; more are passed over.
const TARGETS_MAX: usize = 32;

/// A name with SRV records.
#[derive(Debug)]
pub(super) struct Srv {
    name: String,
    resolver: Result<TokioResolver, String>,
}

impl Srv {
    /// To be asked of the resolvers that this system uses.
    pub(super) fn of_system(name: &str) -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        Self::of(name, resolver.map_err(|error| error.to_string()))
    }

    fn of(name: &str, resolver: Result<TokioResolver, String>) -> Self {
        Self {
            // With its dot it is whole: no search domain is tried.
            name: format!("{}.", name.trim_end_matches('.')),
            resolver,
        }
    }

    /// All addresses of all targets.
    ///
    /// # Errors
    /// The records cannot be had, or none of their targets resolves.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let records = resolver
            .srv_lookup(self.name.as_str())
            .await
            .map_err(|error| format!("{}: {error}", self.name))?;
        let mut targets: Vec<_> = records
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some((srv.target.clone(), srv.port)),
                _ => None,
            })
            .collect();
        targets.truncate(TARGETS_MAX);
        let looked = targets.into_iter().map(|(target, port)| async move {
            let found = resolver.lookup_ip(target.clone()).await;
            match found {
                Ok(found) => Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect()),
                Err(error) => Err(format!("{target}: {error}")),
            }
        });
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut failed = None;
        for found in futures_util::future::join_all(looked).await {
            match found {
                Ok(found) => addresses.extend::<Vec<_>>(found),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if addresses.is_empty() => Err(error),
            _ => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    use super::*;

    const SRV: u16 = 33;
    const A: u16 = 1;

    /// Where a query's question ends, and its type.
    fn question(query: &[u8]) -> (usize, u16) {
        let mut at = 12;
        while query[at] != 0 {
            at += 1 + usize::from(query[at]);
        }
        (at + 5, u16::from_be_bytes([query[at + 1], query[at + 2]]))
    }

    /// An answer of these records for the name that was asked.
    fn answer(query: &[u8], kind: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let (end, _) = question(query);
        let mut out = query[..end].to_vec();
        // A response, recursion available, no error; one question and these answers.
        out[2..4].copy_from_slice(&[0x81, 0x80]);
        let count = u16::try_from(records.len()).unwrap();
        out[4..12].copy_from_slice(&[
            0,
            1,
            count.to_be_bytes()[0],
            count.to_be_bytes()[1],
            0,
            0,
            0,
            0,
        ]);
        for record in records {
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1, 0, 0, 0, 60]);
            out.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
            out.extend(record);
        }
        out
    }

    fn srv(port: u16, host: &str) -> Vec<u8> {
        let mut record = vec![0, 1, 0, 1];
        record.extend(port.to_be_bytes());
        for label in host.split('.') {
            record.push(u8::try_from(label.len()).unwrap());
            record.extend(label.as_bytes());
        }
        record.push(0);
        record
    }

    /// A name server that knows two targets.
    async fn serve(socket: UdpSocket) {
        let mut buffer = [0; 1024];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = &buffer[..length];
            let records = match question(query).1 {
                SRV => vec![srv(7443, "one.mesh.test"), srv(7444, "two.mesh.test")],
                A if query.windows(3).any(|label| label == b"one") => vec![vec![192, 0, 2, 1]],
                A => vec![vec![192, 0, 2, 2]],
                _ => Vec::new(),
            };
            let answer = answer(query, question(query).1, &records);
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_targets_of_a_name_are_found_with_their_ports() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        let server = NameServerConfig::new([127, 0, 0, 1].into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(config, provider).build();
        let serving = tokio::spawn(serve(socket));
        let srv = Srv::of(
            "_stoq._udp.mesh.test",
            resolver.map_err(|error| error.to_string()),
        );
        let mut found = srv.addresses().await.unwrap();
        found.sort();
        assert_eq!(
            found,
            ["192.0.2.1:7443", "192.0.2.2:7444"].map(|text| text.parse().unwrap())
        );
        serving.abort();
    }
}
