//! Clients that share no code with this house get whole files over HTTP/3, certificates verified.

use std::path::Path;
use std::time::Duration;

use integration::{Cluster, body, tools, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A page whose script fetches a file and writes the SHA-256 of what came into the document.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>probe</title><p id="out">waiting</p><script>
const hex = buffer => [...new Uint8Array(buffer)].map(byte => byte.toString(16).padStart(2, "0")).join("");
fetch("file.bin").then(response => response.arrayBuffer()).then(async body => {
  out.textContent = `length=${body.byteLength} sha256=${hex(await crypto.subtle.digest("SHA-256", body))}`;
}).catch(error => { out.textContent = `failed: ${error}`; });
</script>"#;

fn site(file: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("file.bin"), file).expect("a file is written");
    std::fs::write(dir.path().join("page.html"), PAGE).expect("a page is written");
    dir
}

fn shown(path: &Path) -> String {
    path.to_str().expect("a temporary path is text").to_owned()
}

#[tokio::test]
async fn aioquic_gets_the_same_bytes_with_the_ca_verified() {
    let Some(python) = tools::python_with_aioquic() else {
        return tools::skipped(
            "aioquic",
            "no Python with aioquic (STOQ_PYTHON, or python3 in the path)",
        );
    };
    let file = body::random(body::seed(), 3 << 20);
    let dir = site(&file);
    let cluster = Cluster::new()
        .origin_at(shown(dir.path()))
        .site("default_ttl = \"60s\"")
        .start()
        .await;
    let edge = cluster.edge();
    let (ca, out) = (dir.path().join("ca.pem"), dir.path().join("out.bin"));
    std::fs::write(&ca, edge.ca()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/http3_get.py");
    let connect = edge.https().to_string();

    for (round, status) in ["miss", "hit"].iter().enumerate() {
        let url = format!("https://localhost:{}/file.bin", edge.https().port());
        let arguments = [
            script,
            "--ca",
            &shown(&ca),
            "--connect",
            &connect,
            &url,
            &shown(&out),
        ];
        let ended = tools::run(&python, &arguments, LIMIT).await;
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(
            ended.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&ended.stderr)
        );
        println!("{status}: {}", said.trim());
        assert_eq!(std::fs::read(&out).unwrap(), file, "round {round}");
    }
    until("the hit is counted", || {
        edge.metric(
            "stoq_edge_requests_total",
            &["protocol=\"h3\"", "outcome=\"hit\""],
        ) == 1.0
    })
    .await;

    let stranger = dir.path().join("stranger.pem");
    let other = Cluster::new().origin_at(shown(dir.path())).start().await;
    std::fs::write(&stranger, other.edge().ca()).unwrap();
    let url = format!("https://localhost:{}/file.bin", edge.https().port());
    let ended = tools::run(
        &python,
        &[
            script,
            "--ca",
            &shown(&stranger),
            "--connect",
            &connect,
            &url,
            &shown(&out),
        ],
        LIMIT,
    )
    .await;
    assert!(
        !ended.status.success(),
        "another CA's word must not be enough"
    );
}

#[tokio::test]
async fn chromium_gets_the_same_bytes_over_http3() {
    let Some(chromium) = tools::chromium() else {
        return tools::skipped("chromium", "no Chromium in the path");
    };
    let file = body::random(body::seed(), 1 << 20);
    let dir = site(&file);
    let cluster = Cluster::new()
        .origin_at(shown(dir.path()))
        .site("default_ttl = \"60s\"")
        .start()
        .await;
    let edge = cluster.edge();
    let profile = tempfile::tempdir().unwrap();
    let port = edge.https().port();
    let arguments = [
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--no-first-run".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        "--disable-sync".to_owned(),
        format!("--user-data-dir={}", shown(profile.path())),
        "--host-resolver-rules=MAP edge.test 127.0.0.1".to_owned(),
        format!("--origin-to-force-quic-on=edge.test:{port}"),
        format!("--ignore-certificate-errors-spki-list={}", edge.spki()),
        "--virtual-time-budget=20000".to_owned(),
        "--dump-dom".to_owned(),
        format!("https://edge.test:{port}/page.html"),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ended = tools::run(&chromium, &arguments, LIMIT).await;
    let dom = String::from_utf8_lossy(&ended.stdout);
    let want = format!("length={} sha256={}", file.len(), sha256(&file));
    println!(
        "{}",
        dom.lines()
            .find(|line| line.contains("sha256"))
            .unwrap_or("no hash in the document")
    );
    assert!(
        dom.contains(&want),
        "want {want} in\n{dom}\n{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let by = |protocol: &str| {
        edge.metric(
            "stoq_edge_requests_total",
            &[&format!("protocol=\"{protocol}\"")],
        )
    };
    assert!(
        by("h3") >= 2.0,
        "page and file came over HTTP/3: {}",
        by("h3")
    );
    assert_eq!(by("h2") + by("h1"), 0.0, "nothing came another way");
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
