//! The end of an edge with several workers.

use std::time::Duration;

use stoq_edge::{Edge, Prepared};
use stoq_node::{Config, Env, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

#[tokio::test]
async fn a_worker_that_is_done_does_not_cut_off_another_ones_download() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (release, held) = oneshot::channel::<()>();
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[node]\nstate_dir = \"state\"\nworkers = 4\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[log]\naccess = false\n\
         [[site]]\nhosts = [\"*\"]\norigins = [\"http://{}\"]\n",
        origin.local_addr().unwrap()
    );
    tokio::spawn(async move {
        let (mut asked, _) = origin.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = asked.read(&mut request).await.unwrap();
        asked
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234")
            .await
            .unwrap();
        let _ = held.await;
        asked.write_all(b"56789").await.unwrap();
    });
    let config =
        Config::parse("edge.toml", &text, dir.path(), &Env::default(), Role::Edge).unwrap();
    let running = Edge::start(Prepared::new(config).unwrap()).unwrap();
    let (addr, drain) = (running.http_addrs()[0], running.drain().clone());
    let ended = tokio::spawn(running.wait());

    let mut client = TcpStream::connect(addr).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")
        .await
        .unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"01234") {
        assert_ne!(
            client.read_buf(&mut response).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&response)
        );
    }
    drain.begin();
    // All four have closed their listeners, and three of them have nothing left to do.
    let refused = async { while TcpStream::connect(addr).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), refused)
        .await
        .unwrap();
    release.send(()).unwrap();
    client.read_to_end(&mut response).await.unwrap();
    assert!(
        response.ends_with(b"0123456789"),
        "{}",
        String::from_utf8_lossy(&response)
    );
    ended.await.unwrap().unwrap();
}
