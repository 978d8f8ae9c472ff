//! An edge with a disk that ends, in good order or by `kill -9`, and begins again: what it had stored it serves without asking, what was
//! invalidated it does not.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use integration::{Answer, Client, Origin, Payload, Version, body, tools};
use stoq_loadtest::{Target, Trust};
use tokio::process::Child;

/// What an end by `kill -9` may take: what was stored in the second before it.
const LOST: Duration = Duration::from_secs(1);

/// An edge as a process of its own, and what it keeps.
struct Node<'a> {
    program: &'a Path,
    directory: &'a Path,
    origin: &'a Origin,
    /// The same each time, since it is part of every URL.
    port: u16,
    running: Option<Child>,
}

impl Node<'_> {
    /// Starts the program and waits until it answers.
    async fn start(&mut self) -> Client {
        let port = self.port;
        let config = self.directory.join("edge.toml");
        let text = format!(
            "[node]\nname = \"edge-1\"\nstate_dir = \"state\"\n[listen]\nhttps = [\"127.0.0.1:{port}\"]\n[log]\naccess = false\n\
             [cache]\ndisk = [{{ path = \"disk\", size = \"64MiB\" }}]\n\
             [[site]]\nname = \"site\"\nhosts = [\"*\"]\norigins = [\"{}\"]\n",
            self.origin.url()
        );
        std::fs::write(&config, text).expect("a configuration is written");
        let child = tokio::process::Command::new(self.program)
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("the edge starts");
        self.running = Some(child);
        let target = Target::new(&format!("https://localhost:{port}"))
            .expect("a URL")
            .at(([127, 0, 0, 1], port).into())
            .trusting(Trust::Insecure);
        let connected = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                match Client::connect(&target, Version::Http2).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        connected.await.expect("the edge answers within 30 s")
    }

    async fn end(&mut self, signal: &str) {
        let mut running = self.running.take().expect("it runs");
        let id = running.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill runs").success());
        let ended = tokio::time::timeout(Duration::from_secs(40), running.wait());
        ended.await.expect("it ends").expect("it is waited for");
    }
}

/// Whether the edge had it, and its bytes.
async fn get(client: &Client, path: &str) -> (bool, Bytes) {
    let answer = client.get(path).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 200, "{path}");
    let is_hit = answer
        .header("cache-status")
        .is_some_and(|status| status.starts_with("edge-1; hit"));
    (is_hit, answer.bytes(16 << 20).await.expect("a whole body"))
}

async fn put(client: &Client, path: &str) {
    let request = Request::put(path);
    let request = request.body(Payload::bytes("change")).expect("a request");
    let answer = client.send(request).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 200);
    answer.bytes(100).await.expect("a whole body");
}

#[tokio::test]
async fn what_was_stored_is_served_after_the_end_and_what_was_invalidated_is_not() {
    let Some(program) = tools::built("stoq-edge") else {
        return tools::skipped(
            "restart",
            "stoq-edge is not built beside the tests: `cargo build -p stoq-edge`, or test the workspace",
        );
    };
    let seed = body::seed();
    let large = body::random(seed, 3 << 20);
    let served = large.clone();
    let origin = Origin::start(move |seen| {
        let large = served.clone();
        async move {
            let answer = match seen.uri.path() {
                "/large" => Answer::ok(large),
                path => Answer::ok(format!("{path} {}", seen.nth)),
            };
            answer.fresh(600)
        }
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Node {
        program: &program,
        directory: directory.path(),
        origin: &origin,
        port: tools::free_port(),
        running: None,
    };
    let mut client = node.start().await;
    let (_, small) = get(&client, "/small").await;
    assert!(!get(&client, "/large").await.0);
    for (round, signal) in ["-TERM", "-KILL", "-KILL", "-TERM", "-KILL"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/changes/{round}");
        let (_, before) = get(&client, &path).await;
        if signal == "-KILL" {
            // Not waiting for a condition: it is the promise that so much time suffices.
            tokio::time::sleep(LOST + Duration::from_millis(500)).await;
        }
        assert_eq!(get(&client, &path).await, (true, before.clone()));
        // Answered, and ended at once.
        put(&client, &path).await;
        node.end(signal).await;
        client = node.start().await;
        let (is_hit, after) = get(&client, &path).await;
        assert!(!is_hit && after != before, "round {round}: {after:?}");
        assert_eq!(
            get(&client, "/small").await,
            (true, small.clone()),
            "round {round}"
        );
        let (is_hit, bytes) = get(&client, "/large").await;
        assert!(is_hit && bytes == large, "round {round}");
    }
    assert_eq!(
        (origin.requests("/small"), origin.requests("/large")),
        (1, 1)
    );
    node.end("-TERM").await;
}
