//! Which URLs are asked for most: counted with few counters, so that what it costs is known.
//!
//! A table of [`URLS_MAX`] URLs after Metwally et al. ("space saving", 2005): one that is not in it takes the place of the one with the least, and its count with it. So a count is
//! never too low, and what makes up more than a share of one in [`URLS_MAX`] of all requests is in it. Counts halve every minute.

use std::collections::HashMap;
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use stoq_cache::key::CacheKey;
use stoq_cache::time::Timestamp;

/// URLs that are counted: 512, with at most 2 KiB of URL and 512 B of fields each, 1.3 MiB.
const URLS_MAX: usize = 512;
const URL_BYTES_MAX: usize = 2048;
/// URLs that came into the table and are not taken yet: 256 of them, 0.7 MiB. Those beyond are passed over.
const NEW_MAX: usize = 256;
const FIELDS_BYTES_MAX: usize = 512;

/// After so long a count is worth half: 60 s.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Requests that are counted one by one between two halvings: 4,096. Beyond them one of 8 is, and as 8.
const EXACT_MAX: u64 = 4_096;
const SAMPLED: u64 = 8;

/// Fields by which responses vary most often. What varies by others is handed over as for one who sends none of those.
static FIELDS: [HeaderName; 3] = [ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT];

/// A URL that is asked for often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hot {
    pub(crate) key: CacheKey,
    /// Position of its site.
    pub(crate) site: usize,
    pub(crate) https: bool,
    pub(crate) authority: String,
    pub(crate) path_and_query: String,
    /// What the first request for it had of the fields that responses vary by most often.
    pub(crate) headers: HeaderMap,
}

/// What a request was for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) key: &'a CacheKey,
    pub(crate) site: usize,
    pub(crate) scheme: &'a Scheme,
    pub(crate) authority: &'a str,
    pub(crate) path_and_query: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

/// Counts requests by URL.
#[derive(Debug, Default)]
pub(crate) struct Heat(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    urls: HashMap<CacheKey, (u64, Hot)>,
    halved: Timestamp,
    /// Requests since then.
    seen: u64,
    /// Those that came in since they were taken.
    new: Vec<Hot>,
}

impl Heat {
    /// Counts a request. Where another thread counts it is passed over.
    pub(crate) fn count(&self, asked: &Asked<'_>, now: Timestamp) {
        let Some(mut table) = self.0.try_lock() else {
            return;
        };
        table.count(asked, now);
    }

    /// The URLs that were asked for more than once, the hottest first, at most so many.
    pub(crate) fn hottest(&self, max: usize) -> Vec<Hot> {
        let table = self.0.lock();
        let mut urls: Vec<_> = table
            .urls
            .values()
            .filter(|(count, _)| *count > 1)
            .collect();
        urls.sort_unstable_by_key(|(count, hot)| (std::cmp::Reverse(*count), *hot.key.as_bytes()));
        let urls = urls.into_iter().take(max);
        urls.map(|(_, hot)| hot.clone()).collect()
    }

    /// The URLs that were not asked for before, as far as that is known, since this was last called: at most 256.
    pub(crate) fn take_new(&self) -> Vec<Hot> {
        std::mem::take(&mut self.0.lock().new)
    }
}

impl Table {
    fn count(&mut self, asked: &Asked<'_>, now: Timestamp) {
        if now.since(self.halved) >= HALF_LIFE {
            self.halve(now);
        }
        self.seen += 1;
        let weight = match self.seen > EXACT_MAX {
            true if !self.seen.is_multiple_of(SAMPLED) => return,
            true => SAMPLED,
            false => 1,
        };
        if let Some((count, _)) = self.urls.get_mut(asked.key) {
            *count += weight;
            return;
        }
        let url_bytes = asked.authority.len() + asked.path_and_query.len();
        if url_bytes > URL_BYTES_MAX {
            return;
        }
        let mut before = 0;
        if self.urls.len() >= URLS_MAX {
            let least = self.urls.iter().min_by_key(|(_, (count, _))| *count);
            if let Some((key, count)) = least.map(|(key, (count, _))| (*key, *count)) {
                self.urls.remove(&key);
                before = count;
            }
        }
        let hot = Hot {
            key: *asked.key,
            site: asked.site,
            https: *asked.scheme == Scheme::HTTPS,
            authority: asked.authority.to_owned(),
            path_and_query: asked.path_and_query.to_owned(),
            headers: fields(asked.headers),
        };
        if self.new.len() < NEW_MAX {
            self.new.push(hot.clone());
        }
        self.urls.insert(*asked.key, (before + weight, hot));
    }

