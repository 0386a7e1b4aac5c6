#include "shared/device.cuh"
#include "shared/gemm_product.cuh"
#include "shared/wgmma_tile.cuh"

// gemm.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; weight [k][pitch_y], GEGLU [k][2 * pitch_y], value columns first.
// Launch: wgmma 256 threads, 98304 bytes, a block per 128 rows x 128 columns; wgmma_n64 256 threads, 98304 bytes, 128 x 64.
//   With GEGLU a tile has half as many output channels. Column tiles fastest.
// Layout: rows of k channels (a multiple of 8), pad channels zero.
// Numerics: f32 accumulation, K in order 16 at a time, whatever the tile; one rounding at the store.
// Limits: x and w of the same half type; compute capability 9.0.

#define GEMM_WGMMA(X, W, Y) \
    TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, gemm_wgmma_##X##_##W##_##Y, const GemmParams p, const X* x, \
                    const W* weight, const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_product<Wgmma<128>>(p, x, weight, bias, residual, y, control); \
    } \
    TS_ENTRY_BLOCKS(WGMMA_THREADS, WGMMA_BLOCKS, gemm_wgmma_n64_##X##_##W##_##Y, const GemmParams p, const X* x, \
                    const W* weight, const float* bias, const Y* residual, Y* y, Control* control) { \
        gemm_product<Wgmma<64>>(p, x, weight, bias, residual, y, control); \
    }
TS_TYPES_MMA(GEMM_WGMMA)
