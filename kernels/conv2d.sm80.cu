#include "shared/device.cuh"
#include "shared/conv_product.cuh"
#include "shared/mma_tile.cuh"
#include "shared/simt_tile.cuh"

// y = act(conv(concat(x, x2)) + bias + row_bias[step_row]) + residual; statistics = (count, mean, M2) of y's blocks, where asked for
// Bindings: abi's order; weight [tap][pitch_x + pitch_x2][pitch_y], up2x2: [phase][2 x 2][pitch_x][pitch_y].
// Launch: base 256 threads, no dynamic shared memory, a block per 64 pixels x 64 channels;
//   mma, tf32 256 threads, 49152 bytes, a block per 128 pixels x 128 channels; mma_n64, tf32_n64 256 threads, 49152 bytes,
//   128 x 64; up2x2_mma, up2x2_tf32 and theirs of n64 like these, pixels being the n * h * w of the input, once per phase.
//   Column tiles fastest, then pixel tiles, then phases.
// Layout: NHWC, pitch a multiple of 8, pad channels zero. Pixels of a tile may span rows and items.
// Numerics: f32 accumulation, K in order tap, source, channel (mma: 16 at a time, tf32: 8), whatever the tile; one rounding.
//   tf32 rounds its factors to 11 bits first.
//   statistics: shared/statistics.cuh, of what was stored.
// Limits: mma: x and w of the same half type; tf32: f32 alone. No statistics by base, of y of another type than x, and of items (of
//   phases) that are not whole blocks. up2x2 only where the doubled input is not cropped (the table checks).
//   2^32 pixels of the launch.
// Source: implicit GEMM; the fold of nearest-2x + 3x3 into four 2x2 is graph/layout.rs'.

template <class X, class W, class Y>
TS_D void conv2d_base(const Conv2dParams& p, const X* x, const X* x2, const W* weight, const float* bias,
                      const float* row_bias, const Y* residual, Y* y, Control* control, float*) {
    TS_SHARED(float, shared, SIMT_SHARED);
    const unsigned column_tiles = ceil_div(p.pitch_y, SIMT_TILE);
    const unsigned id = block_index();
    const unsigned tile = id / column_tiles;
    if (tile >= ceil_div(conv_pixels<false>(p), SIMT_TILE)) {
        return;
    }
    const unsigned first = tile * SIMT_TILE;
    const Columns columns(id % column_tiles, SIMT_TILE, p.pitch_y, false);
    const unsigned column = min(columns.channel(simt_right_chunk()), p.pitch_y);
    ConvSource<X, 1, SIMT_K, false> left(p, x, x2, first + simt_left_row(), 0, simt_left_channel());
    const unsigned k = p.kernel * p.kernel * (p.pitch_x + p.pitch_x2);
    float sums[4][4] = {};
    multiply_simt(left, weight, k, p.pitch_y, column, shared, sums);
    finish_simt(ConvOutput<Y, false>{p, bias, row_bias, residual, y, control, 0}, columns, first, shared, sums);
}

#define CONV_SIMT(...) TS_ENTRY(SIMT_THREADS, __VA_ARGS__)
#define CONV_BASE(X, W, Y) CONV_ENTRY(CONV_SIMT, base, X, W, Y, conv2d_base)
TS_TYPES_XWY(CONV_BASE)

#define CONV_TILES(...) TS_ENTRY(MMA_THREADS, __VA_ARGS__)
#define CONV_ALL_TILES(WAY, X, W, Y) \
    CONV_ENTRY(CONV_TILES, WAY, X, W, Y, (conv2d_product<Mma<128, X>, false>)) \
    CONV_ENTRY(CONV_TILES, WAY##_n64, X, W, Y, (conv2d_product<Mma<64, X>, false>)) \
    CONV_ENTRY(CONV_TILES, up2x2_##WAY, X, W, Y, (conv2d_product<Mma<128, X>, true>)) \
    CONV_ENTRY(CONV_TILES, up2x2_##WAY##_n64, X, W, Y, (conv2d_product<Mma<64, X>, true>))
#define CONV_MMA(X, W, Y) CONV_ALL_TILES(mma, X, W, Y)
TS_TYPES_MMA(CONV_MMA)
CONV_ALL_TILES(tf32, f32, f32, f32)
