//! What a dishonest member says of others, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use stoq::identity::Identity;
use stoq_routing::NodeState;
use stoq_routing::membership::{Order, Statement};

use tokio::time::Instant;

use super::bus::{Bus, Founder, Node, Weather, addr, sender, state, until};
use crate::gossip::gate::{CERTIFICATE, Gate, STATE, certificate_value, short, state_value};
use crate::gossip::metrics::{GossipMetrics, Reason};
use crate::gossip::wire::{Entry, Id, Message, NodeDelta, Value};
use crate::gossip::{Papers, frame, node_id};

const GENERATION: u64 = 1_000;

fn words(identity: &Identity, number: usize, revision: u64) -> NodeDelta {
    let own = NodeState {
        id: node_id(identity.node_id()),
        name: identity.name().to_owned(),
        ..state(number)
    };
    let order = Order {
        generation: GENERATION,
        revision,
    };
    let statement = Statement::seal(&Papers::new(identity), order, &own).unwrap();
    let value = |key: &str, value, version| Value {
        key: key.to_owned(),
        value,
        version,
        status: 0,
    };
    NodeDelta {
        id: Id {
            node: short(&own.id),
            generation: GENERATION,
            addr: addr(number),
        },
        last_gc_version: 0,
        from_version_excluded: 0,
        values: vec![
            value(CERTIFICATE, certificate_value(identity.certificate()), 1),
            value(STATE, state_value(&statement), revision),
        ],
        max_version: None,
    }
}

/// How many nodes' words of a message are left, and for what one was refused.
fn judged(gate: &Gate, metrics: &GossipMetrics, nodes: &[NodeDelta]) -> (usize, Vec<Reason>) {
    let all = [
        Reason::Malformed,
        Reason::Certificate,
        Reason::Unknown,
        Reason::Revoked,
        Reason::Forged,
        Reason::ForAnother,
        Reason::Version,
        Reason::Own,
    ];
    let before = all.map(|reason| metrics.refusals(reason));
    let message = Message::Ack {
        delta: nodes.to_vec(),
    };
    let left = gate.admit(
        &message.write(),
        &sender("mallory", addr(9)),
        Instant::now(),
    );
    let Message::Ack { delta } = left.unwrap() else {
        panic!("an ACK stays one");
    };
    let raised = all
        .into_iter()
        .zip(before)
        .filter(|(reason, before)| metrics.refusals(*reason) > *before);
    (delta.len(), raised.map(|(reason, _)| reason).collect())
}

#[test]
fn each_forgery_is_refused_counted_and_audited_and_the_rest_is_used() {
    let founder = Founder::new();
    let (judge, noted, revocations) = founder.noting("judge");
    let (a, b, gone) = (
        founder.identity("a"),
        founder.identity("b"),
        founder.identity("gone"),
    );
    revocations.replace([gone.node_id()]).unwrap();
    let stranger = Founder::new().identity("a");
    let metrics = Arc::new(GossipMetrics::default());
    let gate = Gate::new(Papers::new(&judge), Arc::clone(&metrics));
    let (of_a, of_b) = (words(&a, 1, 2), words(&b, 2, 2));
    assert_eq!(
        judged(&gate, &metrics, &[of_a.clone(), of_b.clone()]),
        (2, vec![])
    );

    let mut cases: Vec<(Reason, NodeDelta)> = Vec::new();
    let mut case = |reason, node: &NodeDelta, change: &dyn Fn(&mut NodeDelta)| {
        let mut node = node.clone();
        change(&mut node);
        cases.push((reason, node));
    };
    // b says what a would say, under a's certificate and its own.
    case(Reason::ForAnother, &of_a, &|node| {
        node.values[1].value.clone_from(&of_b.values[1].value)
    });
    case(Reason::ForAnother, &of_a, &|node| {
        node.values[0].value.clone_from(&of_b.values[0].value)
    });
    // It says a's words of another process, or place.
    case(Reason::Version, &of_a, &|node| node.id.generation += 1);
    case(Reason::ForAnother, &of_a, &|node| node.id.addr = addr(2));
    // It gives a's words a version that the next true ones do not reach.
    case(Reason::Version, &of_a, &|node| {
        node.values[1].version = 1 << 40
    });
    // It changes a word of a's.
    case(Reason::Forged, &of_a, &|node| {
        let mut bytes = crate::gossip::gate::bytes_of(&node.values[1].value, 8192).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        node.values[1].value = state_value(&bytes);
    });
    // It deletes, resets, or sets what nobody has.
    case(Reason::Malformed, &of_a, &|node| node.values[1].status = 1);
    case(Reason::Malformed, &of_a, &|node| node.last_gc_version = 5);
    case(Reason::Malformed, &of_a, &|node| {
        node.max_version = Some(u64::MAX)
    });
    case(Reason::Malformed, &of_a, &|node| {
        node.values[1].key = "x".to_owned()
    });
    case(Reason::Malformed, &of_a, &|node| {
        node.values[1].value = "?".to_owned()
    });
    case(Reason::Malformed, &of_a, &|node| node.values.reverse());
    // It leaves out the certificate, without which the process is known and never believed.
    case(Reason::Malformed, &of_a, &|node| {
        node.values.remove(0);
    });
    // Nodes of no cluster, of another, and of none any more.
    case(
        Reason::Unknown,
        &words(&founder.identity("c"), 3, 2),
        &|node| {
            node.values.remove(0);
            node.from_version_excluded = 1;
        },
    );
    case(Reason::Certificate, &words(&stranger, 4, 2), &|_| ());
    case(Reason::Revoked, &words(&gone, 5, 2), &|_| ());
    for (reason, forged) in &cases {
        let audited = noted.0.lock().len();
        let found = judged(&gate, &metrics, &[forged.clone(), of_b.clone()]);
        assert_eq!(found, (1, vec![*reason]), "{forged:?}");
        let lines = noted.0.lock().clone();
        // The same of the same process is audited once a minute.
        assert!(lines.len() <= audited + 1);
        let line = lines.last().unwrap();
        assert!(line.contains("\"event\":\"statement_refused\""), "{line}");
        assert!(line.contains("passed on by \\\"mallory\\\""), "{line}");
    }
    let lines = noted.0.lock().join("\n");
    for node in [&a, &gone] {
        assert!(lines.contains(&node.node_id().to_string()), "{lines}");
    }
    // Nobody speaks for this process but itself.
    let own = words(&judge, 0, 7);
    gate.look(own.id.clone(), 10, [], Instant::now());
    assert_eq!(
        judged(&gate, &metrics, &[own, of_a]),
        (1, vec![Reason::Own])
    );
}

