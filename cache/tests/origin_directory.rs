//! A directory as an origin: what it serves, what it refuses, and files that change under it.

#![expect(
    clippy::unwrap_used,
    reason = "a test's directory that cannot be made has failed the test"
)]

mod origin_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use http::{Method, StatusCode};
use origin_support::{body, get, request};
use stoq_cache::origin::{DirOrigin, PIECE_BYTES};
use stoq_cache::upstream::{BodyError, FetchBody, FetchResponse, Upstream};
use tempfile::TempDir;

fn directory() -> (TempDir, DirOrigin) {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.txt"), "0123456789").unwrap();
    fs::create_dir(directory.path().join("sub dir")).unwrap();
    fs::write(directory.path().join("sub dir/index.html"), "<p>index").unwrap();
    fs::write(directory.path().join("index.html"), "<p>root").unwrap();
    let origin = DirOrigin::open(directory.path()).unwrap();
    (directory, origin)
}

async fn fetch(origin: &DirOrigin, path: &str, headers: &[(&'static str, &str)]) -> FetchResponse {
    origin
        .fetch(request(Method::GET, path, headers))
        .await
        .unwrap()
}

#[tokio::test]
async fn files_come_with_type_length_and_validators() {
    let (_directory, origin) = directory();
    for (path, media, text) in [
        ("/a.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/", "text/html; charset=utf-8", "<p>root"),
        ("/sub%20dir/?x=1", "text/html; charset=utf-8", "<p>index"),
    ] {
        let response = fetch(&origin, path, &[]).await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
        assert_eq!(response.headers["content-type"], media);
        assert_eq!(
            response.headers["content-length"],
            text.len().to_string().as_str()
        );
        assert!(
            response.headers.contains_key("etag") && response.headers.contains_key("last-modified")
        );
        assert_eq!(body(response).await.unwrap(), text.as_bytes());
    }
    let response = origin
        .fetch(request(Method::HEAD, "/a.txt", &[("range", "bytes=0-1")]))
        .await
        .unwrap();
    assert_eq!(
        (response.status, &response.headers["content-length"]),
        (StatusCode::OK, &"10".parse().unwrap())
    );
    assert!(matches!(response.body, FetchBody::Empty));
}

#[tokio::test]
async fn a_directory_without_its_slash_is_redirected_to_itself() {
    let (_directory, origin) = directory();
    let response = fetch(&origin, "/sub%20dir?a=b", &[]).await;
    assert_eq!(response.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(response.headers["location"], "/sub%20dir/?a=b");
}

#[tokio::test]
async fn nothing_outside_nothing_hidden_and_nothing_but_files_is_served() {
    let (directory, origin) = directory();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path().join("secret"), directory.path().join("link")).unwrap();
    symlink(outside.path(), directory.path().join("tree")).unwrap();
    symlink("/etc/passwd", directory.path().join("passwd")).unwrap();
    symlink("loop", directory.path().join("loop")).unwrap();
    symlink("a.txt", directory.path().join("inside")).unwrap();
    fs::write(directory.path().join(".env"), "secret").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(directory.path().join("fifo"))
        .status()
        .unwrap();
    assert!(fifo.success());
    let up = outside
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    for path in [
        "/missing",
        "/link",
        "/tree/secret",
        "/tree/",
        "/passwd",
        "/loop",
        "/.env",
        "/socket",
        "/fifo",
        "/a.txt/",
        "/a.txt/b",
        "/%2e%2e/etc/passwd",
        "/..%2fetc/passwd",
        "/sub%20dir/%2e%2e/a.txt",
        "/sub%20dir%2findex.html",
        "//etc/passwd",
        "/a.txt%00",
        &format!("/../{up}/secret"),
        &format!("/{}", "x".repeat(300)),
        "/missing/",
    ] {
        let limited = tokio::time::timeout(Duration::from_secs(10), fetch(&origin, path, &[]));
        let response = limited.await.unwrap_or_else(|_| panic!("{path} hangs"));
        assert_eq!(response.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(body(response).await.unwrap(), b"Not found.\n", "{path}");
    }
    assert_eq!(
        body(fetch(&origin, "/inside", &[]).await).await.unwrap(),
        b"0123456789",
        "a link that stays inside"
    );
}

#[tokio::test]
async fn other_methods_are_refused_by_name() {
    let (_directory, origin) = directory();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let response = origin.fetch(request(method, "/a.txt", &[])).await.unwrap();
        assert_eq!(
            (response.status, &response.headers["allow"]),
            (
                StatusCode::METHOD_NOT_ALLOWED,
                &"GET, HEAD".parse().unwrap()
            )
        );
    }
}

/// What happens to a file while it is sent.
type Change = fn(&Path);

fn age(path: &Path, by: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[tokio::test]
async fn ranges_and_conditions_hold_by_the_tag() {
    let (_directory, origin) = directory();
    // The change time cannot be set back, and a tag is strong only when it has passed for a while.
    let origin = origin.with_clock(|| SystemTime::now() + Duration::from_secs(60));
    let tag = fetch(&origin, "/a.txt", &[]).await.headers["etag"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(tag.starts_with('"'), "{tag}");
    let modified = fetch(&origin, "/a.txt", &[]).await.headers["last-modified"]
        .to_str()
        .unwrap()
        .to_owned();
    for (headers, status, range, text) in [
        (
            vec![("range", "bytes=2-4")],
            206,
            Some("bytes 2-4/10"),
            "234",
        ),
        (vec![("range", "bytes=-2")], 206, Some("bytes 8-9/10"), "89"),
        (vec![("range", "bytes=10-")], 416, Some("bytes */10"), ""),
        (vec![("range", "bytes=0-1,4-5")], 200, None, "0123456789"),
        (
            vec![("range", "bytes=2-4"), ("if-range", &tag)],
            206,
            Some("bytes 2-4/10"),
            "234",
        ),
        (
            vec![("range", "bytes=2-4"), ("if-range", "\"other\"")],
            200,
            None,
            "0123456789",
        ),
        (
            vec![("range", "bytes=2-4"), ("if-range", &modified)],
            200,
            None,
            "0123456789",
        ),
        (vec![("if-none-match", &tag)], 304, None, ""),
        (
            vec![
                ("if-none-match", "\"other\""),
                ("if-modified-since", &modified),
            ],
            200,
            None,
            "0123456789",
        ),
        (vec![("if-modified-since", &modified)], 304, None, ""),
    ] {
        let response = fetch(&origin, "/a.txt", &headers).await;
        assert_eq!(response.status.as_u16(), status, "{headers:?}");
        assert_eq!(
            response
                .headers
                .get("content-range")
                .map(|value| value.to_str().unwrap()),
            range,
            "{headers:?}"
        );
        assert_eq!(
            body(response).await.unwrap(),
            text.as_bytes(),
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_shrinks_grows_or_is_rewritten_while_it_is_sent_breaks_the_body() {
    let changes: [(&str, Change); 3] = [
        ("shrinks", |path| {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(10)
                .unwrap()
        }),
        ("grows", |path| {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(1 << 30)
                .unwrap()
        }),
        ("is rewritten", |path| {
            fs::write(path, vec![8; PIECE_BYTES * 4]).unwrap();
            // Within the same tick of the clock the times would not show it.
            age(path, Duration::from_secs(60));
        }),
    ];
    for (what, change) in changes {
        let (directory, origin) = directory();
        let path = directory.path().join("big");
        fs::write(&path, vec![7; PIECE_BYTES * 4]).unwrap();
        let FetchBody::Stream(mut stream) = fetch(&origin, "/big", &[]).await.body else {
            panic!("a body")
        };
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first, vec![7; PIECE_BYTES]);
        change(&path);
        let next = stream.next().await.unwrap();
        assert!(matches!(next, Err(BodyError::Upstream(_))), "{what}");
        assert!(
            stream.next().await.is_none(),
            "{what}: nothing after the error"
        );
    }
}

#[tokio::test]
async fn a_file_replaced_by_renaming_is_sent_whole_as_it_was() {
    let (directory, origin) = directory();
    let (path, new) = (directory.path().join("big"), directory.path().join("new"));
    fs::write(&path, vec![7; PIECE_BYTES * 2 + 1]).unwrap();
    fs::write(&new, vec![8; PIECE_BYTES]).unwrap();
    let response = fetch(&origin, "/big", &[]).await;
    fs::rename(&new, &path).unwrap();
    assert_eq!(body(response).await.unwrap(), vec![7; PIECE_BYTES * 2 + 1]);
    let response = origin.fetch(get("/big")).await.unwrap();
    assert_eq!(body(response).await.unwrap(), vec![8; PIECE_BYTES]);
}
