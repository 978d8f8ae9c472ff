//! What was invalidated before a kill is not fresh after it.

use http::Request;
use integration::{Answer, Client, Origin, Payload};

use crate::rig::{Got, Setup, get, send};

/// How many URLs of each kind there are.
const EACH: usize = 8;

/// Text that says how often its path was asked for. What is under `/group/` is of the group `g`, and a POST to `/end` ends that group.
async fn counting() -> Origin {
    Origin::start(|seen| async move {
        if seen.method == http::Method::POST {
            let answer = Answer::ok("done");
            return if seen.uri.path() == "/end" {
                answer.header("cache-group-invalidation", "\"g\"")
            } else {
                answer
            };
        }
        let answer = Answer::ok(format!("{} {}", seen.uri, seen.nth)).fresh(86_400);
        if seen.uri.path().starts_with("/group/") {
            answer.header("cache-groups", "\"g\"")
        } else {
            answer
        }
    })
    .await
}

async fn post(client: &Client, path: &str) -> Got {
    let request = Request::post(path).body(Payload::bytes("change"));
    let got = send(client, request.expect("a request")).await;
    got.expect("an answer")
}

fn paths(kind: &str) -> Vec<String> {
    (0..EACH)
        .map(|number| format!("/{kind}/{number}"))
        .collect()
}

/// Asks for each; fails unless the origin was asked for each, or for none.
async fn ask(client: &Client, origin: &Origin, kind: &str, anew: bool, what: &str) {
    for path in paths(kind) {
        let before = origin.requests(&path);
        let got = get(client, &path).await.expect("an answer");
        assert_eq!(got.status, 200, "{what}: {path}");
        let asked = origin.requests(&path) != before;
        assert_eq!(
            asked, anew,
            "{what}: {path}: the origin was asked: {asked}; {}",
            got.cache_status
        );
    }
}

#[tokio::test]
async fn what_was_invalidated_before_a_kill_is_not_fresh_after_it_and_the_rest_is() {
    let origin = counting().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(setup) = Setup::edge("invalidated", directory.path(), &origin.url()) else {
        return;
    };
    let node = setup.start().await;
    let client = node.client().await;
    for kind in ["url", "group", "kept"] {
        ask(&client, &origin, kind, true, "at first").await;
    }
    // An orderly end has everything on disk, so that only what happens from here on may change what comes back.
    assert!(node.stop().await.success());
    for round in 0..3 {
        let what = format!("round {round}");
        let node = setup.start().await;
        let client = node.client().await;
        for kind in ["url", "group", "kept"] {
            // Before anything was invalidated all of it comes back fresh; after a kill, only what was not.
            let anew = round > 0 && kind != "kept";
            ask(&client, &origin, kind, anew, &what).await;
        }
        for path in paths("url") {
            assert_eq!(post(&client, &path).await.status, 200);
        }
        assert_eq!(post(&client, "/end").await.status, 200);
        // At once: an answer that was passed on has its marks in the file.
        node.kill().await;
    }
    let node = setup.start().await;
    let client = node.client().await;
    for (kind, anew) in [("url", true), ("group", true), ("kept", false)] {
        ask(&client, &origin, kind, anew, "at last").await;
    }
}
