//! Memory of one thread that kernels work in, grown when a list is prepared.

use super::memory::Line;
use super::product::LONGEST;
use bytemuck::Zeroable;
use std::cell::RefCell;

/// What one thread needs for one panel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scratch {
    /// f32 values.
    pub(super) floats: usize,
    /// Table entries.
    pub(super) indices: usize,
}

impl Scratch {
    /// Enough for both.
    pub(super) fn max(self, other: Scratch) -> Scratch {
        Scratch { floats: self.floats.max(other.floats), indices: self.indices.max(other.indices) }
    }
}

#[derive(Default)]
struct Buffers {
    floats: Vec<Line>,
    indices: Vec<Line>,
    zeros: Vec<Line>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

fn grow(lines: &mut Vec<Line>, words: usize) {
    let count = words.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line::zeroed());
    }
}

/// Lends this thread's scratch (floats, table entries, zeros) to `work`, which must not wait for other
/// tasks: a stolen task would find the scratch lent out. `prepare` has grown it on every thread, so
/// nothing is allocated here after that. The contents are whatever the last panel left.
pub(super) fn with_scratch<R>(need: Scratch, work: impl FnOnce(&mut [f32], &mut [u32], &[f32]) -> R) -> R {
    BUFFERS.with_borrow_mut(|buffers| {
        grow(&mut buffers.floats, need.floats);
        grow(&mut buffers.indices, need.indices);
        grow(&mut buffers.zeros, LONGEST);
        let Buffers { floats, indices, zeros } = buffers;
        work(bytemuck::cast_slice_mut(floats), bytemuck::cast_slice_mut(indices), bytemuck::cast_slice(zeros))
    })
}
