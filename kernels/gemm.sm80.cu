#include "shared/device.cuh"
#include "shared/gemm_product.cuh"
#include "shared/mma_tile.cuh"
#include "shared/simt_tile.cuh"

// y = act(x W + bias) + residual; GEGLU: y = (x Wv + bv) * gelu(x Wg + bg) + residual
// Bindings: abi's order; weight [k][pitch_y], GEGLU [k][2 * pitch_y], value columns first.
// Launch: base 256 threads, no dynamic shared memory, a block per 64 rows x 64 columns;
//   mma, tf32 256 threads, 49152 bytes, a block per 128 rows x 128 columns; mma_n64, tf32_n64 256 threads, 49152 bytes, 128 x 64.
//   With GEGLU a tile has half as many output channels. Column tiles fastest.
// Layout: rows of k channels (a multiple of 8), pad channels zero.
// Numerics: f32 accumulation, K in order (mma: 16 at a time, tf32: 8), whatever the tile; one rounding at the store. tf32 rounds
//   its factors to 11 bits first.
// Limits: mma: x and w of the same half type; tf32: f32 alone.

template <class X, class W, class Y>
TS_D void gemm_base(const GemmParams& p, const X* x, const W* weight, const float* bias, const Y* residual, Y* y,
                    Control* control) {
    TS_SHARED(float, shared, SIMT_SHARED);
    const bool gated = (p.parts & 1u) != 0;
    const unsigned column_tiles = ceil_div(p.pitch_y, gated ? SIMT_TILE / 2 : SIMT_TILE);
    const unsigned id = block_index();
    const unsigned first = id / column_tiles * SIMT_TILE;
    if (first >= p.m) {
        return;
    }
    const Columns columns(id % column_tiles, SIMT_TILE, p.pitch_y, gated);
    const unsigned pitch = gated ? 2 * p.pitch_y : p.pitch_y;
    const bool exists = columns.channel(simt_right_chunk()) < p.pitch_y;
    const unsigned column = exists ? columns.weight(simt_right_chunk()) : pitch;
    RowSource<X, 1, SIMT_K> left(p, x, first + simt_left_row(), simt_left_channel());
    float sums[4][4] = {};
    multiply_simt(left, weight, p.k, pitch, column, shared, sums);
    finish_simt(GemmOutput<Y>{p, bias, residual, y, control}, columns, first, shared, sums);
}

#define GEMM_BASE(X, W, Y) \
    TS_ENTRY(SIMT_THREADS, gemm_base_##X##_##W##_##Y, const GemmParams p, const X* x, const W* weight, \
             const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_base(p, x, weight, bias, residual, y, control); \
    }
TS_TYPES_XWY(GEMM_BASE)

#define GEMM_TILES(WAY, X, W, Y) \
    TS_ENTRY(MMA_THREADS, gemm_##WAY##_##X##_##W##_##Y, const GemmParams p, const X* x, const W* weight, \
             const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_product<Mma<128, X>>(p, x, weight, bias, residual, y, control); \
    } \
    TS_ENTRY(MMA_THREADS, gemm_##WAY##_n64_##X##_##W##_##Y, const GemmParams p, const X* x, const W* weight, \
             const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_product<Mma<64, X>>(p, x, weight, bias, residual, y, control); \
    }
#define GEMM_MMA(X, W, Y) GEMM_TILES(mma, X, W, Y)
TS_TYPES_MMA(GEMM_MMA)
GEMM_TILES(tf32, f32, f32, f32)
