//! `gemm`: the product of `product.rs` on panels of rows, with GEGLU in the epilogue.

use super::product::{
    COLUMNS, Epilogue, MOST_PIXELS, NOWHERE, Operands, Order, PACKED, SLACK, block_columns, panel, panel_height,
};
use super::scratch::{Scratch, with_scratch};
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
pub(super) fn scratch() -> Scratch {
    let pixels = MOST_PIXELS + SLACK;
    Scratch { floats: PACKED + 2 * pixels * COLUMNS, indices: pixels }
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
        let (packed, rest) = floats.split_at_mut(PACKED);
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
            let mut gate_bias = [0.0; COLUMNS];
            if geglu {
                gate_bias[..columns].copy_from_slice(&gemm.bias[pitch + column..][..columns]);
            }
            for (i, sums) in acc.chunks_exact(nb).take(rows).enumerate() {
                let residual =
                    (!gemm.residual.is_empty()).then(|| &gemm.residual[(first + i) * pitch + column..][..columns]);
                let y = &mut y[i * pitch + column..][..columns];
                if geglu {
                    end.gated([sums, &gate[i * nb..]], &gate_bias, residual, y);
                } else {
                    end.row(sums, residual, y);
                }
            }
            column += columns;
        }
    }
}

/// The one variant. Rows are independent and their sums do not depend on the panel, so it may cross items.
pub(super) fn base(arch: Arch, gemm: &Gemm<'_>, y: &mut [f32]) {
    let pitch = gemm.p.pitch_y as usize;
    let height = panel_height(gemm.p.m as usize);
    let need = scratch();
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