    fn halve(&mut self, now: Timestamp) {
        let times = now.since(self.halved).as_secs() / HALF_LIFE.as_secs();
        let shift = u32::try_from(times).unwrap_or(u32::MAX);
        for (count, _) in self.urls.values_mut() {
            *count = count.checked_shr(shift).unwrap_or(0);
        }
        self.urls.retain(|_, (count, _)| *count > 0);
        self.halved = now;
        self.seen = 0;
    }
}

fn fields(of: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    let mut bytes = 0;
    for name in &FIELDS {
        for value in of.get_all(name) {
            bytes += value.len();
            if bytes <= FIELDS_BYTES_MAX {
                kept.append(name.clone(), value.clone());
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn ask(heat: &Heat, path: &str, secs: u64) {
        let key = CacheKey::of("s", "https", "a.test", path);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("br"));
        headers.insert("cookie", HeaderValue::from_static("secret"));
        let asked = Asked {
            key: &key,
            site: 0,
            scheme: &Scheme::HTTPS,
            authority: "a.test",
            path_and_query: path,
            headers: &headers,
        };
        heat.count(&asked, Timestamp::from_secs(secs));
    }

    fn paths(heat: &Heat, max: usize) -> Vec<String> {
        let hottest = heat.hottest(max).into_iter();
        hottest.map(|hot| hot.path_and_query).collect()
    }

    #[test]
    fn what_is_asked_for_most_comes_first_with_nothing_of_who_asked() {
        let heat = Heat::default();
        for (path, times) in [("/a", 3), ("/b", 9), ("/once", 1), ("/c", 2)] {
            (0..times).for_each(|_| ask(&heat, path, 1_000));
        }
        assert_eq!(paths(&heat, 9), ["/b", "/a", "/c"]);
        assert_eq!(paths(&heat, 2), ["/b", "/a"]);
        let headers = &heat.hottest(1)[0].headers;
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[ACCEPT_ENCODING], "br");
    }

    #[test]
    fn what_is_new_is_taken_once_and_no_more_of_it_than_there_is_room_for() {
        let heat = Heat::default();
        for path in ["/a", "/b", "/a"] {
            ask(&heat, path, 1_000);
        }
        let taken = |heat: &Heat| -> Vec<_> {
            let new = heat.take_new().into_iter();
            new.map(|hot| hot.path_and_query).collect()
        };
        assert_eq!(taken(&heat), ["/a", "/b"]);
        ask(&heat, "/b", 1_000);
        ask(&heat, "/c", 1_000);
        assert_eq!(taken(&heat), ["/c"]);
        for number in 0..2 * NEW_MAX {
            ask(&heat, &format!("/{number}"), 1_000);
        }
        assert_eq!(taken(&heat).len(), NEW_MAX);
    }

    #[test]
    fn what_was_asked_for_long_ago_is_forgotten() {
        let heat = Heat::default();
        (0..8).for_each(|_| ask(&heat, "/old", 1_000));
        (0..4).for_each(|_| ask(&heat, "/new", 1_130));
        // Two minutes are two halvings: 2 of 8 are left.
        assert_eq!(paths(&heat, 9), ["/new", "/old"]);
        ask(&heat, "/now", 9_999_999);
        assert_eq!(heat.0.lock().urls.len(), 1);
    }

    #[test]
    fn a_crowd_of_urls_that_come_once_does_not_drive_out_what_is_hot_nor_grow_the_table() {
        let heat = Heat::default();
        for number in 0..20_000 {
            ask(&heat, &format!("/{number}"), 1_000);
            if number % 10 == 0 {
                // As often as the crowd together would be asked for a tenth of it.
                (0..8).for_each(|_| ask(&heat, "/hot", 1_000));
            }
        }
        assert_eq!(paths(&heat, 1), ["/hot"]);
        assert!(heat.0.lock().urls.len() <= URLS_MAX);
        let long = "/".repeat(URL_BYTES_MAX);
        (0..99).for_each(|_| ask(&heat, &long, 1_000));
        assert!(!paths(&heat, URLS_MAX).contains(&long));
    }
}
