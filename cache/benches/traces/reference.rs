//! What the tiers are compared with: LRU, and S3-FIFO as its paper has it, in one piece and with nothing counted but chunk bytes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Chunks by number, within a bound.
pub(crate) trait Policy {
    /// Whether the chunk is held. It is a use of it, and where it is not held it is put in.
    fn hit(&mut self, chunk: u64, len: usize) -> bool;
}

/// The least recently used leaves.
pub(crate) struct Lru {
    capacity: usize,
    used: usize,
    now: u64,
    held: HashMap<u64, (u64, usize)>,
    by_use: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            used: 0,
            now: 0,
            held: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }
}

impl Policy for Lru {
    fn hit(&mut self, chunk: u64, len: usize) -> bool {
        self.now += 1;
        let before = self.held.insert(chunk, (self.now, len));
        self.by_use.insert(self.now, chunk);
        if let Some((last, _)) = before {
            self.by_use.remove(&last);
            return true;
        }
        self.used += len;
        while self.used > self.capacity
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            let (_, len) = self.held.remove(&oldest).unwrap_or_default();
            self.used -= len;
        }
        false
    }
}

/// S3-FIFO with a small queue of a tenth, two uses to leave it for the main one, and as many ghosts as the main one has chunks.
pub(crate) struct S3Fifo {
    capacity: usize,
    /// Bytes in the queues.
    small_bytes: usize,
    main_bytes: usize,
    /// Length and uses.
    held: HashMap<u64, (usize, u8)>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghosts: VecDeque<u64>,
    known: HashSet<u64>,
}

impl S3Fifo {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            small_bytes: 0,
            main_bytes: 0,
            held: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            known: HashSet::new(),
        }
    }

    fn evict(&mut self) {
        if self.small_bytes >= self.capacity / 10 || self.main.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        let Some(chunk) = self.small.pop_front() else {
            return;
        };
        let (len, uses) = self.held[&chunk];
        self.small_bytes -= len;
        if uses > 1 {
            self.held.insert(chunk, (len, 0));
            self.main.push_back(chunk);
            self.main_bytes += len;
            return;
        }
        self.held.remove(&chunk);
        if self.known.insert(chunk) {
            self.ghosts.push_back(chunk);
        }
        while self.ghosts.len() > self.main.len().max(1) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn evict_main(&mut self) {
        let Some(chunk) = self.main.pop_front() else {
            return;
        };
        let (len, uses) = self.held[&chunk];
        if uses > 0 {
            self.held.insert(chunk, (len, uses - 1));
            self.main.push_back(chunk);
        } else {
            self.held.remove(&chunk);
            self.main_bytes -= len;
        }
    }
}

impl Policy for S3Fifo {
    fn hit(&mut self, chunk: u64, len: usize) -> bool {
        if let Some((_, uses)) = self.held.get_mut(&chunk) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        while self.small_bytes + self.main_bytes + len > self.capacity {
            self.evict();
        }
        self.held.insert(chunk, (len, 0));
        // A ghost's place in the queue is left to age out.
        if self.known.remove(&chunk) {
            self.main.push_back(chunk);
            self.main_bytes += len;
        } else {
            self.small.push_back(chunk);
            self.small_bytes += len;
        }
        false
    }
}
