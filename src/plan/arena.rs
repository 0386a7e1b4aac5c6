//! Offsets from lifetimes. Pure and deterministic: the same units give the same arena everywhere.
//!
//! Each unit goes to where it makes the arena grow least, into the tightest gap that fits. The order in
//! which units are placed decides the result, so several are tried, and the best is improved by
//! placing the units that stick out first. `docs/decisions/` has the figures.

use super::lifetime::Unit;
use crate::error::{Error, Kind, Result};

/// Rounds of improvement; each re-places everything, so this bounds the planning time.
const ROUNDS: usize = 48;

/// Where a unit lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Chunk.
    pub(super) chunk: usize,
    /// First byte within it.
    pub(super) offset: u64,
}

/// A full assignment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Arena {
    /// Place of each unit.
    pub(super) places: Vec<Place>,
    /// Size of each chunk.
    pub(super) chunks: Vec<u64>,
}

impl Arena {
    fn total(&self) -> u64 {
        self.chunks.iter().sum()
    }
}

/// Places `units` in chunks of at most `capacity` bytes; `peak` is the lower bound to stop at.
pub(super) fn place(units: &[Unit], capacity: u64, peak: u64) -> Result<Arena> {
    if let Some(u) = units.iter().find(|u| u.bytes > capacity) {
        let why = format!("a value of {} bytes exceeds the device's largest binding of {capacity}", u.bytes);
        return Err(Error::new(Kind::Limit, "plan", why).advise("use a smaller tile or batch"));
    }
    let neighbours = neighbours(units);
    let mut orders = start_orders(units, &neighbours);
    let mut best: Option<(Arena, Vec<usize>)> = None;
    for order in orders.drain(..) {
        let arena = place_in(units, &neighbours, capacity, &order);
        if best.as_ref().is_none_or(|(b, _)| arena.total() < b.total()) {
            best = Some((arena, order));
        }
        if best.as_ref().is_some_and(|(b, _)| b.total() <= peak) {
            break;
        }
    }
    let Some((mut best, mut order)) = best else { return Ok(Arena::default()) };
    let mut current = best.clone();
    for round in 0..ROUNDS {
        if best.total() <= peak || !pull_forward(units, &current, &mut order, round) {
            break;
        }
        current = place_in(units, &neighbours, capacity, &order);
        if current.total() < best.total() {
            best.clone_from(&current);
        }
    }
    Ok(best)
}

/// For each unit, those alive at the same time.
fn neighbours(units: &[Unit]) -> Vec<Vec<usize>> {
    let mut by_start: Vec<usize> = (0..units.len()).collect();
    by_start.sort_by_key(|&i| (units[i].start, i));
    let mut out = vec![Vec::new(); units.len()];
    let mut alive: Vec<usize> = Vec::new();
    for &i in &by_start {
        alive.retain(|&j| units[j].end > units[i].start);
        for &j in &alive {
            out[i].push(j);
            out[j].push(i);
        }
        alive.push(i);
    }
    out
}

/// Orders worth trying: the largest first, the longest times largest first, by start, and by how crowded
/// the time of each unit is.
fn start_orders(units: &[Unit], neighbours: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let length = |i: usize| (units[i].end - units[i].start) as u64;
    let crowd: Vec<u64> = neighbours
        .iter()
        .enumerate()
        .map(|(i, n)| units[i].bytes + n.iter().map(|&j| units[j].bytes).sum::<u64>())
        .collect();
    let sorted = |key: &dyn Fn(usize) -> (u64, u64)| {
        let mut order: Vec<usize> = (0..units.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(key(i)), i));
        order
    };
    vec![
        sorted(&|i| (units[i].bytes, length(i))),
        sorted(&|i| (units[i].bytes.saturating_mul(length(i)), units[i].bytes)),
        sorted(&|i| (crowd[i], units[i].bytes)),
        sorted(&|i| (length(i), units[i].bytes)),
        sorted(&|i| (u64::MAX - units[i].start as u64, units[i].bytes)),
    ]
}

