//! The order of the body's steps: the graph's own unless another lowers the peak of live bytes.
//!
//! Finding the best order is hard in general; networks need little of it (a shortcut before the main
//! branch, a skip's producer late). Candidates are the given order, greedy list schedules under a memory
//! limit, and small moves around the peak of the best of them. All of it is deterministic.

use super::lifetime::{self, Facts};
use super::lower::Lowered;

/// Rounds of moves around the peak, and how far a step may be moved. Measured on the SD UNet and VAE: more
/// found nothing.
const ROUNDS: usize = 12;
const REACH: usize = 12;
/// Memory limits tried by the list scheduler, as eighths of the way from the best peak to the lower bound.
const LIMITS: u64 = 8;

/// Reorders the body of `lowered` in place.
pub(super) fn reorder(lowered: &mut Lowered) {
    let facts = Facts::new(lowered);
    let first = lowered.setup;
    let given: Vec<usize> = (first..lowered.steps.len()).collect();
    let graph = Dependencies::new(lowered);
    let floor = lifetime::widest_step(lowered, &facts);
    let mut best = (lifetime::peak(lowered, &facts, &given), given);
    for eighth in 1..=LIMITS {
        let limit = best.0 - (best.0 - floor.min(best.0)) * eighth / LIMITS;
        let order = list_schedule(lowered, &facts, &graph, limit);
        let peak = lifetime::peak(lowered, &facts, &order);
        if peak < best.0 {
            best = (peak, order);
        }
    }
    improve(lowered, &facts, &graph, &mut best);
    if best.1.iter().enumerate().any(|(i, &s)| s != first + i) {
        let mut steps: Vec<_> = lowered.steps.drain(first..).map(Some).collect();
        lowered.steps.extend(best.1.iter().filter_map(|&s| steps[s - first].take()));
    }
}

/// Which steps must come before which: those that make what a step reads.
struct Dependencies {
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
}

impl Dependencies {
    fn new(lowered: &Lowered) -> Dependencies {
        let mut writer: Vec<Option<usize>> = vec![None; lowered.buffers.len()];
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); lowered.steps.len()];
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); lowered.steps.len()];
        for (i, step) in lowered.steps.iter().enumerate() {
            for b in step.reads() {
                if let Some(w) = writer[b]
                    && w >= lowered.setup
                    && !before[i].contains(&w)
                {
                    before[i].push(w);
                    after[w].push(i);
                }
            }
            step.writes().for_each(|b| writer[b] = Some(i));
        }
        Dependencies { before, after }
    }
}

/// Takes ready steps in the given order as long as they stay under `limit`; where none does, the one that
/// grows the live bytes least.
fn list_schedule(lowered: &Lowered, facts: &Facts, graph: &Dependencies, limit: u64) -> Vec<usize> {
    let mut waiting: Vec<usize> = graph.before.iter().map(Vec::len).collect();
    let mut ready: Vec<usize> = (lowered.setup..lowered.steps.len()).filter(|&s| waiting[s] == 0).collect();
    let mut live = lifetime::Live::new(lowered, facts);
    let mut order = Vec::with_capacity(lowered.steps.len() - lowered.setup);
    while !ready.is_empty() {
        let mut pick = (0, (true, i64::MAX, usize::MAX));
        for (i, &s) in ready.iter().enumerate() {
            let (during, after) = live.preview(lowered, facts, s);
            let key = if during <= limit { (false, 0, s) } else { (true, after, s) };
            if key < pick.1 {
                pick = (i, key);
            }
        }
        let step = ready.remove(pick.0);
        live.run(lowered, facts, step);
        order.push(step);
        for &next in &graph.after[step] {
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push(next);
            }
        }
    }
    order
}

/// Moves single steps across the peak, as long as that lowers it.
fn improve(lowered: &Lowered, facts: &Facts, graph: &Dependencies, best: &mut (u64, Vec<usize>)) {
    for _ in 0..ROUNDS {
        let top = lifetime::peak_position(lowered, facts, &best.1);
        let from = top.saturating_sub(REACH);
        let to = (top + REACH).min(best.1.len().saturating_sub(1));
        let mut found: Option<(u64, Vec<usize>)> = None;
        for source in from..=to.min(best.1.len().saturating_sub(1)) {
            // Later steps to right before the peak, earlier ones to right after it.
            let target = if source > top { top } else { (top + 1).min(to) };
            let mut order = best.1.clone();
            if order.is_empty() || source == target {
                continue;
            }
            let step = order.remove(source);
            order.insert(target, step);
            let (lo, hi) = (source.min(target), source.max(target));
            let blocked = order[lo..=hi].iter().any(|&other| {
                if source > target { graph.before[step].contains(&other) } else { graph.after[step].contains(&other) }
            });
            if blocked {
                continue;
            }
            let peak = lifetime::peak(lowered, facts, &order);
            if peak < found.as_ref().map_or(best.0, |f| f.0) {
                found = Some((peak, order));
            }
        }
        match found {
            Some(better) => *best = better,
            None => return,
        }
    }
}
