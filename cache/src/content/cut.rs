//! The content-defined cut point of a chunk: MinCDC over 4-byte windows.
//!
//! The chunk ends after the 4-byte window whose mixed value is least, among the windows that end
//! between its shortest and longest length; the earliest such window if several share the value.
//! `docs/chunking.md` has the measurement that chose it over FastCDC.
//!
//! The search is a minimum, so it can be taken over pieces of the window that do not lie together
//! in memory: that is what lets [`Chunker`](super::Chunker) copy no byte before it knows the cut.

use bytes::Bytes;
use mincdc::{Cdc, MinCdcHash4};

/// Mixes a window's value: `window × MULTIPLIER + ADDEND` modulo 2³². Protocol constants.
const MULTIPLIER: u32 = 0x915f_77f5;
const ADDEND: u32 = 0x3463_6463;
/// The bytes before a cut point that decide on it.
const WINDOW: usize = 4;

/// The least window found so far and where it ends.
#[derive(Clone, Copy)]
struct Least {
    value: u32,
    end: usize,
}

/// The length of the first chunk of the bytes in `pieces`, which must end only where the object
/// ends or after at least `max` bytes. `len` is their sum, not 0. O(`max`), no allocation.
pub(super) fn first_cut<'a>(
    pieces: impl Iterator<Item = &'a Bytes>,
    len: usize,
    min: usize,
    max: usize,
) -> usize {
    if len <= min {
        return len;
    }
    // The first candidate cut is at `min`, so its window starts four bytes earlier.
    let (from, to) = (min - WINDOW, max.min(len));
    let mut least: Option<Least> = None;
    // The up to three bytes before the piece at hand that can begin a window ending in it.
    let mut before = [0; WINDOW - 1];
    let mut before_len = 0;
    let mut at = 0;
    for piece in pieces {
        let (start, end) = (at, at + piece.len());
        at = end;
        if end <= from {
            continue;
        }
        if start >= to {
            break;
        }
        let skipped = from.saturating_sub(start);
        let part = &piece[skipped..piece.len().min(to - start)];
        let part_start = start + skipped;

        across(&before[..before_len], part, part_start, &mut least);
        within(part, part_start, &mut least);
        before_len = keep_last(&mut before, before_len, part);
    }
    // `len > min` leaves at least one window of four bytes between `from` and `to`.
    least.map_or(to, |least| least.end)
}

/// Considers the windows that begin in `before` and end in `part`.
fn across(before: &[u8], part: &[u8], part_start: usize, least: &mut Option<Least>) {
    let reach = part.len().min(WINDOW - 1);
    let mut joint = [0; 8];
    joint[..before.len()].copy_from_slice(before);
    joint[before.len()..before.len() + reach].copy_from_slice(&part[..reach]);
    let joint = u64::from_le_bytes(joint);
    for i in 0..(before.len() + reach).saturating_sub(WINDOW - 1) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low four bytes are the window"
        )]
        let window = (joint >> (8 * i)) as u32;
        consider(window, part_start + i + WINDOW - before.len(), least);
    }
}

/// Considers the windows that lie within `part`.
fn within(part: &[u8], part_start: usize, least: &mut Option<Least>) {
    if part.len() < WINDOW {
        return;
    }
    let end = MinCdcHash4::with_params(MULTIPLIER, ADDEND).best_splitpoint(part);
    if let Some(&window) = part[..end].last_chunk() {
        consider(u32::from_le_bytes(window), part_start + end, least);
    }
}

fn consider(window: u32, end: usize, least: &mut Option<Least>) {
    let value = window.wrapping_mul(MULTIPLIER).wrapping_add(ADDEND);
    // Strictly less: pieces come in order, so the earliest of equals stays.
    if least.is_none_or(|least| value < least.value) {
        *least = Some(Least { value, end });
    }
}

/// Makes `before` the last three bytes of itself followed by `part`; returns how many it holds.
fn keep_last(before: &mut [u8; WINDOW - 1], before_len: usize, part: &[u8]) -> usize {
    if part.len() >= before.len() {
        before.copy_from_slice(&part[part.len() - (WINDOW - 1)..]);
        return before.len();
    }
    let kept = before_len.min(before.len() - part.len());
    before.copy_within(before_len - kept..before_len, 0);
    before[kept..kept + part.len()].copy_from_slice(part);
    kept + part.len()
}
