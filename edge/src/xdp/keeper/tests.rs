//! Tests of the keeper without its thread: what the operator asks for holds for everybody, and who proves his address gets in.

use std::net::SocketAddr;
use std::path::Path;

use parking_lot::Mutex;
use stoq::quic::{Endpoint, EndpointConfig, SocketOptions, TransportConfig};
use stoq_ebpf::SHED_ALL;
use stoq_node::{CallError, Config, Env, Role};

use super::*;
use crate::listen::HttpsSockets;
use crate::listen::testing::tls;
use crate::xdp::Miscarried;
use crate::xdp::calls::Verb;

const PORT: u16 = 443;

fn config(lines: &str) -> Xdp {
    let text = format!(
        "[listen]\nhttp = [\"127.0.0.1:80\"]\n[xdp]\n{lines}\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n"
    );
    let config = Config::parse("edge.toml", &text, Path::new("."), &Env::none(), Role::Edge);
    config.unwrap_or_else(|errors| panic!("{errors}")).xdp
}

/// A keeper without its thread, and the file that it reads again. Nothing can be attached, so that packets are judged at the socket.
struct Kept {
    duty: Duty,
    file: Arc<Mutex<Xdp>>,
    _state: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        Self::at(PORT, CidKeys::random())
    }

    fn at(port: u16, keys: CidKeys) -> Self {
        let (state, file) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Mutex::new(config(""))),
        );
        let mut ports = Ports::default();
        ports.https(port);
        let reread = Arc::clone(&file);
        let duty = Duty::new(Setup {
            config: config(""),
            state_dir: state.path().to_owned(),
            ports,
            keys,
            helper: Err(HelperError::Gone),
            reload: Some(Box::new(move || Ok(reread.lock().clone()))),
            proxies: Vec::new(),
            workers: 1,
            memory: 1 << 30,
        });
        let mut duty = duty.unwrap();
        duty.begin();
        Self {
            duty,
            file,
            _state: state,
        }
    }

    fn reload(&mut self, lines: &str) -> Result<(), CallError> {
        *self.file.lock() = config(lines);
        self.duty.answer(Verb::Reload).map(drop)
    }

    /// What becomes of a datagram without payload.
    fn judge(&self, from: &str) -> Reason {
        match self.duty.limiter.judge(from.parse().unwrap(), PORT, &[]) {
            Judged::Passes(reason) | Judged::Drops(reason) => reason,
            Judged::Before => panic!("nothing is attached"),
        }
    }

    /// Has them do what gives them smaller budgets.
    fn lower(&mut self, sources: &[&str]) {
        for source in sources {
            for _ in 0..50 {
                let source = source.parse().unwrap();
                self.duty.witness.miscarried(source, Miscarried::Foreign);
            }
        }
        self.duty.judge(Instant::now());
        assert_eq!(self.duty.evidence.lowered().count(), sources.len());
    }
}

#[test]
fn a_list_holds_at_once_also_for_whom_budgets_are_lowered_just_then() {
    let mut kept = Kept::new();
    kept.lower(&["203.0.113.7", "192.0.2.7", "2001:db8::7", "198.51.100.7"]);
    for source in ["203.0.113.7", "192.0.2.7", "2001:db8::7"] {
        assert_eq!(kept.judge(source), Reason::Empty);
    }
    kept.reload(
        "deny = [\"203.0.113.0/24\", \"198.51.100.7/32\"]\nallow = [\"192.0.2.0/24\", \"2001:db8::/32\"]",
    )
    .unwrap();
    assert_eq!(kept.judge("203.0.113.7"), Reason::Denied);
    assert_eq!(kept.judge("198.51.100.7"), Reason::Denied);
    assert_eq!(kept.judge("192.0.2.7"), Reason::Allowed);
    assert_eq!(kept.judge("2001:db8::7"), Reason::Allowed);
    assert_eq!(kept.duty.evidence.lowered().count(), 0);
    kept.reload("").unwrap();
    for source in ["203.0.113.7", "192.0.2.7", "2001:db8::7", "198.51.100.7"] {
        assert_eq!(kept.judge(source), Reason::Empty);
    }
}

