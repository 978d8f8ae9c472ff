//! The same bytes under many URLs are on disk once, and once a site where sites do not share.

use bytes::Bytes;
use integration::{Answer, Origin, body};

use crate::rig::{MIB, Setup, get, number};

/// URLs, and sites, that have the same bytes.
const TIMES: u64 = 10;

/// An origin that has these bytes under every path.
async fn everywhere(bytes: &Bytes) -> Origin {
    let bytes = bytes.clone();
    Origin::start(move |_| {
        let bytes = bytes.clone();
        async move { Answer::ok(bytes).fresh(86_400) }
    })
    .await
}

#[tokio::test]
async fn the_same_bytes_under_ten_urls_are_on_disk_once_and_of_ten_sites_ten_times() {
    let size = number("STOQ_SHARED_MIB", 20) * MIB;
    let bytes = body::random(
        body::seed(),
        usize::try_from(size).expect("a size that fits"),
    );
    let hash = blake3::hash(&bytes);
    let origin = everywhere(&bytes).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(mut setup) = Setup::edge("sharing", directory.path(), &origin.url()) else {
        return;
    };
    setup.size = "4GiB";
    for number in 0..TIMES {
        setup.sites.push_str(&format!(
            "[[site]]\nhosts = [\"site-{number}.test\"]\norigins = [\"{}\"]\n",
            origin.url()
        ));
    }
    let (written, new) = ("stoq_disk_written_bytes_total", "stoq_disk_put_bytes_total");
    let mut node = setup.start().await;
    let client = node.client().await;
    let mut of_urls = Vec::new();
    for number in 0..TIMES {
        let got = get(&client, &format!("/{number}"))
            .await
            .expect("an answer");
        assert_eq!((got.status, got.hash), (200, hash));
        of_urls.push(node.metric(new, &[]).await);
    }
    let (one, ten) = (of_urls[0], of_urls[of_urls.len() - 1]);
    assert!(one >= size as f64, "{one} bytes for one copy");
    assert!(
        ten <= one * 1.05,
        "ten names cost {ten} bytes, one {one}: {of_urls:?}"
    );
    // What is written is what was new, and no more than a twentieth beside it.
    node.until(written, &[], |bytes| bytes >= ten).await;
    let ten_written = node.metric(written, &[]).await;
    assert!(
        ten_written <= size as f64 * 1.05 + MIB as f64,
        "{ten_written} bytes were written for {size}"
    );

    // The control: sites keep their bytes apart.
    for number in 0..TIMES {
        let client = node.client_for(&format!("site-{number}.test")).await;
        let got = get(&client, "/").await.expect("an answer");
        assert_eq!((got.status, got.hash), (200, hash));
    }
    let apart = node.metric(new, &[]).await - ten;
    println!(
        "{} MiB: under one URL {:.2} MiB on disk, under ten {:.2} MiB ({:.2} MiB written), of ten sites {:.2} MiB more",
        size / MIB,
        one / MIB as f64,
        ten / MIB as f64,
        ten_written / MIB as f64,
        apart / MIB as f64
    );
    assert!(
        apart >= size as f64 * TIMES as f64 * 0.98,
        "ten sites cost {apart} bytes"
    );

    // All of it is there under every name after a restart.
    let asked = origin.seen().len();
    assert!(node.stop().await.success());
    node = setup.start().await;
    let client = node.client().await;
    for number in 0..TIMES {
        let got = get(&client, &format!("/{number}"))
            .await
            .expect("an answer");
        assert_eq!((got.status, got.hash), (200, hash));
    }
    let client = node.client_for("site-3.test").await;
    let got = get(&client, "/").await.expect("an answer");
    assert_eq!((got.status, got.hash), (200, hash));
    assert_eq!(
        origin.seen().len(),
        asked,
        "the origin was asked after a restart"
    );
    assert!(node.stop().await.success());
}
