//! Which requests share a stored response, through the whole edge and with a shield behind it: queries, paths, `Vary`.

use http::Request;
use integration::{Answer, Client, Cluster, Origin, Payload, Running, Version, until};

const EACH: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// Status, body, and whether the edge answered without asking anyone.
async fn ask(client: &Client, path: &str, fields: &[(&str, &str)]) -> (u16, String, bool) {
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Payload::empty()).expect("a request");
    let answer = client.send(request).await.expect("an answer");
    let status = answer.status.as_u16();
    let said = answer.header("cache-status").unwrap_or_default();
    let ours = said.rsplit("edge-1").next().unwrap_or_default();
    // A fill that has sent its last byte may not be stored yet; who joins it asked nobody either.
    let hit = ours.starts_with("; hit") || ours.contains("; collapsed");
    let body = answer.bytes(10_000).await.expect("a body");
    (status, String::from_utf8_lossy(&body).into_owned(), hit)
}

/// An origin that says what it was asked for, fresh for a minute.
async fn echo() -> Origin {
    Origin::start(|seen| async move {
        let target = seen.uri.path_and_query().map(ToString::to_string);
        Answer::ok(target.unwrap_or_default()).fresh(60)
    })
    .await
}

/// The same cluster without and with a shield.
async fn both(make: impl Fn() -> Cluster) -> [Running; 2] {
    [make().start().await, make().shield().start().await]
}

#[tokio::test]
async fn what_the_rules_leave_out_of_the_key_never_reaches_the_origin() {
    let origin = echo().await;
    let rules = "query = { drop = [\"utm_*\", \"fbclid\"], sort = true }\nrule = [{ paths = [\"/img/*\"], query = \"ignore\" }, { paths = [\"/raw/*\"], query = \"keep\" }]";
    for cluster in both(|| Cluster::new().origin(&origin).site(rules)).await {
        for (number, version) in EACH.into_iter().enumerate() {
            let client = cluster.edge().client(version).await;
            let is_hit = number > 0;
            #[rustfmt::skip]
            let table = [
                ("/p?b=1&a=2&utm_source=x", "/p?a=2&b=1", is_hit),
                ("/p?utm_x&a=2&fbclid=7&b=1", "/p?a=2&b=1", true),
                ("/p?a=2&b=1&c=", "/p?a=2&b=1&c=", is_hit),
                ("/p?utm_a=1;b=2", "/p", is_hit),
                ("/img/x/../logo?v=1", "/img/logo", is_hit),
                ("/img/%6cogo?v=2", "/img/logo", true),
                ("/raw/x?b&a&utm_a", "/raw/x?b&a&utm_a", is_hit),
            ];
            for (asked, told, hit) in table {
                let want = (200, told.to_owned(), hit);
                assert_eq!(ask(&client, asked, &[]).await, want, "{version:?} {asked}");
            }
        }
    }
}

#[tokio::test]
async fn the_query_of_a_request_that_changes_something_is_left_alone() {
    let origin = echo().await;
    for cluster in both(|| Cluster::new().origin(&origin).site("query = \"ignore\"")).await {
        let client = cluster.edge().client(Version::Http2).await;
        let request = Request::post("/do?action=delete&b=1");
        let answer = client.send(request.body(Payload::bytes("x")).unwrap());
        let body = answer.await.unwrap().bytes(1000).await.unwrap();
        assert_eq!(body, "/do?action=delete&b=1");
    }
}

#[tokio::test]
async fn an_edge_whose_rules_are_not_the_shields_is_refused() {
    let origin = echo().await;
    let cluster = Cluster::new().origin(&origin).shield();
    let cluster = cluster.edge_site("query = \"ignore\"").start().await;
    let client = cluster.edge().client(Version::Http1).await;
    // A GET is asked for in the edge's spelling, which is the shield's too: the edge's rules alone hold.
    assert_eq!(ask(&client, "/a?x", &[]).await, (200, "/a".into(), false));
    // A request that is passed on keeps its query, and there the two do not agree.
    let request = Request::post("/a?x").body(Payload::empty()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 502);
    assert_eq!(origin.requests("/a"), 1);
}

