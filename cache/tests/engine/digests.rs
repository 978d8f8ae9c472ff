//! Digests of stored representations (RFC 9530), for those who want one and for nobody else; and what else a stored head says of its bytes.

use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use stoq_cache::{engine::CacheRequest, http::digest::Algorithm, reply::Reply};

use crate::script::{House, Script, body, fed, house, noise, response, settle, until};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: Fields = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];
const WANTED: (&str, &str) = ("want-repr-digest", "sha-256=5");

fn expected(algorithm: Algorithm, length: usize) -> String {
    let mut hash = algorithm.hash();
    hash.update(&noise(1, length));
    hash.into_field().unwrap().to_str().unwrap().to_owned()
}

fn field(reply: &Reply, name: &str) -> Option<String> {
    let headers = reply.to_headers();
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().unwrap().to_owned();
    assert!(values.next().is_none(), "{name} once");
    Some(value)
}

fn digest(reply: &Reply) -> Option<String> {
    field(reply, "repr-digest")
}

async fn served(house: &House, request: CacheRequest, upstream: &Arc<Script>) -> Reply {
    house.serve(request, upstream).await.unwrap()
}

#[tokio::test]
async fn it_is_made_once_for_those_who_want_it_and_never_for_others() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 300_000));
    house.fetch("/", &upstream).await;
    let made = || house.cache.metrics().digests_made.get();
    assert_eq!(digest(&house.try_hit(&house.get("/", &[])).unwrap()), None);
    assert!(
        house.try_hit(&house.get("/", &[WANTED])).is_none(),
        "not within a hit"
    );
    let crowd =
        join_all((0..20).map(|_| served(&house, house.get("/", &[WANTED]), &upstream))).await;
    for reply in crowd {
        assert_eq!(
            digest(&reply).unwrap(),
            expected(Algorithm::Sha256, 300_000)
        );
        assert_eq!(body(reply).await.unwrap(), noise(1, 300_000));
    }
    assert_eq!(made(), 1);
    // Known by now, so a hit has it too; and who wants none still gets none.
    let hit = house.try_hit(&house.get("/", &[WANTED])).expect("a hit");
    assert_eq!(digest(&hit).unwrap(), expected(Algorithm::Sha256, 300_000));
    assert_eq!(digest(&house.try_hit(&house.get("/", &[])).unwrap()), None);
    let other = served(
        &house,
        house.get("/", &[("want-repr-digest", "sha-512=9, sha-256=1")]),
        &upstream,
    )
    .await;
    assert_eq!(
        digest(&other).unwrap(),
        expected(Algorithm::Sha512, 300_000)
    );
    assert_eq!((made(), upstream.fetches()), (2, 1));
    for refused in ["sha-256=0", "md5=5", "nonsense;"] {
        let refused = house.get("/", &[("want-repr-digest", refused)]);
        assert_eq!(digest(&house.try_hit(&refused).expect("a hit")), None);
    }
}