/// Places the units one by one in `order`.
fn place_in(units: &[Unit], neighbours: &[Vec<usize>], capacity: u64, order: &[usize]) -> Arena {
    let mut arena = Arena { places: vec![Place::default(); units.len()], chunks: Vec::new() };
    let mut placed = vec![false; units.len()];
    let mut taken: Vec<(usize, u64, u64)> = Vec::new();
    for &i in order {
        let size = units[i].bytes;
        taken.clear();
        let around = neighbours[i].iter().filter(|&&j| placed[j]);
        taken.extend(around.map(|&j| {
            let p = arena.places[j];
            (p.chunk, p.offset, p.offset + units[j].bytes)
        }));
        taken.sort_unstable();
        // Least growth, then tightest gap, then lowest chunk and offset; a new chunk comes last.
        let mut best = (size, u64::MAX, Place { chunk: arena.chunks.len(), offset: 0 });
        let mut next = 0;
        for (chunk, &end) in arena.chunks.iter().enumerate() {
            let mut free = 0;
            loop {
                let here = taken.get(next).filter(|t| t.0 == chunk);
                let limit = here.map_or(capacity, |t| t.1);
                if limit >= free && limit - free >= size {
                    let growth = (free + size).saturating_sub(end);
                    let gap = if here.is_some() { limit - free } else { end.saturating_sub(free).max(size) };
                    if (growth, gap) < (best.0, best.1) {
                        best = (growth, gap, Place { chunk, offset: free });
                    }
                }
                match here {
                    Some(t) => free = free.max(t.2),
                    None => break,
                }
                next += 1;
            }
        }
        let place = best.2;
        if place.chunk == arena.chunks.len() {
            arena.chunks.push(0);
        }
        let end = &mut arena.chunks[place.chunk];
        *end = (*end).max(place.offset + size);
        arena.places[i] = place;
        placed[i] = true;
    }
    arena
}

/// Moves one unit that reaches the end of its chunk to the front of `order`; every round another of them.
fn pull_forward(units: &[Unit], arena: &Arena, order: &mut Vec<usize>, round: usize) -> bool {
    let on_top = |i: usize| arena.places[i].offset + units[i].bytes == arena.chunks[arena.places[i].chunk];
    let top: Vec<usize> = (0..order.len()).filter(|&at| on_top(order[at])).collect();
    // The unit that is placed first anyway gains nothing from being moved.
    let movable: Vec<usize> = top.into_iter().filter(|&at| at > 0).collect();
    let Some(&at) = movable.get(round % movable.len().max(1)) else { return false };
    let unit = order.remove(at);
    order.insert(if round.is_multiple_of(2) { 0 } else { at / 2 }, unit);
    true
}

#[cfg(test)]
mod tests {
    use super::super::lifetime::Unit;
    use super::*;

    fn unit(bytes: u64, start: usize, end: usize) -> Unit {
        Unit { bytes, start, end }
    }

    #[test]
    fn touching_intervals_share_memory() {
        let units = [unit(256, 0, 2), unit(256, 2, 4), unit(512, 4, 5)];
        let arena = place(&units, u64::MAX, 512).expect("places");
        assert_eq!(arena.chunks, [512]);
    }

    #[test]
    fn chunks_hold_whole_values() {
        let units = [unit(512, 0, 3), unit(512, 0, 3), unit(512, 0, 3)];
        let arena = place(&units, 1024, 1536).expect("places");
        assert_eq!(arena.chunks, [1024, 512]);
        assert_eq!(place(&units, 511, 1536).expect_err("too large").kind(), Kind::Limit);
    }

    #[test]
    fn a_known_hard_case_reaches_its_bound() {
        // Placed by start alone this fragments: the long small unit lands above the first large one.
        let units = [unit(1024, 0, 2), unit(256, 1, 6), unit(1280, 2, 4), unit(1280, 4, 6)];
        let arena = place(&units, u64::MAX, 1536).expect("places");
        assert_eq!(arena.chunks, [1536]);
    }
}