#[tokio::test]
async fn spellings_of_one_path_are_one_object_and_encoded_delimiters_are_others() {
    let origin = echo().await;
    for cluster in both(|| Cluster::new().origin(&origin)).await {
        let client = cluster.edge().client(Version::Http1).await;
        #[rustfmt::skip]
        let table = [
            ("/account/a.css", "/account/a.css", false), ("/account/%61%2ecss", "/account/a.css", true),
            ("/x/%2e%2E/account/a.css", "/account/a.css", true),
            // None of these is the page below which it pretends to lie, to the key or to the origin.
            ("/account%2Fa.css", "/account%2Fa.css", false), ("/account%2fa.css", "/account%2Fa.css", true),
            ("/account%3Fa.css", "/account%3Fa.css", false), ("/account;a.css", "/account;a.css", false),
            ("/account%3Ba.css", "/account%3Ba.css", false), ("/account%00a.css", "/account%00a.css", false),
            ("/account%23a.css", "/account%23a.css", false), ("/account/a.css/", "/account/a.css/", false),
            ("/account//a.css", "/account//a.css", false), ("/account/..%2fa.css", "/account/..%2Fa.css", false),
            ("/account/%252e%252e/a.css", "/account/%252e%252e/a.css", false),
            ("/account/a.css?", "/account/a.css?", false), ("/ACCOUNT/a.css", "/ACCOUNT/a.css", false),
        ];
        for (asked, told, hit) in table {
            assert_eq!(
                ask(&client, asked, &[]).await,
                (200, told.into(), hit),
                "{asked}"
            );
        }
    }
}

#[tokio::test]
async fn requests_that_ask_alike_share_a_variant() {
    let origin = Origin::start(|seen| async move {
        let told = format!(
            "{}|{}",
            seen.header("accept-language"),
            seen.header("accept-encoding")
        );
        Answer::ok(told)
            .fresh(60)
            .header("vary", "Accept-Language, Accept-Encoding")
    })
    .await;
    let make = || {
        Cluster::new()
            .origin(&origin)
            .site("normal_accept_encoding = true")
    };
    for cluster in both(make).await {
        let client = cluster.edge().client(Version::Http3).await;
        let fields =
            |language, encoding| [("accept-language", language), ("accept-encoding", encoding)];
        #[rustfmt::skip]
        let table = [
            ("en, de", "gzip, deflate, br", "en, de|br, gzip", false),
            ("dE,en", "br, gzip", "en, de|br, gzip", true),
            ("de;q=1.0, en", "gzip;q=1, x-unknown, br", "en, de|br, gzip", true),
            ("de, en;q=0.9", "gzip, br", "de, en;q=0.9|br, gzip", false),
            ("en, de", "gzip", "en, de|gzip", false),
            ("en, de", "gzip, br;q=0.1", "en, de|gzip, br;q=0.9", false),
            ("en", "gzip", "en|gzip", false),
        ];
        for (language, encoding, told, hit) in table {
            let got = ask(&client, "/", &fields(language, encoding)).await;
            assert_eq!(got, (200, told.to_owned(), hit), "{language} | {encoding}");
        }
        assert_eq!(ask(&client, "/", &[]).await, (200, "|".to_owned(), false));
    }
}

