//! Who is alive when. Lifetimes are half-open intervals of steps `[start, end)`; results that take over
//! the memory of an operand share one interval with it.
//!
//! Bytes are counted rounded up to the arena's alignment, so that the peak is a bound an arena can meet.

use super::lower::{Buffer, Lowered, Step};
use crate::extent::{ARENA_ALIGN, round_up};

/// What does not depend on the order of the steps.
pub(super) struct Facts {
    /// Aligned size of each buffer; 0 for persistent ones, which take no arena memory.
    pub(super) sizes: Vec<u64>,
    /// How often steps read each buffer.
    reads: Vec<u32>,
    /// Whether the buffer must survive the last step.
    kept: Vec<bool>,
}

impl Facts {
    pub(super) fn new(lowered: &Lowered) -> Facts {
        let size = |b: &Buffer| if b.persistent { 0 } else { round_up(b.bytes, ARENA_ALIGN) };
        let mut reads = vec![0; lowered.buffers.len()];
        for step in &lowered.steps {
            step.reads().for_each(|b| reads[b] += 1);
        }
        Facts {
            sizes: lowered.buffers.iter().map(size).collect(),
            reads,
            kept: lowered.buffers.iter().map(|b| b.output || b.persistent).collect(),
        }
    }
}

/// Live bytes while steps run one after another.
pub(super) struct Live {
    /// Reads still to come.
    left: Vec<u32>,
    /// Bytes alive between steps.
    pub(super) bytes: u64,
}

impl Live {
    /// The state before the body: window inputs are there.
    pub(super) fn new(lowered: &Lowered, facts: &Facts) -> Live {
        let inputs = lowered.buffers.iter().zip(&facts.sizes).filter(|(b, _)| b.window_input);
        Live { left: facts.reads.clone(), bytes: inputs.map(|(_, size)| size).sum() }
    }

    /// The state before the setup list: the arena is empty.
    pub(super) fn empty(facts: &Facts) -> Live {
        Live { left: facts.reads.clone(), bytes: 0 }
    }

    /// The operand whose memory the result of `step` takes over now, if its last read is this one.
    pub(super) fn taken_over(&self, facts: &Facts, step: &Step) -> Option<(usize, usize)> {
        let (x, y) = step.in_place()?;
        let dies = self.left[x] == 1 && !facts.kept[x] && facts.sizes[x] > 0;
        (dies && facts.sizes[x] == facts.sizes[y]).then_some((x, y))
    }

    /// Bytes alive during `step`, and by how much it changes the bytes alive after it.
    pub(super) fn preview(&self, lowered: &Lowered, facts: &Facts, step: usize) -> (u64, i64) {
        let step = &lowered.steps[step];
        let taken = self.taken_over(facts, step);
        let (mut grown, mut freed) = (0, 0);
        for b in step.writes() {
            if taken.is_none_or(|(_, y)| y != b) {
                grown += facts.sizes[b];
            }
            if facts.reads[b] == 0 && !facts.kept[b] {
                freed += facts.sizes[b];
            }
        }
        for (i, b) in step.reads().enumerate() {
            // A buffer read twice by one step dies with its last read; count it once.
            let again = step.reads().filter(|&r| r == b).count() as u32;
            let first = step.reads().position(|r| r == b) == Some(i);
            if first && self.left[b] == again && !facts.kept[b] && taken.is_none_or(|(x, _)| x != b) {
                freed += facts.sizes[b];
            }
        }
        (self.bytes + grown, grown as i64 - freed as i64)
    }

    /// Runs `step`; returns the bytes alive during it.
    pub(super) fn run(&mut self, lowered: &Lowered, facts: &Facts, step: usize) -> u64 {
        let (during, change) = self.preview(lowered, facts, step);
        lowered.steps[step].reads().for_each(|b| self.left[b] -= 1);
        self.bytes = self.bytes.saturating_add_signed(change);
        during
    }
}

/// The most bytes one step needs by itself: no order has a lower peak.
pub(super) fn widest_step(lowered: &Lowered, facts: &Facts) -> u64 {
    let width = |step: &Step| -> u64 {
        let shared = step.in_place().map_or(0, |(_, y)| facts.sizes[y]);
        let all: u64 = step.reads().chain(step.writes()).map(|b| facts.sizes[b]).sum();
        all - shared.min(all)
    };
    lowered.steps[lowered.setup..].iter().map(width).max().unwrap_or(0)
}

