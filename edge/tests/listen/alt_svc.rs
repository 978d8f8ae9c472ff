//! HTTP/3 is announced while it answers, and only then.

use std::time::Duration;

use http::Version;
use stoq_edge::alt_svc::{Pace, probe_forever};

use crate::client::Client;
use crate::rig::{Rig, until, within};

async fn announced(rig: &Rig, version: Version) -> Option<String> {
    let mut client = Client::connect(rig, version).await.unwrap();
    let answer = within(client.get("/hit")).await.unwrap();
    answer
        .headers()
        .get("alt-svc")
        .map(|value| value.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn http3_is_announced_after_its_answer_and_cleared_when_it_falls_silent() {
    let rig = Rig::start();
    assert_eq!(
        announced(&rig, Version::HTTP_2).await,
        None,
        "nothing is known yet"
    );

    let pace = Pace {
        interval: Duration::from_millis(50),
        retry: Duration::from_millis(10),
        timeout: Duration::from_millis(500),
    };
    let (alt_svc, addr, common) = (rig.alt_svc.clone(), rig.https, rig.common.clone());
    let prober = tokio::spawn(async move { probe_forever(alt_svc, addr, &common, pace).await });
    until("a probe is answered", || rig.alt_svc.value().is_some()).await;
    let expected = format!("h3=\":{}\"; ma=3600", rig.https.port());
    for version in [Version::HTTP_2, Version::HTTP_11] {
        assert_eq!(
            announced(&rig, version).await.as_ref(),
            Some(&expected),
            "{version:?}"
        );
    }
    assert_eq!(
        announced(&rig, Version::HTTP_3).await,
        None,
        "not over HTTP/3 itself"
    );
    assert!(
        rig.service
            .done
            .lock()
            .iter()
            .all(|done| done.path == "/hit"),
        "probes are no site's requests"
    );

    rig.endpoint.close(0x100, b"gone");
    until("it is taken back", || {
        rig.alt_svc.value().is_some_and(|value| value == "clear")
    })
    .await;
    assert_eq!(
        announced(&rig, Version::HTTP_2).await.as_deref(),
        Some("clear")
    );

    rig.drain.begin();
    within(prober).await.unwrap().unwrap();
    assert_eq!(
        rig.alt_svc.value(),
        None,
        "a draining edge announces nothing"
    );
}
