//! The program under SIGTERM: a hundred downloads under way complete, newcomers are refused at once, it ends with 0.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::{Client, Version, body, tools};
use stoq_loadtest::{Target, Trust};
use tokio::task::JoinSet;

const DOWNLOADS: usize = 100;
/// More than all windows and buffers between edge and client hold, so that a download that is not read is under way.
const SIZE: usize = 12 << 20;

#[tokio::test]
async fn sigterm_during_a_hundred_downloads_loses_none_and_refuses_newcomers() {
    let Some(program) = tools::built("stoq-edge") else {
        return tools::skipped(
            "sigterm",
            "stoq-edge is not built beside the tests: `cargo build -p stoq-edge`, or test the workspace",
        );
    };
    let seed = body::seed();
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    std::fs::create_dir(&site).unwrap();
    let mut hashes = Vec::new();
    for file in 0..4 {
        let bytes = body::random(seed + file, SIZE);
        hashes.push(blake3::hash(&bytes));
        std::fs::write(site.join(file.to_string()), &bytes).unwrap();
    }
    let (mut edge, target) = start(&program, dir.path()).await;

    let mut downloads = JoinSet::new();
    let (begun, mut first_bytes) = tokio::sync::mpsc::channel(DOWNLOADS);
    let go = integration::Gate::default();
    for version in [Version::Http3, Version::Http2] {
        for connection in 0..10 {
            let client = Client::connect(&target, version).await.unwrap();
            for download in 0..DOWNLOADS / 20 {
                let (client, begun, go) = (client.clone(), begun.clone(), go.clone());
                let file = (connection + download) % hashes.len();
                downloads.spawn(async move {
                    let mut answer = client.get(&format!("/{file}")).await.unwrap();
                    let mut hash = blake3::Hasher::new();
                    hash.update(&answer.body.chunk().await.unwrap().expect("first bytes"));
                    begun.send(()).await.unwrap();
                    go.passed().await;
                    while let Some(bytes) = answer.body.chunk().await.unwrap() {
                        hash.update(&bytes);
                    }
                    (file, hash.finalize())
                });
            }
        }
    }
    for _ in 0..DOWNLOADS {
        first_bytes
            .recv()
            .await
            .expect("a first byte for each download");
    }

    let id = edge.id().expect("the edge runs").to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    for version in [Version::Http3, Version::Http2, Version::Http1] {
        let begun = std::time::Instant::now();
        // The signal is handled within milliseconds; from then on the kernel or the endpoint refuses.
        loop {
            match tokio::time::timeout(Duration::from_secs(5), Client::connect(&target, version))
                .await
            {
                Ok(Err(_)) => break,
                Ok(Ok(_)) => assert!(
                    begun.elapsed() < Duration::from_secs(2),
                    "{version:?} is still let in"
                ),
                Err(_) => panic!("{version:?}: a newcomer hangs instead of being refused"),
            }
        }
    }
    go.open();
    let mut complete = 0;
    while let Some(done) = downloads.join_next().await {
        let (file, hash) = done.expect("a download does not panic");
        assert_eq!(hash, hashes[file]);
        complete += 1;
    }
    assert_eq!(complete, DOWNLOADS);
    let ended = tokio::time::timeout(Duration::from_secs(40), edge.wait())
        .await
        .expect("it ends")
        .unwrap();
    assert!(ended.success(), "{ended}");
}

/// Starts the program on a port of the system's choice and waits until it answers.
async fn start(program: &Path, dir: &Path) -> (tokio::process::Child, Target) {
    let port = tools::free_port();
    let config = dir.join("edge.toml");
    let text = format!(
        "[node]\nname = \"edge-1\"\nstate_dir = \"state\"\n[listen]\nhttps = [\"127.0.0.1:{port}\"]\n[log]\naccess = false\n\
         [[site]]\nhosts = [\"*\"]\norigins = [\"./site\"]\ndefault_ttl = \"1h\"\n"
    );
    std::fs::write(&config, text).expect("a configuration is written");
    let child = tokio::process::Command::new(program)
        .args(["run", "--config"])
        .arg(&config)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("the edge starts");
    let target = Target::new("https://localhost")
        .expect("a URL")
        .at(([127, 0, 0, 1], port).into());
    let target = target.trusting(Trust::Insecure);
    let answering = tokio::time::timeout(Duration::from_secs(30), async {
        while Client::connect(&target, Version::Http3).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    answering.await.expect("the edge answers within 30 s");
    (child, target)
}
