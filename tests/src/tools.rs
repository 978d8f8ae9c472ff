//! Programs of other makes that some tests need, and what happens where they are missing.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Says that a test is skipped for lack of `what`; with `STOQ_REQUIRE_PRIVILEGED=1`, as in continuous integration, fails it.
///
/// Said past the harness, which keeps to itself what tests that pass have printed: a skip counts as one.
///
/// # Panics
/// When skips are failures.
pub fn skipped(test: &str, what: &str) {
    assert!(
        std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_none_or(|value| value != "1"),
        "{test} cannot run here: {what}, and STOQ_REQUIRE_PRIVILEGED=1 makes a skip a failure"
    );
    // Where nobody listens nobody can be told.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {what}");
}

/// A Python that has aioquic: `STOQ_PYTHON`, else `python3`.
#[must_use]
pub fn python_with_aioquic() -> Option<PathBuf> {
    let python =
        std::env::var_os("STOQ_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let found = Command::new(&python)
        .args(["-c", "import aioquic"])
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

/// Debian's Chromium, or one called so in the path.
#[must_use]
pub fn chromium() -> Option<PathBuf> {
    let candidates = [
        "/usr/bin/chromium",
        "chromium",
        "chromium-browser",
        "google-chrome",
    ];
    let found = candidates.into_iter().find(|name| {
        let version = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        version.is_ok_and(|status| status.success())
    });
    found.map(PathBuf::from)
}

/// A program of this workspace, built beside the running test.
#[must_use]
pub fn built(name: &str) -> Option<PathBuf> {
    // target/PROFILE/deps/TEST-HASH
    let profile = std::env::current_exe().ok()?.parent()?.parent()?.to_owned();
    Some(profile.join(name)).filter(|program| program.is_file())
}

/// A port that is free on UDP and TCP at loopback now. Somebody else may take it before it is used: only for programs that cannot be given a socket.
///
/// # Panics
/// When a hundred ports in turn are taken.
#[must_use]
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let udp = UdpSocket::bind(("127.0.0.1", 0)).expect("a loopback port");
        let port = udp
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free on UDP and TCP");
}

/// Runs a program to its end; kills it after `limit`.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run(program: &Path, arguments: &[&str], limit: Duration) -> Output {
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    let ended =
        ended.unwrap_or_else(|_| panic!("{} did not end within {limit:?}", program.display()));
    ended.expect("a started program ends")
}
