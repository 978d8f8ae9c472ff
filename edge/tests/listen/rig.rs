//! One worker's listeners in front of a scripted service, on ports of the system's choice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::Scheme;
use rustls::pki_types::CertificateDer;
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketOptions, TlsServer};
use stoq_edge::alt_svc::AltSvc;
use stoq_edge::listen::tcp::{self, Door};
use stoq_edge::listen::{Common, Context, HttpsSockets, Limits, Metrics, bind_tcp, quic};
use stoq_edge::tls::{CertificateStore, DevCa, Resolver, ServerTls};
use stoq_node::Drain;
use tokio::task::JoinHandle;

use crate::scripted::Scripted;

pub(crate) struct Rig {
    pub(crate) service: Arc<Scripted>,
    pub(crate) context: Arc<Context<Scripted>>,
    pub(crate) common: Common,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) https: SocketAddr,
    pub(crate) plain: SocketAddr,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) alt_svc: Arc<AltSvc>,
    pub(crate) endpoint: Endpoint,
    pub(crate) listeners: Vec<JoinHandle<()>>,
    _state: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default(), Duration::from_secs(20))
    }

    pub(crate) fn with(limits: Limits, drain: Duration) -> Self {
        let state = tempfile::tempdir().unwrap();
        let ca = DevCa::open(state.path(), SystemTime::now()).unwrap();
        let leaf = ca.leaf(&[], SystemTime::now()).unwrap();
        let mut store = CertificateStore::default();
        store.add(&leaf.names, &leaf.key);
        let tls = ServerTls::new(&Resolver::new(store)).unwrap();

        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut sockets = HttpsSockets::bind(any, 1, &SocketOptions::default()).unwrap();
        let mut plain = bind_tcp(any, 1).unwrap();
        let (https, plain_addr) = (sockets.addr, plain[0].local_addr().unwrap());

        let service = Scripted::new();
        let drain = Drain::new(drain);
        let metrics = Metrics::new();
        let common = Common::new(limits, metrics.clone(), drain.clone());
        let context = Context::new(service.clone(), &common);
        let config = EndpointConfig {
            server: Some(TlsServer::new(tls.quic.clone()).unwrap()),
            ..EndpointConfig::new(CidKeys::random())
        };
        let endpoint = Endpoint::new(sockets.quic.take(0).unwrap(), config).unwrap();
        let alt_svc = AltSvc::new(https.port());
        let door = Door::Tls {
            config: tls.tcp.clone(),
            alt_svc: alt_svc.clone(),
        };
        let plain_door = Door::Plain {
            scheme: Scheme::HTTP,
        };
        let (tls_socket, plain_socket) = (sockets.tcp.remove(0), plain.remove(0));
        let (on_tls, on_plain) = (context.clone(), context.clone());
        let listeners = vec![
            tokio::spawn(quic::serve(context.clone(), endpoint.clone())),
            tokio::spawn(async move { tcp::serve(on_tls, tls_socket, door).await.unwrap() }),
            tokio::spawn(async move {
                tcp::serve(on_plain, plain_socket, plain_door)
                    .await
                    .unwrap()
            }),
        ];
        let run = drain.clone();
        tokio::spawn(async move { run.run().await });
        Self {
            service,
            context,
            common,
            metrics,
            drain,
            https,
            plain: plain_addr,
            ca: ca.certificate().clone(),
            alt_svc,
            endpoint,
            listeners,
            _state: state,
        }
    }

    /// Waits for the listeners' own end.
    pub(crate) async fn ended(self) {
        for listener in self.listeners {
            within(listener).await.unwrap();
        }
    }
}

/// A wait that fails the test instead of hanging it.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("within 20 s")
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}