#[tokio::test]
async fn a_part_and_a_head_have_that_of_the_whole_and_other_answers_none() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 5_000));
    house.fetch("/", &upstream).await;
    let whole = Some(expected(Algorithm::Sha256, 5_000));
    let mut head = house.get("/", &[WANTED]);
    head.method = Method::HEAD;
    #[rustfmt::skip]
    let table = [
        (head, 200, whole.clone()),
        (house.get("/", &[WANTED, ("range", "bytes=10-19")]), 206, whole.clone()),
        (house.get("/", &[WANTED, ("range", "bytes=10-19,100-109")]), 206, whole),
        (house.get("/", &[WANTED, ("if-none-match", "\"v1\"")]), 304, None),
        (house.get("/", &[WANTED, ("range", "bytes=9000-")]), 416, None),
    ];
    for (request, status, expected) in table {
        let reply = served(&house, request.clone(), &upstream).await;
        assert_eq!(
            (reply.status().as_u16(), digest(&reply)),
            (status, expected.clone())
        );
        // The same where it is known.
        let reply = house.try_hit(&request).expect("a hit");
        assert_eq!(
            (reply.status().as_u16(), digest(&reply)),
            (status, expected)
        );
    }
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn it_outlives_a_validation_and_is_not_made_of_a_body_that_grows() {
    let house = house();
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let upstream = Script::new(move |_, _| {
        let answer = match once.lock().take() {
            Some(arriving) => response(200, FRESH, arriving),
            None => response(304, FRESH, stoq_cache::upstream::FetchBody::Empty),
        };
        std::future::ready(Ok(answer))
    });
    let growing = served(&house, house.get("/", &[WANTED]), &upstream).await;
    assert_eq!(digest(&growing), None);
    feed.send(Ok(noise(1, 5_000))).await.unwrap();
    drop(feed);
    assert_eq!(body(growing).await.unwrap(), noise(1, 5_000));
    settle().await;
    let reply = served(&house, house.get("/", &[WANTED]), &upstream).await;
    assert_eq!(digest(&reply).unwrap(), expected(Algorithm::Sha256, 5_000));
    house.pass_seconds(70);
    let reply = served(&house, house.get("/", &[WANTED]), &upstream).await;
    assert_eq!(digest(&reply).unwrap(), expected(Algorithm::Sha256, 5_000));
    assert_eq!(
        (upstream.fetches(), house.cache.metrics().digests_made.get()),
        (2, 1)
    );
}

#[tokio::test]
async fn the_origins_own_goes_out_as_it_is_where_it_is_right() {
    const OWN: Fields = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"v1\""),
        ("repr-digest", "sha-256=:AAAA:"),
        ("content-digest", "sha-256=:BBBB:"),
    ];
    let house = house();
    house.fetch("/", &Script::fixed(OWN, noise(1, 5_000))).await;
    let ask = |fields: Fields| {
        let reply = house.try_hit(&house.get("/", fields)).expect("a hit");
        (digest(&reply), field(&reply, "content-digest"))
    };
    let own = Some("sha-256=:AAAA:".to_owned());
    assert_eq!(ask(&[]), (own.clone(), Some("sha-256=:BBBB:".to_owned())));
    assert_eq!(ask(&[WANTED]).0, own);
    // Of the whole message: no part has that content.
    assert_eq!(ask(&[("range", "bytes=1-2")]), (own, None));
    assert_eq!(ask(&[("range", "bytes=9000-")]), (None, None));
    assert_eq!(house.cache.metrics().digests_made.get(), 0);
}

#[tokio::test]
async fn bytes_that_are_gone_make_no_digest_and_still_an_answer() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 300_000));
    house.fetch("/", &upstream).await;
    let mut spared = 0;
    house.tier.forget(|| {
        spared += 1;
        spared > 1
    });
    let reply = served(&house, house.get("/", &[WANTED]), &upstream).await;
    assert_eq!(digest(&reply), None);
    assert_eq!(body(reply).await.unwrap(), noise(1, 300_000));
    until("filled again", || {
        house.try_hit(&house.get("/", &[])).is_some()
    })
    .await;
    let reply = served(&house, house.get("/", &[WANTED]), &upstream).await;
    assert_eq!(
        digest(&reply).unwrap(),
        expected(Algorithm::Sha256, 300_000)
    );
}

#[tokio::test]
async fn a_stored_response_says_that_it_has_parts_unless_the_origin_says_otherwise() {
    let house = house();
    house
        .fetch("/plain", &Script::fixed(FRESH, noise(1, 100)))
        .await;
    const NONE: Fields = &[("cache-control", "max-age=60"), ("accept-ranges", "none")];
    house
        .fetch("/none", &Script::fixed(NONE, noise(1, 100)))
        .await;
    let missing = Script::new(|_, _| {
        std::future::ready(Ok(response(
            404,
            FRESH,
            stoq_cache::upstream::FetchBody::Empty,
        )))
    });
    house.fetch("/missing", &missing).await;
    for (path, expected) in [
        ("/plain", Some("bytes")),
        ("/none", Some("none")),
        ("/missing", None),
    ] {
        let reply = house.try_hit(&house.get(path, &[])).expect("a hit");
        assert_eq!(
            field(&reply, "accept-ranges").as_deref(),
            expected,
            "{path}"
        );
    }
}
