#include "shared/device.cuh"
#include "shared/row_source.cuh"
#include "shared/wgmma_tile.cuh"

// gemm.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; weight [k][pitch_y], GEGLU [k][2 * pitch_y], value columns first.
// Launch: wgmma 256 threads, 98304 bytes, a block per 128 rows x 128 columns; wgmma_n64 256 threads, 98304 bytes, 128 x 64.
//   With GEGLU a tile has half as many output channels. Column tiles fastest.
// Layout: rows of k channels (a multiple of 8), pad channels zero.
// Numerics: f32 accumulation, K in order 16 at a time, whatever the tile; one rounding at the store.
// Limits: x and w of the same half type; compute capability 9.0.

template <unsigned COLUMNS, class X, class Y>
TS_D void gemm_wgmma(const GemmParams& p, const X* x, const X* weight, const float* bias, const Y* residual, Y* y,
                     Control* control) {
    const bool gated = (p.parts & 1u) != 0;
    const unsigned column_tiles = ceil_div(p.pitch_y, gated ? COLUMNS / 2 : COLUMNS);
    const unsigned id = block_index();
    const unsigned first = id / column_tiles * WGMMA_ROWS;
    if (first >= p.m) {
        return;
    }
    const Columns columns(id % column_tiles, COLUMNS, p.pitch_y, gated);
    RowSource<X, WGMMA_LEFT_ROWS, WGMMA_K, WGMMA_LEFT_APART> left(p, x, first + wgmma_left_row(), wgmma_left_chunk());
    float sums[WgmmaTile<COLUMNS>::SUMS] = {};
    multiply_wgmma<COLUMNS>(left, weight, p.k, gated ? 2 * p.pitch_y : p.pitch_y, columns, swizzled_shared<X>(), sums);
    finish_wgmma<COLUMNS>(GemmOutput<Y>{p, bias, residual, y, control}, columns, first, swizzled_shared<float>(), sums);
}

#define GEMM_WGMMA(X, W, Y) \
    TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, gemm_wgmma_##X##_##W##_##Y, const GemmParams p, const X* x, \
                    const W* weight, const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_wgmma<128>(p, x, weight, bias, residual, y, control); \
    } \
    TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, gemm_wgmma_n64_##X##_##W##_##Y, const GemmParams p, const X* x, \
                    const W* weight, const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_wgmma<64>(p, x, weight, bias, residual, y, control); \
    }
TS_TYPES_MMA(GEMM_WGMMA)
