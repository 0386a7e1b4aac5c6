#include "shared/device.cuh"
#include "shared/flash_wgmma.cuh"

// attention.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; `rel` and `scratch` are not used.
// Launch: wgmma_64 256 threads, 49152 bytes, a block per 128 queries of one head of one item. Query blocks fastest, then heads,
//   then items.
// Layout: tokens x pitch; head h takes channels offset + h * 64, offsets multiples of 8.
// Numerics: as attention.sm80.cu's mma.
// Limits: no `rel`, q, k, v of a half type, head_dim 64; compute capability 9.0.

#define ATTENTION_WGMMA(X, W, Y) \
    TS_ENTRY_BLOCKS(FLASH_WGMMA_THREADS, FLASH_WGMMA_BLOCKS, attention_wgmma_64_##X##_##W##_##Y, const AttentionParams p, \
                    const X* q, const X* k, const X* v, const X* rel, Y* y, void* scratch, Control* control) { \
        (void)rel, (void)scratch; \
        attention_wgmma_64(p, q, k, v, y, control); \
    }
TS_TYPES_MMA(ATTENTION_WGMMA)
