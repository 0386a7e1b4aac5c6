//! `gemm`: the product of `product.rs` on panels of rows, with GEGLU in the epilogue.

use super::conv2d::panel_pixels;
use super::kernel::{Scratch, with_scratch};
use super::product::{COLUMNS, Epilogue, K_BLOCK, NOWHERE, Operands, Order, SLACK, block_columns, panel};
use super::vector::gelu;
use crate::abi::params::GemmParams;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Operands as f32 slices; absent parts are empty.
pub(super) struct Gemm<'a> {
    pub(super) p: GemmParams,
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) residual: &'a [f32],
    pub(super) order: &'a Order,
}

/// The K order of a launch.
pub(super) fn order(p: &GemmParams) -> Order {
    Order::new(1, [p.k as usize, 0], p.pitch_y as usize)
}

/// Thread scratch of a launch.
pub(super) fn scratch(p: &GemmParams) -> Scratch {
    let pixels = panel_pixels(p.m as usize) + SLACK;
    Scratch { floats: K_BLOCK * COLUMNS + 2 * pixels * COLUMNS, indices: pixels }
}

struct Panel<'a, 'b> {
    gemm: &'a Gemm<'a>,
    first: usize,
    rows: usize,
    table: &'a [u32],
    floats: &'b mut [f32],
    zeros: &'a [f32],
    y: &'b mut [f32],
}

impl WithSimd for Panel<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panel { gemm, first, rows, table, floats, zeros, y } = self;
        let p = &gemm.p;
        let (pitch, geglu) = (p.pitch_y as usize, p.parts & 1 == 1);
        let op = Operands {
            x: [&gemm.x[first * p.k as usize..], &[]],
            pitch: [p.k as usize, 0],
            w: gemm.weight,
            ld: if geglu { 2 * pitch } else { pitch },
            zeros,
            order: gemm.order,
            table,
            stride: table.len(),
            pixels: rows,
        };
        let (packed, rest) = floats.split_at_mut(K_BLOCK * COLUMNS);
        let (acc, gate) = rest.split_at_mut(table.len() * COLUMNS);
        let mut column = 0;
        while column < pitch {
            let columns = COLUMNS.min(pitch - column);
            let nb = block_columns(columns);
            panel(simd, &op, column, columns, packed, acc);
            if geglu {
                panel(simd, &op, pitch + column, columns, packed, gate);
            }
            let end = Epilogue::new(p.act, &gemm.bias[column..][..columns], &[]);
            for (i, sums) in acc.chunks_exact_mut(nb).take(rows).enumerate() {
                let residual =
                    (!gemm.residual.is_empty()).then(|| &gemm.residual[(first + i) * pitch + column..][..columns]);
                let y = &mut y[i * pitch + column..][..columns];
                if geglu {
                    let gate = &gate[i * nb..][..columns];
                    let gate_bias = &gemm.bias[pitch + column..][..columns];
                    for (j, sum) in sums[..columns].iter_mut().enumerate() {
                        *sum = (*sum + end.bias[j]) * gelu(gate[j] + gate_bias[j]);
                    }
                    // The bias is inside the product already.
                    Epilogue::new(p.act, &[], &[]).row(sums, residual, y);
                } else {
                    end.row(sums, residual, y);
                }
            }
            column += columns;
        }
    }
}

/// The one variant. Rows are independent and their sums do not depend on the panel, so the panel height
/// may follow `m`, batch included.
pub(super) fn base(arch: Arch, gemm: &Gemm<'_>, y: &mut [f32]) {
    let pitch = gemm.p.pitch_y as usize;
    let height = panel_pixels(gemm.p.m as usize);
    let need = scratch(&gemm.p);
    y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| {
        let rows = y.len() / pitch;
        with_scratch(need, |floats, indices, zeros| {
            let table = &mut indices[..height + SLACK];
            for (i, entry) in table.iter_mut().enumerate() {
                *entry = if i < rows { i as u32 } else { NOWHERE };
            }
            arch.dispatch(Panel { gemm, first: index * height, rows, table, floats, zeros, y });
        });
    });
}
