//! Calls of the admin listener, from both ends.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use http::Method;
use serde_json::json;
use stoq_node::{
    Admin, AdminHandle, AskError, CallError, Calls, Drain, Readiness, Registry, ask,
    config::AdminAddr,
};
use tokio::sync::mpsc;

fn serve(calls: Calls) -> AdminHandle {
    let readiness = Readiness::new(Drain::new(Duration::from_secs(30)));
    let addr = AdminAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let admin = Admin::bind(&addr).unwrap().offering(calls);
    admin.serve(Registry::new(), readiness).unwrap()
}

#[tokio::test]
async fn what_a_call_answers_arrives_and_what_it_refuses_says_why() {
    let calls = Calls::default()
        .get("/v1/fine", async || Ok(json!({ "is": 1 })))
        .post("/v1/busy", async || {
            Err(CallError::Busy("later".to_owned()))
        });
    let admin = serve(calls);
    let addr = admin.local_addr();
    let fine = ask(addr, Method::GET, "/v1/fine").await.unwrap();
    assert_eq!(fine, json!({ "is": 1 }));
    let busy = ask(addr, Method::POST, "/v1/busy").await.unwrap_err();
    assert!(busy.to_string().ends_with("says: later"), "{busy}");
    for (method, path, status) in [
        (Method::POST, "/v1/fine", "405"),
        (Method::GET, "/v1/none", "404"),
    ] {
        let error = ask(addr, method, path).await.unwrap_err().to_string();
        assert!(error.contains(status), "{error}");
    }
}

#[tokio::test]
async fn who_does_not_run_is_told_from_who_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let addr = AdminAddr::Unix(dir.path().join("admin.sock"));
    let error = ask(&addr, Method::GET, "/v1/fine").await.unwrap_err();
    assert!(matches!(error, AskError::NotRunning { .. }), "{error}");
}

#[test]
fn a_web_page_cannot_make_a_browser_call() {
    let admin = serve(Calls::default().post("/v1/fine", async || Ok(json!({}))));
    let AdminAddr::Tcp(addr) = admin.local_addr() else {
        panic!("a TCP listener")
    };
    for (origin, status) in [("", "200"), ("origin: https://evil.example\r\n", "403")] {
        let mut stream = TcpStream::connect(addr).unwrap();
        write!(
            stream,
            "POST /v1/fine HTTP/1.1\r\nhost: localhost\r\n{origin}connection: close\r\ncontent-length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
}

/// Tells when it is dropped.
struct Told(mpsc::Sender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.try_send("ended");
    }
}

#[tokio::test]
async fn who_leaves_ends_the_call() {
    let (tell, mut told) = mpsc::channel(2);
    let calls = Calls::default().post("/v1/long", move || {
        let told = Told(tell.clone());
        async move {
            let _ = told.0.try_send("begun");
            std::future::pending::<()>().await;
            drop(told);
            Ok(json!({}))
        }
    });
    let admin = serve(calls);
    let addr = admin.local_addr().clone();
    let call = tokio::spawn(async move { ask(&addr, Method::POST, "/v1/long").await });
    assert_eq!(told.recv().await, Some("begun"));
    call.abort();
    let ended = tokio::time::timeout(Duration::from_secs(10), told.recv()).await;
    assert_eq!(ended.unwrap(), Some("ended"));
}
