//! Counting, verifying and sweeping what a cache stored on a volume.

use std::sync::{Arc, atomic::AtomicU64};

use parking_lot::Mutex;
use stoq_cache::{
    content::ChunkKey,
    engine::{Cache, CacheConfig, Swept},
    http::policy::SitePolicy,
    key::CacheKey,
    store::{
        RamTier, Store,
        disk::{Disk, DiskTier, Kind, VolumeConfig},
    },
    time::Timestamp,
};
use tempfile::TempDir;

use crate::script::{Forgetful, House, Script, body, fed, noise, response, until};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: Fields = &[("cache-control", "max-age=600"), ("etag", "\"v1\"")];
const SECRET: [u8; 32] = [7; 32];
const NOW: u64 = 1_800_000_000_000;

fn open(directory: &TempDir) -> Arc<Disk> {
    let volume = VolumeConfig {
        path: directory.path().join("volume"),
        bytes: 64 << 20,
        engine: None,
        bytes_a_day: None,
        scrub_bytes_a_second: None,
    };
    let key_id = *ChunkKey::derive(&SECRET, "").key_id().as_bytes();
    Arc::new(Disk::open(&[volume], key_id).unwrap())
}

/// A process over this disk: nothing in memory yet, and nothing was invalidated.
fn start(disk: &Arc<Disk>) -> House {
    let mut config = CacheConfig::new(SECRET);
    config.ram_bytes = 64 << 20;
    config.disk_bytes = disk.capacity();
    config.clock = Arc::new(|| Timestamp(NOW));
    let tier = Arc::new(Forgetful::default());
    let ram = Arc::clone(&tier) as Arc<dyn RamTier>;
    let store = Store::with_disk(ram, Arc::clone(disk) as Arc<dyn DiskTier>);
    let cache = Cache::with_store(config, store);
    let site = cache.site("site", None, SitePolicy::default());
    House {
        cache,
        site,
        tier,
        now: Arc::new(AtomicU64::new(NOW)),
    }
}

/// The same disk in the next process: all that was written lies in sealed segments.
fn reopen(directory: &TempDir, disk: Arc<Disk>, house: House) -> (Arc<Disk>, House) {
    assert!(disk.close());
    drop((disk, house));
    let disk = open(directory);
    let house = start(&disk);
    (disk, house)
}

#[tokio::test]
async fn equal_bytes_under_ten_urls_count_ten_times_and_lie_there_once() {
    let directory = tempfile::tempdir().unwrap();
    let disk = open(&directory);
    let house = start(&disk);
    // Large enough for a manifest in pages.
    let length = 8 << 20;
    let upstream = Script::fixed(FRESH, noise(1, length));
    for path in ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"] {
        house.fetch(path, &upstream).await;
    }
    house
        .fetch("/small", &Script::fixed(FRESH, noise(2, 100)))
        .await;
    house.cache.shutdown().await;
    let census = house.cache.census(&disk).await.unwrap();
    assert_eq!((census.urls, census.objects), (11, 11));
    assert_eq!(census.logical_bytes, 10 * length as u64 + 100);
    assert_eq!(census.physical_bytes, length as u64 + 100);
    assert_eq!(
        (census.absent_chunks, census.incomplete_objects),
        (0, 0),
        "{census:?}"
    );
    let (disk, house) = reopen(&directory, disk, house);
    assert_eq!(house.cache.census(&disk).await.unwrap(), census);
    let checked = house.cache.verify(&disk).await.unwrap();
    assert!(checked.is_clean(), "{checked:?}");
    assert_eq!(checked.census, census);
}

#[tokio::test]
async fn a_sweep_drops_what_nothing_names_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let disk = open(&directory);
    let house = start(&disk);
    let bodies = [("/a", noise(1, 100)), ("/b", noise(2, 9_000_000))];
    for (path, bytes) in &bodies {
        house
            .fetch(path, &Script::fixed(FRESH, bytes.clone()))
            .await;
    }
    for garbage in 0..50_u64 {
        let bytes = noise(100 + garbage, 10_000);
        disk.put(Kind::Chunk, *blake3::hash(&bytes).as_bytes(), &bytes);
    }
    house.cache.shutdown().await;
    let (disk, house) = reopen(&directory, disk, house);
    let young = house.cache.sweep(&disk, 3_600).await.unwrap();
    assert_eq!(young.records, 0);
    let swept = house.cache.sweep(&disk, 0).await.unwrap();
    assert_eq!(swept.records, 50, "{swept:?}");
    let again = house.cache.sweep(&disk, 0).await.unwrap();
    assert_eq!((again.records, again.bytes), (0, 0));
    let (disk, house) = reopen(&directory, disk, house);
    let census = house.cache.census(&disk).await.unwrap();
    assert_eq!((census.objects, census.incomplete_objects), (2, 0));
    assert!(house.cache.verify(&disk).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_sweep_leaves_what_a_body_under_way_names() {
    let directory = tempfile::tempdir().unwrap();
    let disk = open(&directory);
    let house = start(&disk);
    let bytes = noise(1, 6 << 20);
    house
        .fetch("/old", &Script::fixed(FRESH, bytes.clone()))
        .await;
    house.cache.shutdown().await;
    let (disk, house) = reopen(&directory, disk, house);
    let old = CacheKey::of("site", "https", "example.org", "/old");
    disk.forget(old.as_bytes());

    let (feed, fed) = fed(4);
    let fed = Mutex::new(Some(fed));
    let upstream = Script::new(move |_, _| {
        let body = fed.lock().take().expect("asked once");
        std::future::ready(Ok(response(200, FRESH, body)))
    });
    let reply = house.serve(house.get("/new", &[]), &upstream);
    let (reply, ()) = tokio::join!(reply, async {
        feed.send(Ok(bytes.slice(..4 << 20))).await.unwrap();
    });
    let reply = reply.unwrap();
    let present = || disk.metrics().map(|of| of.present_bytes.get()).sum::<u64>();
    until("most of the first part is found on disk", || {
        present() > 3 << 20
    })
    .await;
    let Swept { bytes: swept, .. } = house.cache.sweep(&disk, 0).await.unwrap();
    let rest = 2 << 20;
    assert!(
        (rest..rest + (1 << 20) + (1 << 19)).contains(&swept),
        "{swept} bytes swept, of which none were of the first 3 MiB and all of the last 2"
    );
    feed.send(Ok(bytes.slice(4 << 20..))).await.unwrap();
    drop(feed);
    assert_eq!(body(reply).await.unwrap(), bytes);
    house.cache.shutdown().await;
    let census = house.cache.census(&disk).await.unwrap();
    assert_eq!(
        (
            census.objects,
            census.absent_chunks,
            census.incomplete_objects
        ),
        (1, 0, 0)
    );
    let (disk, house) = reopen(&directory, disk, house);
    let check = house.cache.verify(&disk).await.unwrap();
    assert!(check.is_clean() && check.census == census, "{check:?}");
}
