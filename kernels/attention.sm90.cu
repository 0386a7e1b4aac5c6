#include "shared/device.cuh"
#include "shared/flash_tma.cuh"

// attention.sm80.cu's function on Hopper's tensor cores.
// Bindings: abi's order; `rel` and `scratch` are not used. tma_64: then maps of q, k and v.
// Launch: wgmma_64 256 threads, 49152 bytes, a block per 128 queries of one head of one item. Query blocks fastest, then heads,
//   then items. tma_64 512 threads, 178240 bytes, like it per 192 queries.
// Layout: tokens x pitch; head h takes channels offset + h * 64, offsets multiples of 8.
// Numerics: as attention.sm80.cu's mma.
// Limits: no `rel`, q, k, v of a half type, head_dim 64; compute capability 9.0. tma_64: neither causal nor contexts.

#define ATTENTION_WGMMA(X, W, Y) \
    TS_ENTRY_BLOCKS(FLASH_WGMMA_THREADS, FLASH_WGMMA_BLOCKS, attention_wgmma_64_##X##_##W##_##Y, const AttentionParams p, \
                    const X* q, const X* k, const X* v, const X* rel, Y* y, void* scratch, Control* control) { \
        (void)rel, (void)scratch; \
        attention_wgmma_64(p, q, k, v, y, control); \
    } \
    TS_ENTRY_BLOCKS(FLASH_TMA_THREADS, 1, attention_tma_64_##X##_##W##_##Y, const AttentionParams p, const X*, const X*, const X*, \
                    const X*, Y* y, void*, Control* control, TS_MAP(q), TS_MAP(k), TS_MAP(v)) { \
        attention_tma_64<X>(p, y, control, q, k, v); \
    }
TS_TYPES_MMA(ATTENTION_WGMMA)
