#include "shared/device.cuh"
#include "shared/gemm_product.cuh"
#include "shared/tma_split.cuh"

// gemm.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; weight [k][pitch_y], GEGLU [k][2 * pitch_y], value columns first. tma: then maps of x and of the weight;
//   tma_split: then its Partials (tma_split.cuh).
// Launch: wgmma 256 threads, 98304 bytes, a block per 128 rows x 128 columns; wgmma_n64 256 threads, 98304 bytes, 128 x 64.
//   Column tiles fastest. tma 384 threads, 217216 bytes, tiles of 256 rows x 128 columns; tma_m128 384 threads, 217216 bytes,
//   128 x 128; tma_split and tma_split_m128 like them, a tile's K in parts; any number of blocks, in one dimension.
//   With GEGLU a tile has half as many output channels.
// Layout: rows of k channels (a multiple of 8), pad channels zero.
// Numerics: f32 accumulation, K in order 16 at a time, whatever the tile; one rounding at the store. tma_split: parts of
//   K in order, then their sums.
// Limits: x and w of the same half type; compute capability 9.0.

// The operands of tma: boxes of 64 of K by the tile's rows, and of 64 columns by 64 of K.
template <unsigned HALVES> struct TmaRows {
    const GemmParams& p;
    const TensorMap& x;
    const TensorMap& weight;
    unsigned row = 0;
    unsigned slabs[2] = {};

    TS_D unsigned blocks() const { return ceil_div(p.k, TMA_K); }

    TS_D void begin(uint2 tile, unsigned) {
        row = tile.x * TmaTile<HALVES>::ROWS;
        const bool gated = (p.parts & 1u) != 0;
        slabs[0] = tile.y * (gated ? 64 : TMA_COLUMNS);
        slabs[1] = slabs[0] + (gated ? p.pitch_y : 64);
    }

    template <class T> TS_D void load(unsigned block, T* left, T* right, Barrier* barrier) const {
        tma_load_2d(left, x, barrier, block * TMA_K, row);
        tma_load_2d(right, weight, barrier, slabs[0], block * TMA_K);
        tma_load_2d(right + TmaTile<HALVES>::SLAB, weight, barrier, slabs[1], block * TMA_K);
    }
};

template <unsigned HALVES, bool SPLIT, class X, class Y>
TS_D void gemm_tma(const GemmParams& p, const float* bias, const Y* residual, Y* y, Control* control, const TensorMap& x,
                   const TensorMap& weight, const Partials& partials = {}) {
    const bool gated = (p.parts & 1u) != 0;
    const unsigned down = ceil_div(p.m, TmaTile<HALVES>::ROWS);
    const unsigned across = ceil_div(p.pitch_y, gated ? 64 : TMA_COLUMNS);
    const TmaTiles tiles = SPLIT ? split_tiles(down, across, partials) : TmaTiles{down, across};
    TmaRows<HALVES> source = {p, x, weight};
    const GemmOutput<Y> out = {p, bias, residual, y, control};
    product_tma<HALVES, X>(source, tiles, [&](unsigned index, unsigned part, float(&sums)[HALVES][64]) {
        if (SPLIT && !gather_parts(tiles, index, part, partials, sums)) {
            return;
        }
        const uint2 tile = tiles.at(index);
        finish_tma(out, Columns(tile.y, TMA_COLUMNS, p.pitch_y, gated), tile.x * TmaTile<HALVES>::ROWS, sums);
    });
}

#define GEMM_TMA(VARIANT, X, W, Y, HALVES) \
    TS_ENTRY_BLOCKS(TMA_THREADS, 1, gemm_##VARIANT##_##X##_##W##_##Y, const GemmParams p, const X*, const W*, const float* bias, \
                    const Y* residual, Y* y, Control* control, TS_MAP(x), TS_MAP(weight)) { \
        gemm_tma<HALVES, false, X>(p, bias, residual, y, control, x, weight); \
    }
#define GEMM_SPLIT(VARIANT, X, W, Y, HALVES) \
    TS_ENTRY_BLOCKS(TMA_THREADS, 1, gemm_##VARIANT##_##X##_##W##_##Y, const GemmParams p, const X*, const W*, const float* bias, \
                    const Y* residual, Y* y, Control* control, TS_MAP(x), TS_MAP(weight), const Partials partials) { \
        gemm_tma<HALVES, true, X>(p, bias, residual, y, control, x, weight, partials); \
    }
#define GEMM_WGMMA(X, W, Y) \
    TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, gemm_wgmma_##X##_##W##_##Y, const GemmParams p, const X* x, \
                    const W* weight, const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_product<Wgmma<128>>(p, x, weight, bias, residual, y, control); \
    } \
    TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, gemm_wgmma_n64_##X##_##W##_##Y, const GemmParams p, const X* x, \
                    const W* weight, const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_product<Wgmma<64>>(p, x, weight, bias, residual, y, control); \
    } \
    GEMM_TMA(tma, X, W, Y, 2) \
    GEMM_TMA(tma_m128, X, W, Y, 1) \
    GEMM_SPLIT(tma_split, X, W, Y, 2) \
    GEMM_SPLIT(tma_split_m128, X, W, Y, 1)
TS_TYPES_MMA(GEMM_WGMMA)