#[test]
fn a_list_that_did_not_fit_is_written_by_the_next_reload() {
    let mut kept = Kept::new();
    kept.reload("deny = [\"192.0.2.0/24\"]").unwrap();
    // All the rules there may be.
    let others =
        (0..65_535_u32).map(|host| IpNet::from(IpAddr::from((0x0a00_0000 | host).to_be_bytes())));
    let fill: Vec<RuleEdit> = others.map(|host| (host, Some(Treatment::Allow))).collect();
    kept.duty.limiter.edit_rules(&fill).unwrap();

    let lists = "dry_run = true\ndeny = [\"203.0.113.0/24\", \"198.51.100.0/24\"]";
    let error = kept.reload(lists).unwrap_err();
    assert!(error.to_string().contains("do not hold in full"), "{error}");
    assert!(kept.duty.config.dry_run, "what holds is told");
    assert_eq!(kept.judge("203.0.113.7"), Reason::Empty);
    let error = kept.reload(lists).unwrap_err();
    assert!(error.to_string().contains("203.0.113.0/24"), "{error}");

    let take: Vec<RuleEdit> = fill.iter().map(|(host, _)| (*host, None)).collect();
    kept.duty.limiter.edit_rules(&take).unwrap();
    kept.reload(lists).unwrap();
    assert_eq!(kept.judge("203.0.113.7"), Reason::Denied);
    assert_eq!(kept.judge("198.51.100.7"), Reason::Denied);
    // What was there before is as the file says, also where the file goes back to it.
    assert_eq!(kept.judge("192.0.2.7"), Reason::Empty);
    kept.reload("deny = [\"192.0.2.0/24\"]").unwrap();
    assert_eq!(kept.judge("192.0.2.7"), Reason::Denied);
    assert_eq!(kept.judge("203.0.113.7"), Reason::Empty);
}

/// What a client sends after a Retry, and in the rest of its handshake, passes whatever becomes of newcomers.
#[tokio::test]
async fn a_newcomer_that_repeats_itself_gets_in_by_retry_while_all_are_shed() {
    let home = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets = HttpsSockets::bind(home, 1, &SocketOptions::default()).unwrap();
    let (keys, port) = (CidKeys::random(), sockets.addr.port());
    let kept = Kept::at(port, keys.clone());
    let limiter = Arc::clone(&kept.duty.limiter);
    limiter.beat(SHED_ALL).unwrap();
    let (tls_server, tls_client) = tls();
    let mut config = EndpointConfig {
        server: Some(tls_server),
        screen: Some(Arc::new(AtPort {
            limiter: Arc::clone(&limiter),
            port,
        })),
        ..EndpointConfig::new(keys)
    };
    config.alarm = kept.duty.alarm.clone();
    config.alarm.set(true);
    let server = Endpoint::new(sockets.quic.take(0).unwrap(), config).unwrap();
    let client = Endpoint::client(home, TransportConfig::default()).unwrap();
    let greeted = async { server.accept().await.unwrap().establish().await };
    let connected = client.connect(sockets.addr, "localhost", &tls_client);
    let (greeted, connected) = tokio::join!(greeted, connected);
    assert!(greeted.is_ok() && connected.is_ok());
    let counters = limiter.counters().unwrap();
    let of = |reason| counters.of(reason).packets;
    assert!(
        of(Reason::Shed) > 0 && of(Reason::Retransmission) > 0,
        "{counters:?}"
    );
    assert!(
        of(Reason::Long) > 0 && of(Reason::CidTag) == 0,
        "{counters:?}"
    );
    assert_eq!(of(Reason::Token) + of(Reason::Initial), 0, "{counters:?}");
    assert_eq!(server.counters().retries_sent.get(), 1);
}
