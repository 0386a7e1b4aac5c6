// gemm as a product on tensor cores: its left operand, rows of k channels, and its body over any way to multiply.
#pragma once

#include "output.cuh"

// Chunks of the rows of x, at most 8 channels each, one block of K after another.
template <class X, unsigned ROWS, unsigned STEP, unsigned APART = 64> struct RowSource {
    const X* row[ROWS];
    unsigned c;
    unsigned k;

    // Rows `first`, `first + APART`, .. from channel `c` on; rows past the end are zeros.
    TS_D RowSource(const GemmParams& p, const X* x, unsigned first, unsigned c) : c(c), k(p.k) {
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            const unsigned at = first + APART * i;
            row[i] = at < p.m ? x + size_t(at) * p.k : nullptr;
        }
    }

    TS_D const X* address(unsigned i) const { return row[i] != nullptr && c < k ? row[i] + c : nullptr; }

    TS_D void advance() { c += STEP; }

    TS_D void next(float (&v)[8]) {
        if (const X* at = address(0)) {
            load8(at, v);
        }
        advance();
    }
};

// A block's tile; `Way`: Mma of mma_tile.cuh or Wgmma of wgmma_tile.cuh.
template <class Way, class X, class Y>
TS_D void gemm_product(const GemmParams& p, const X* x, const X* weight, const float* bias, const Y* residual, Y* y,
                       Control* control) {
    const bool gated = (p.parts & 1u) != 0;
    const unsigned column_tiles = ceil_div(p.pitch_y, gated ? Way::COLUMNS / 2 : Way::COLUMNS);
    const unsigned id = block_index();
    const unsigned first = id / column_tiles * Way::ROWS;
    if (first >= p.m) {
        return;
    }
    const Columns columns(id % column_tiles, Way::COLUMNS, p.pitch_y, gated);
    RowSource<X, Way::LEFT_ROWS, Way::K, Way::LEFT_APART> left(p, x, first + Way::left_row(), Way::left_channel());
    typename Way::Sums sums = {};
    Way::multiply(left, weight, p.k, gated ? 2 * p.pitch_y : p.pitch_y, columns, sums);
    Way::finish(GemmOutput<Y>{p, bias, residual, y, control}, columns, first, sums);
}
