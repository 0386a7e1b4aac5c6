#include "shared/device.cuh"
#include "shared/conv_output.cuh"
#include "shared/wgmma_tile.cuh"

// conv2d.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; weight [tap][pitch_x + pitch_x2][pitch_y], up2x2: [phase][2 x 2][pitch_x][pitch_y].
// Launch: wgmma 256 threads, 98304 bytes, a block per 128 pixels x 128 channels; wgmma_n64 256 threads, 98304 bytes, 128 x 64;
//   up2x2_wgmma, up2x2_wgmma_n64 like these, pixels being the n * h * w of the input, once per phase.
//   Column tiles fastest, then pixel tiles, then phases.
// Layout: NHWC, pitch a multiple of 8, pad channels zero. Pixels of a tile may span rows and items.
// Numerics: f32 accumulation, K in order tap, source, channel 16 at a time, whatever the tile; one rounding.
// Limits: as conv2d.sm80.cu's mma; compute capability 9.0.

template <unsigned COLUMNS, bool UP2X2, class X, class Y>
TS_D void conv2d_wgmma(const Conv2dParams& p, const X* x, const X* x2, const X* weight, const float* bias,
                       const float* row_bias, const Y* residual, Y* y, Control* control) {
    const unsigned column_tiles = ceil_div(p.pitch_y, COLUMNS);
    const unsigned pixel_tiles = ceil_div(conv_pixels<UP2X2>(p), WGMMA_ROWS);
    const unsigned id = block_index();
    const unsigned tile = id / column_tiles;
    if (tile >= (UP2X2 ? 4 : 1) * pixel_tiles) {
        return;
    }
    const unsigned phase = UP2X2 ? tile / pixel_tiles : 0;
    const unsigned first = (UP2X2 ? tile % pixel_tiles : tile) * WGMMA_ROWS;
    const Columns columns(id % column_tiles, COLUMNS, p.pitch_y, false);
    ConvSource<X, WGMMA_LEFT_ROWS, WGMMA_K, UP2X2, WGMMA_LEFT_APART> left(p, x, x2, first + wgmma_left_row(), phase,
                                                                          wgmma_left_chunk());
    const unsigned k = UP2X2 ? 4 * p.pitch_x : p.kernel * p.kernel * (p.pitch_x + p.pitch_x2);
    const X* taps = weight + size_t(phase) * k * p.pitch_y;
    float sums[WgmmaTile<COLUMNS>::SUMS] = {};
    multiply_wgmma<COLUMNS>(left, taps, k, p.pitch_y, columns, swizzled_shared<X>(), sums);
    const ConvOutput<Y, UP2X2> out = {p, bias, row_bias, residual, y, control, phase};
    finish_wgmma<COLUMNS>(out, columns, first, swizzled_shared<float>(), sums);
}

#define CONV_WGMMA(X, W, Y) \
    CONV_ENTRY(WGMMA_THREADS, WGMMA_BLOCKS, wgmma, X, W, Y, (conv2d_wgmma<128, false>)) \
    CONV_ENTRY(WGMMA_THREADS, WGMMA_BLOCKS, wgmma_n64, X, W, Y, (conv2d_wgmma<64, false>)) \
    CONV_ENTRY(WGMMA_THREADS, WGMMA_BLOCKS, up2x2_wgmma, X, W, Y, (conv2d_wgmma<128, true>)) \
    CONV_ENTRY(WGMMA_THREADS, WGMMA_BLOCKS, up2x2_wgmma_n64, X, W, Y, (conv2d_wgmma<64, true>))
TS_TYPES_MMA(CONV_WGMMA)