/// Peak of the bytes alive while the body runs in `order`.
pub(super) fn peak(lowered: &Lowered, facts: &Facts, order: &[usize]) -> u64 {
    let mut live = Live::new(lowered, facts);
    order.iter().fold(live.bytes, |peak, &step| peak.max(live.run(lowered, facts, step)))
}

/// Position of the first step of `order` at which the peak is reached.
pub(super) fn peak_position(lowered: &Lowered, facts: &Facts, order: &[usize]) -> usize {
    let mut live = Live::new(lowered, facts);
    let mut top = (0, 0);
    for (i, &step) in order.iter().enumerate() {
        let during = live.run(lowered, facts, step);
        if during > top.0 {
            top = (during, i);
        }
    }
    top.1
}

/// A piece of arena memory: one buffer, or several that take it over from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// Aligned size.
    pub(super) bytes: u64,
    /// First step.
    pub(super) start: usize,
    /// One past the last step.
    pub(super) end: usize,
}

/// Lifetimes of a lowered graph in its final order.
pub(super) struct Lifetimes {
    /// Units in order of their start.
    pub(super) units: Vec<Unit>,
    /// Unit of each buffer; `None` for persistent ones.
    pub(super) unit_of: Vec<Option<usize>>,
    /// Largest sum of the bytes of the units alive at one step.
    pub(super) peak: u64,
}

/// Intervals of all arena buffers. With `reuse` off, nothing ever dies: every buffer has its own memory.
pub(super) fn lifetimes(lowered: &Lowered, reuse: bool) -> Lifetimes {
    let facts = Facts::new(lowered);
    // A graph without steps still has inputs to hold.
    let last = lowered.steps.len().max(lowered.setup + 1);
    let mut units: Vec<Unit> = Vec::new();
    let mut unit_of: Vec<Option<usize>> = vec![None; lowered.buffers.len()];
    let start_unit = |b: usize, start: usize, units: &mut Vec<Unit>, unit_of: &mut Vec<Option<usize>>| {
        if !lowered.buffers[b].persistent {
            unit_of[b] = Some(units.len());
            units.push(Unit { bytes: facts.sizes[b], start, end: start + 1 });
        }
    };
    let mut live = Live::empty(&facts);
    for (i, step) in lowered.steps.iter().enumerate() {
        let taken = if reuse { live.taken_over(&facts, step) } else { None };
        live.run(lowered, &facts, i);
        for b in step.reads() {
            if unit_of[b].is_none() && lowered.buffers[b].window_input {
                // Written by the host before the body starts.
                start_unit(b, lowered.setup, &mut units, &mut unit_of);
            }
            if let Some(u) = unit_of[b] {
                units[u].end = i + 1;
            }
        }
        for b in step.writes() {
            match taken {
                Some((x, y)) if y == b => unit_of[y] = unit_of[x],
                _ => start_unit(b, i, &mut units, &mut unit_of),
            }
            if let Some(u) = unit_of[b] {
                units[u].end = i + 1;
            }
        }
    }
    for (b, buffer) in lowered.buffers.iter().enumerate() {
        if buffer.window_input && unit_of[b].is_none() {
            start_unit(b, lowered.setup, &mut units, &mut unit_of);
        }
        if let Some(u) = unit_of[b]
            && buffer.output
        {
            units[u].end = last;
        }
    }
    if !reuse {
        units.iter_mut().for_each(|u| (u.start, u.end) = (0, last));
    }
    let peak = peak_of(&units, last);
    Lifetimes { units, unit_of, peak }
}

fn peak_of(units: &[Unit], last: usize) -> u64 {
    let mut change = vec![0i64; last + 1];
    for u in units {
        change[u.start] += u.bytes as i64;
        change[u.end] -= u.bytes as i64;
    }
    let mut now = 0i64;
    let peak = change.iter().map(|c| {
        now += c;
        now
    });
    peak.max().map_or(0, i64::unsigned_abs)
}
