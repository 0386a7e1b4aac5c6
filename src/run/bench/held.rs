//! Buffers that a measurement holds, and what they are filled with.

use crate::backend::{Backend, BufferId};
use crate::error::Result;
use crate::graph::DType;
use crate::plan::command::Slot;
use half::{bf16, f16};

/// Largest magnitude of what buffers are filled with.
const LARGEST: f32 = 0.03;

/// Buffers of a backend, given back when done.
pub(super) struct Held<'a> {
    pub(super) backend: &'a mut dyn Backend,
    pub(super) buffers: Vec<BufferId>,
}

impl<'a> Held<'a> {
    pub(super) fn new(backend: &'a mut dyn Backend) -> Held<'a> {
        Held { backend, buffers: Vec::new() }
    }

    /// One buffer more.
    pub(super) fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        let buffer = self.backend.alloc(slot)?;
        self.buffers.push(buffer);
        Ok(buffer)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.buffers.drain(..).for_each(|b| self.backend.free(b));
    }
}

/// Small values of no pattern in `dtype`: what a card draws, and so its clock, depends on the bits that change. Read as
/// f32 those of a narrower type are small as well.
pub(super) fn filler(bytes: u64, dtype: DType) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1u32 << 23) as f32 - 1.0) * LARGEST
    };
    let count = (bytes / dtype.bytes()) as usize;
    let mut out = Vec::with_capacity(bytes as usize);
    for _ in 0..count {
        match dtype {
            DType::F32 => out.extend(next().to_ne_bytes()),
            DType::F16 => out.extend(f16::from_f32(next()).to_ne_bytes()),
            DType::Bf16 => out.extend(bf16::from_f32(next()).to_ne_bytes()),
        }
    }
    out.resize(bytes as usize, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_are_small_in_their_type() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let bytes = filler(4000, dtype);
            assert_eq!(bytes.len(), 4000);
            let largest = match dtype {
                DType::F32 => {
                    bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).iter().fold(0.0f32, |m, v| m.max(v.abs()))
                }
                DType::F16 => {
                    bytes.chunks(2).fold(0.0f32, |m, b| m.max(f16::from_ne_bytes([b[0], b[1]]).to_f32().abs()))
                }
                DType::Bf16 => {
                    bytes.chunks(2).fold(0.0f32, |m, b| m.max(bf16::from_ne_bytes([b[0], b[1]]).to_f32().abs()))
                }
            };
            assert!((0.8 * LARGEST..=1.01 * LARGEST).contains(&largest), "{dtype:?}: {largest}");
        }
    }
}