#[test]
fn made_up_processes_beyond_the_room_are_left_out_counted_and_audited_once() {
    let (judge, noted, _) = Founder::new().noting("judge");
    let metrics = Arc::new(GossipMetrics::default());
    let gate = Gate::new(Papers::new(&judge), Arc::clone(&metrics));
    let entry = |number: usize| Entry {
        id: Id {
            node: format!("{number:08x}"),
            generation: 1,
            addr: addr(1),
        },
        heartbeat: 1,
        last_gc_version: 0,
        max_version: 0,
    };
    let mallory = sender("mallory", addr(9));
    let mut admitted = 0;
    for group in 0..4 {
        let message = Message::Syn {
            digest: (group * 500..(group + 1) * 500).map(entry).collect(),
            cluster: "test".to_owned(),
        };
        let now = Instant::now();
        let mut message = gate.admit(&message.write(), &mallory, now).unwrap();
        gate.make_room(&mut message, &mallory, now);
        admitted += message.digest_mut().unwrap().len();
    }
    assert!((500..1_500).contains(&admitted), "{admitted}");
    assert_eq!(metrics.refusals(Reason::NoRoom), 2_000 - admitted as u64);
    let own = entry(9_999).id;
    assert!(gate.look(own, 1, [], Instant::now()), "one was left out");
    let lines = noted.0.lock().clone();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("\\\"mallory\\\" names"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_heartbeat_was_made_up_goes_on_under_another_generation() {
    let weather = Weather {
        delay: Duration::from_millis(20),
        lost: 0.0,
    };
    let (bus, founder) = (Bus::new(1, weather), Founder::new());
    let mesh: Vec<_> = (0..3)
        .map(|number| Node::start(&bus, founder.identity(&format!("n{number}")), number))
        .collect();
    until("all see all", || mesh.iter().all(|node| node.sees() == 3)).await;
    let victim = &mesh[2];
    // Minutes of beats, and more than there ever will be.
    for heartbeat in [5_000, 1 << 40] {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let generation = victim.generation();
        let refused = victim.gossip.metrics().refusals(Reason::Heartbeat);
        // Mallory tells the others that the victim's heart has beaten so often.
        let lie = Message::Syn {
            digest: vec![Entry {
                id: Id {
                    node: short(&victim.id()),
                    generation,
                    addr: victim.addr,
                },
                heartbeat,
                last_gc_version: 0,
                max_version: 2,
            }],
            cluster: "test".to_owned(),
        };
        let body = frame::pack(&lie.write()).unwrap();
        for node in &mesh[..2] {
            let mallory = sender("mallory", addr(9));
            node.gossip.inbox().judge(mallory, &body).unwrap();
        }
        until("it began again", || victim.generation() > generation).await;
        until("all see all again", || {
            mesh.iter().all(|node| node.sees() == 3)
        })
        .await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(mesh.iter().all(|node| node.sees() == 3));
        assert!(victim.gossip.metrics().refusals(Reason::Heartbeat) > refused);
    }
}
