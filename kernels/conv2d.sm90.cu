#include "shared/device.cuh"
#include "shared/conv_product.cuh"
#include "shared/wgmma_tile.cuh"

// conv2d.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; weight [tap][pitch_x + pitch_x2][pitch_y], up2x2: [phase][2 x 2][pitch_x][pitch_y].
// Launch: wgmma 256 threads, 98304 bytes, a block per 128 pixels x 128 channels; wgmma_n64 256 threads, 98304 bytes, 128 x 64;
//   up2x2_wgmma, up2x2_wgmma_n64 like these, pixels being the n * h * w of the input, once per phase.
//   Column tiles fastest, then pixel tiles, then phases.
// Layout: NHWC, pitch a multiple of 8, pad channels zero. Pixels of a tile may span rows and items.
// Numerics: f32 accumulation, K in order tap, source, channel 16 at a time, whatever the tile; one rounding.
// Limits: as conv2d.sm80.cu's mma; compute capability 9.0.

#define CONV_TILES(...) TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, __VA_ARGS__)
#define CONV_WGMMA(X, W, Y) \
    CONV_ENTRY(CONV_TILES, wgmma, X, W, Y, (conv2d_product<Wgmma<128>, false>)) \
    CONV_ENTRY(CONV_TILES, wgmma_n64, X, W, Y, (conv2d_product<Wgmma<64>, false>)) \
    CONV_ENTRY(CONV_TILES, up2x2_wgmma, X, W, Y, (conv2d_product<Wgmma<128>, true>)) \
    CONV_ENTRY(CONV_TILES, up2x2_wgmma_n64, X, W, Y, (conv2d_product<Wgmma<64>, true>))
TS_TYPES_MMA(CONV_WGMMA)
