//! The admin listener as a scraper and a prober meet it.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    time::Duration,
};

use stoq_node::{Admin, AdminHandle, Drain, Readiness, Registry, config::AdminAddr};

struct Served {
    handle: AdminHandle,
    drain: Drain,
    readiness: Readiness,
}

fn serve(addr: &AdminAddr) -> Served {
    let drain = Drain::new(Duration::from_secs(30));
    let readiness = Readiness::new(drain.clone());
    let handle = Admin::bind(addr)
        .unwrap()
        .serve(Registry::new(), readiness.clone())
        .unwrap();
    Served {
        handle,
        drain,
        readiness,
    }
}

fn exchange(mut stream: impl Read + Write, path: &str, host: &str) -> String {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(served: &Served, path: &str, host: &str) -> String {
    let AdminAddr::Tcp(addr) = served.handle.local_addr() else {
        panic!("a TCP listener")
    };
    exchange(TcpStream::connect(addr).unwrap(), path, host)
}

fn loopback() -> AdminAddr {
    AdminAddr::Tcp("127.0.0.1:0".parse().unwrap())
}

#[test]
fn metrics_are_open_metrics_text() {
    let served = serve(&loopback());
    let answer = get(&served, "/metrics", "localhost:9100");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains(
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        ),
        "{answer}"
    );
    assert!(
        answer.ends_with("# EOF\n") && answer.contains("process_open_fds "),
        "{answer}"
    );
}

#[test]
fn readiness_follows_start_and_drain_and_health_does_not() {
    let served = serve(&loopback());
    let status = |path: &str| {
        get(&served, path, "127.0.0.1")
            .split(' ')
            .nth(1)
            .map(str::to_owned)
            .unwrap()
    };
    assert_eq!(
        (status("/readyz"), status("/healthz")),
        ("503".to_owned(), "200".to_owned())
    );
    served.readiness.ready();
    assert_eq!(status("/readyz"), "200");
    served.drain.begin();
    assert!(get(&served, "/readyz", "[::1]:9100").ends_with("draining\n"));
    assert_eq!(
        (status("/readyz"), status("/healthz")),
        ("503".to_owned(), "200".to_owned())
    );
    assert_eq!(status("/else"), "404");
}

#[test]
fn a_request_for_another_host_is_refused() {
    let served = serve(&loopback());
    for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""] {
        let answer = get(&served, "/metrics", host);
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
    }
}

#[test]
fn a_socket_file_is_private_replaced_when_stale_and_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let addr = AdminAddr::Unix(path.clone());
    let served = serve(&addr);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let answer = exchange(UnixStream::connect(&path).unwrap(), "/healthz", "anything");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        Admin::bind(&addr).unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse
    );
    served.handle.stop();
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(Admin::bind(&addr).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn idle_connections_do_not_keep_it_from_stopping() {
    let served = serve(&loopback());
    let AdminAddr::Tcp(addr) = served.handle.local_addr().clone() else {
        panic!("a TCP listener")
    };
    let idle: Vec<_> = (0..40).map(|_| TcpStream::connect(addr).unwrap()).collect();
    served.handle.stop();
    drop(idle);
}
