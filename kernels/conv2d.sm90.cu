#include "shared/device.cuh"
#include "shared/conv_product.cuh"
#include "shared/tma_split.cuh"

// conv2d.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; weight [tap][pitch_x + pitch_x2][pitch_y], up2x2: [phase][2 x 2][pitch_x][pitch_y]. tma: then maps of x, of x2
//   (without one, of x again) and of the weight; tma_split: then its Partials (tma_split.cuh).
// Launch: wgmma 256 threads, 98304 bytes, a block per 128 pixels x 128 channels; wgmma_n64 256 threads, 98304 bytes, 128 x 64;
//   up2x2_wgmma, up2x2_wgmma_n64 like these, pixels being the n * h * w of the input, once per phase.
//   Column tiles fastest, then pixel tiles, then phases.
//   tma 384 threads, 217216 bytes, tiles of 256 pixels x 128 channels; tma_m128 384 threads, 217216 bytes, 128 x 128; up2x2_tma,
//   up2x2_tma_m128 like these, once per phase; tma_split and tma_split_m128 like tma and tma_m128, a tile's K in
//   parts; any number of blocks, in one dimension.
// Layout: NHWC, pitch a multiple of 8, pad channels zero. Pixels of a tile may span rows and items.
// Numerics: f32 accumulation, K in order tap, source, channel 16 at a time, whatever the tile; one rounding. tma_split:
//   parts of K in order, then their sums.
// Limits: as conv2d.sm80.cu's mma; compute capability 9.0. tma: pitches of multiples of 64, not the doubled input but by phases, and
//   what the maps can hold (src/abi/table/tma/mod.rs). tma_split: no statistics.

// The operands of tma. The left one is a run of the output's pixels, each where its first tap reads: the map's bounding box has as
// many places a row as the output has pixels, and a tap moves them all. The right one is boxes of 64 channels by 64 of K.
template <unsigned HALVES, bool UP2X2> struct TmaTaps {
    const Conv2dParams& p;
    const TensorMap& x;
    const TensorMap& x2;
    const TensorMap& weight;
    // Of the tile: where its first pixel reads, its first channel, its phase.
    ConvPlace at = {};
    unsigned column = 0;
    unsigned phase = 0;
    // Of the next block of K: channel of both sources laid one after another, and tap.
    unsigned c = 0;
    unsigned dx = 0;
    unsigned dy = 0;

    TS_D unsigned side() const { return UP2X2 ? 2 : p.kernel; }
    TS_D unsigned channels() const { return p.pitch_x + (UP2X2 ? 0 : p.pitch_x2); }
    TS_D unsigned blocks() const { return side() * side() * channels() / TMA_K; }

    TS_D void begin(uint2 tile, unsigned block) {
        phase = UP2X2 ? tile.x % 4 : 0;
        // The phase moves the taps instead of the places, so that one map serves all.
        at = conv_place<UP2X2>(p, (UP2X2 ? tile.x / 4 : tile.x) * TmaTile<HALVES>::ROWS, 0);
        column = tile.y * TMA_COLUMNS;
        const unsigned tap = block * TMA_K / channels();
        c = block * TMA_K - tap * channels();
        dx = tap % side();
        dy = tap / side();
    }

    template <class T> TS_D void load(unsigned block, T* left, T* right, Barrier* barrier) {
        const bool second = !UP2X2 && c >= p.pitch_x;
        tma_load_im2col(left, second ? x2 : x, barrier, second ? c - p.pitch_x : c, at.column, at.row, at.item,
                        dx + phase % 2, dy + phase / 2);
        const unsigned row = (phase * blocks() + block) * TMA_K;
        tma_load_2d(right, weight, barrier, column, row);
        tma_load_2d(right + TmaTile<HALVES>::SLAB, weight, barrier, column + 64, row);
        c += TMA_K;
        if (c == channels()) {
            c = 0;
            if (++dx == side()) {
                dx = 0;
                dy++;
            }
        }
    }
};