#[tokio::test]
async fn a_flood_of_variants_stays_within_the_cap_and_is_counted() {
    const FLOOD: usize = 10_000;
    const LANES: usize = 20;
    let origin = Origin::start(|seen| async move {
        let told = seen.header("accept-language").to_owned();
        Answer::ok(told).fresh(60).header("vary", "accept-language")
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http2).await;
    let language = |n: usize| format!("en-x-{n}");
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..LANES {
        let client = client.clone();
        lanes.spawn(async move {
            for n in (lane..FLOOD).step_by(LANES) {
                let got = ask(&client, "/", &[("accept-language", &language(n))]).await;
                assert_eq!(got, (200, language(n), false));
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.expect("every request is answered with its own variant");
    }
    let dropped = || {
        cluster
            .edge()
            .metric("stoq_cache_variants_dropped_total", &[])
    };
    until("the last fill is stored", || {
        dropped() >= (FLOOD - 16) as f64
    })
    .await;
    assert_eq!(dropped(), (FLOOD - 16) as f64);
    // One by one, so that it is known which are the newest.
    for n in FLOOD..FLOOD + 16 {
        let got = ask(&client, "/", &[("accept-language", &language(n))]).await;
        assert_eq!(got, (200, language(n), false));
    }
    until("the last fill is stored", || dropped() >= FLOOD as f64).await;
    assert_eq!(dropped(), FLOOD as f64);
    for n in FLOOD..FLOOD + 16 {
        let got = ask(&client, "/", &[("accept-language", &language(n))]).await;
        assert_eq!(got, (200, language(n), true), "{n} is among the newest");
    }
    let got = ask(&client, "/", &[("accept-language", &language(FLOOD - 1))]).await;
    assert!(!got.2, "the older ones left");
}

#[tokio::test]
async fn what_varies_by_everything_is_never_given_to_another() {
    let origin = Origin::start(|seen| async move {
        Answer::ok(seen.nth.to_string())
            .fresh(60)
            .header("vary", "accept, *")
    })
    .await;
    for cluster in both(|| Cluster::new().origin(&origin)).await {
        let client = cluster.edge().client(Version::Http1).await;
        let first = ask(&client, "/", &[]).await;
        let second = ask(&client, "/", &[]).await;
        assert!(!first.2 && !second.2);
        assert_ne!(first.1, second.1);
    }
}

#[tokio::test]
async fn a_query_that_a_response_does_not_depend_on_is_answered_from_the_store() {
    let origin = Origin::start(|seen| async move {
        let target = seen.uri.path_and_query().map(ToString::to_string);
        let field = match seen.uri.path() {
            "/drop" => "key-order, params=(\"utm\" \"ref\")",
            "/only" => "params, except=(\"v\")",
            _ => "params=(utm)",
        };
        let answer = Answer::ok(target.unwrap_or_default()).fresh(60);
        answer.header("no-vary-search", field)
    })
    .await;
    for cluster in both(|| Cluster::new().origin(&origin)).await {
        let client = cluster.edge().client(Version::Http3).await;
        #[rustfmt::skip]
        let table = [
            ("/drop?a=1&b=2&utm=x", "/drop?a=1&b=2&utm=x", false),
            ("/drop?utm=y&b=2&a=1", "/drop?a=1&b=2&utm=x", true),
            ("/drop?%61=1&b=%32&ref", "/drop?a=1&b=2&utm=x", true),
            ("/drop?a=1&b=3", "/drop?a=1&b=3", false),
            ("/drop?a=1", "/drop?a=1", false),
            ("/drop2?a=1&b=2", "/drop2?a=1&b=2", false),
            ("/only?v=1&x=2", "/only?v=1&x=2", false),
            ("/only?y&v=1", "/only?v=1&x=2", true),
            ("/only?y", "/only?y", false),
            ("/only", "/only?y", true),
            // A field that is not understood says nothing.
            ("/broken?utm=1", "/broken?utm=1", false), ("/broken?utm=2", "/broken?utm=2", false),
        ];
        for (asked, told, hit) in table {
            let got = ask(&client, asked, &[]).await;
            assert_eq!(got, (200, told.to_owned(), hit), "{asked}");
        }
        // What changes something at the path makes all of it be asked for again, but for the very URL's own response.
        let request = Request::post("/drop?a=9")
            .body(Payload::bytes("x"))
            .unwrap();
        assert_eq!(client.send(request).await.unwrap().status, 200);
        let got = ask(&client, "/drop?b=2&a=1&ref=3", &[]).await;
        assert_eq!(got.0, 200);
        assert!(
            !got.2,
            "nothing is found by what was known before the change"
        );
    }
}
