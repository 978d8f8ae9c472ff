//! Drain as a process manager brings it about. The only test of its binary, since signals reach the whole process.

use std::{process::Command, time::Duration};

use stoq_node::{Drain, DrainOutcome, Signals};

async fn send(signal: &str) {
    let command = format!("kill -{signal} {}", std::process::id());
    let sent =
        tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &command]).status());
    assert!(
        sent.await
            .is_ok_and(|status| status.is_ok_and(|status| status.success()))
    );
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends_at_once() {
    let drain = Drain::new(Duration::from_secs(3600));
    let open = drain.track();
    let listening = Signals::listen().unwrap();
    // It comes before anybody follows, and is not lost.
    send("TERM").await;
    let signals = tokio::spawn({
        let drain = drain.clone();
        async move { drain.follow_signals(listening).await }
    });
    let run = tokio::spawn({
        let drain = drain.clone();
        async move { drain.run().await }
    });
    drain.begun().await;
    assert!(!drain.has_ended(), "what is open goes on");
    send("INT").await;
    assert_eq!(run.await.unwrap(), DrainOutcome::Forced { left: 1 });
    signals.await.unwrap();
    drop(open);
}
