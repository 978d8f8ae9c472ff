//! Looking through a volume for damage, and for what nobody needs.

use std::time::Duration;

use super::{
    super::survey::{self, Pace, Survey},
    *,
};

/// A volume whose 300 chunks lie in sealed segments.
async fn sealed(device: &Sim) -> Rig {
    let rig = Rig::start(device, SMALL, None).await;
    for chunk in 0..300 {
        assert_eq!(rig.put(chunk).await, Put::Queued);
    }
    rig.close().await;
    Rig::start(device, SMALL, None).await
}

async fn look(rig: &Rig) -> (Survey, usize) {
    let mut seen = 0;
    let survey = survey::all(&rig.volume, &mut Pace::new(None), &mut |kind, of, got| {
        assert_eq!(kind, Kind::Chunk);
        let chunk = (0..300).find(|chunk| name(*chunk) == *of).unwrap();
        assert_eq!(got, body(chunk));
        seen += 1;
    })
    .await;
    (survey, seen)
}

#[tokio::test(start_paused = true)]
async fn damage_is_found_once_and_dropped() {
    let device = Sim::new(1, SMALL);
    let rig = sealed(&device).await;
    let (healthy, seen) = look(&rig).await;
    assert_eq!((healthy.records, healthy.damaged, seen), (300, 0, 300));
    device.rot(200);
    let (found, seen) = look(&rig).await;
    assert!(found.damaged > 0, "{found:?}");
    assert_eq!(found.records + found.damaged, 300);
    assert_eq!(found.records, seen as u64);
    let (again, _) = look(&rig).await;
    // What cannot even be told whose it is is counted again: a reader drops it.
    assert_eq!(again.records, found.records);
    assert!(again.damaged < found.damaged, "{again:?} after {found:?}");
    let mut hits = 0;
    for chunk in 0..300 {
        match rig.get(chunk).await {
            DiskRead::Hit(_) => hits += 1,
            DiskRead::Miss | DiskRead::Corrupt => {}
            DiskRead::Throttled => panic!("chunk {chunk} is throttled"),
        }
    }
    assert_eq!(hits, found.records);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_scrub_keeps_to_its_rate() {
    let device = Sim::new(2, SMALL);
    let rig = sealed(&device).await;
    let (survey, _) = look(&rig).await;
    let begun = tokio::time::Instant::now();
    survey::all(
        &rig.volume,
        &mut Pace::new(Some(100_000)),
        &mut |_, _, _| (),
    )
    .await;
    let took = begun.elapsed();
    // The last piece is not waited for.
    let least = Duration::from_secs(survey.bytes.saturating_sub(2 << 20) / 100_000);
    assert!(took >= least, "{took:?} for {survey:?}");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_swept_and_what_is_young_is_not() {
    let device = Sim::new(3, SMALL);
    let rig = sealed(&device).await;
    let wanted = name(7);
    let keep = |name: &Name| *name == wanted;
    let young = survey::sweep(&rig.volume, &[Kind::Chunk], 3_600, &keep).await;
    assert_eq!(young.unwrap(), (0, 0));
    let other = survey::sweep(&rig.volume, &[Kind::Page], 0, &keep).await;
    assert_eq!(other.unwrap(), (0, 0));
    let (records, bytes) = survey::sweep(&rig.volume, &[Kind::Chunk], 0, &keep)
        .await
        .unwrap();
    assert_eq!(records, 299);
    assert!(bytes > 0);
    assert!(matches!(rig.get(7).await, DiskRead::Hit(_)));
    assert_eq!(rig.get(8).await, DiskRead::Miss);
    rig.close().await;
}