template <unsigned HALVES, bool UP2X2, bool SPLIT, class X, class Y>
TS_D void conv2d_tma(const Conv2dParams& p, const float* bias, const float* row_bias, const Y* residual, Y* y,
                     Control* control, float* statistics, const TensorMap& x, const TensorMap& x2, const TensorMap& weight,
                     const Partials& partials = {}) {
    TmaTaps<HALVES, UP2X2> source = {p, x, x2, weight};
    const unsigned down = (UP2X2 ? 4 : 1) * ceil_div(conv_pixels<UP2X2>(p), TmaTile<HALVES>::ROWS);
    const unsigned across = ceil_div(p.pitch_y, TMA_COLUMNS);
    const TmaTiles tiles = SPLIT ? split_tiles(down, across, partials) : TmaTiles{down, across};
    Stored<HALVES> stored;
    product_tma<HALVES, X>(source, tiles, [&](unsigned index, unsigned part, float(&sums)[HALVES][64]) {
        if (SPLIT && !gather_parts(tiles, index, part, partials, sums)) {
            return;
        }
        const uint2 tile = tiles.at(index);
        const unsigned phase = UP2X2 ? tile.x % 4 : 0;
        const ConvOutput<Y, UP2X2> out = {p, bias, row_bias, residual, y, control, phase};
        const unsigned first = (UP2X2 ? tile.x / 4 : tile.x) * TmaTile<HALVES>::ROWS;
        finish_tma(out, Columns(tile.y, TMA_COLUMNS, p.pitch_y, false), first, sums);
        if (!SPLIT && wants_statistics<X, Y>(p)) {
            stored.wait();
#pragma unroll 1
            for (unsigned half = 0; half < HALVES; half++) {
                tile_statistics<TMA_COLUMNS, UP2X2>(p, y, statistics, control, phase, first + half * PRODUCT_BLOCK,
                                                    tile.y * TMA_COLUMNS, warp() - 4);
            }
        }
    });
}

#define CONV_TILES(...) TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, __VA_ARGS__)
#define CONV_TMA(VARIANT, X, W, Y, HALVES, UP2X2) \
    TS_ENTRY_BLOCKS(TMA_THREADS, 1, conv2d_##VARIANT##_##X##_##W##_##Y, const Conv2dParams p, const X*, const X*, const W*, \
                    const float* bias, const float* row_bias, const Y* residual, Y* y, Control* control, float* statistics, TS_MAP(x), \
                    TS_MAP(x2), TS_MAP(weight)) { \
        conv2d_tma<HALVES, UP2X2, false, X>(p, bias, row_bias, residual, y, control, statistics, x, x2, weight); \
    }
#define CONV_SPLIT(VARIANT, X, W, Y, HALVES) \
    TS_ENTRY_BLOCKS(TMA_THREADS, 1, conv2d_##VARIANT##_##X##_##W##_##Y, const Conv2dParams p, const X*, const X*, const W*, \
                    const float* bias, const float* row_bias, const Y* residual, Y* y, Control* control, float* statistics, TS_MAP(x), \
                    TS_MAP(x2), TS_MAP(weight), const Partials partials) { \
        conv2d_tma<HALVES, false, true, X>(p, bias, row_bias, residual, y, control, statistics, x, x2, weight, partials); \
    }
#define CONV_WGMMA(X, W, Y) \
    CONV_ENTRY(CONV_TILES, wgmma, X, W, Y, (conv2d_product<Wgmma<128>, false>)) \
    CONV_ENTRY(CONV_TILES, wgmma_n64, X, W, Y, (conv2d_product<Wgmma<64>, false>)) \
    CONV_ENTRY(CONV_TILES, up2x2_wgmma, X, W, Y, (conv2d_product<Wgmma<128>, true>)) \
    CONV_ENTRY(CONV_TILES, up2x2_wgmma_n64, X, W, Y, (conv2d_product<Wgmma<64>, true>)) \
    CONV_TMA(tma, X, W, Y, 2, false) \
    CONV_TMA(tma_m128, X, W, Y, 1, false) \
    CONV_TMA(up2x2_tma, X, W, Y, 2, true) \
    CONV_TMA(up2x2_tma_m128, X, W, Y, 1, true) \
    CONV_SPLIT(tma_split, X, W, Y, 2) \
    CONV_SPLIT(tma_split_m128, X, W, Y, 1)
TS_TYPES_MMA(CONV_WGMMA)
