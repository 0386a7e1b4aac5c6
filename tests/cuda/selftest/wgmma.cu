#include "shared/device.cuh"
#include "shared/wgmma.cuh"

// Kernels of the self tests with products of a warpgroup: one that does right, and one for each mistake.

// Where element (row, i) of an operand stands: rows of 128 bytes, chunks of 8 elements exchanged by the row.
TS_D unsigned place(unsigned row, unsigned i) { return row * 64 + ((i / 8) ^ (row % 8)) * 8 + i % 8; }

// a is 64 x 64 by rows, b 64 x COLUMNS by rows of K, as floats that f16 holds; both end in shared memory, b in slabs of 64 columns.
template <unsigned COLUMNS> TS_D half_t* operands(const float* a, const float* b) {
    half_t* shared = swizzled_shared<half_t>();
    for (unsigned at = threadIdx.x; at < 64 * 64; at += 128) shared[place(at / 64, at % 64)] = from_f32<half_t>(a[at]);
    for (unsigned at = threadIdx.x; at < 64 * COLUMNS; at += 128) {
        unsigned k = at / COLUMNS, c = at % COLUMNS;
        shared[4096 + c / 64 * 4096 + place(k, c % 64)] = from_f32<half_t>(b[at]);
    }
    return shared;
}

TS_D unsigned long long left(const half_t* shared, unsigned step) {
    return wgmma_descriptor(shared + 16 * step, 0, WGMMA_STRIDE);
}
TS_D unsigned long long right(const half_t* shared, unsigned step) {
    return wgmma_descriptor(shared + 4096 + 1024 * step, 8192, WGMMA_STRIDE);
}

// d, which holds the sums before and after, is 64 x 128 by rows.
TS_ENTRY(128, warpgroup_product, const float* a, const float* b, float* d) {
    const half_t* shared = operands<128>(a, b);
    fence_async_shared();
    sync_block();
    float sums[64];
    unsigned row = warp() * 16 + lane() / 4, column = lane() % 4 * 2;
    for (unsigned i = 0; i < 64; i++) sums[i] = d[(row + i % 4 / 2 * 8) * 128 + i / 4 * 8 + column + i % 2];
    wgmma_fence();
    for (unsigned step = 0; step < 4; step++) {
        wgmma_m64n128k16<half_t>(sums, left(shared, step), right(shared, step));
        wgmma_commit();
    }
    wgmma_wait<0>();
    for (unsigned i = 0; i < 64; i++) d[(row + i % 4 / 2 * 8) * 128 + i / 4 * 8 + column + i % 2] = sums[i];
}

// The same by 64 columns: b by columns, and a from registers.
TS_ENTRY(128, warpgroup_product_nk, const float* a, const float* b, float* d) {
    half_t* shared = operands<64>(a, b);
    sync_block();
    // b again, its rows now columns.
    for (unsigned at = threadIdx.x; at < 64 * 64; at += 128)
        shared[4096 + place(at % 64, at / 64)] = from_f32<half_t>(b[at]);
    fence_async_shared();
    sync_block();
    float sums[32] = {};
    wgmma_fence();
    for (unsigned step = 0; step < 4; step++)
        wgmma_m64n64k16_nk<half_t>(sums, left(shared, step), wgmma_descriptor(shared + 4096 + 16 * step, 0, WGMMA_STRIDE));
    wgmma_commit();
    wgmma_wait<0>();
    unsigned row = warp() * 16 + lane() / 4, column = lane() % 4 * 2;
    for (unsigned i = 0; i < 32; i++) d[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = sums[i];
}

TS_ENTRY(128, warpgroup_product_rs, const float* a, const float* b, float* d) {
    const half_t* shared = operands<64>(a, b);
    fence_async_shared();
    sync_block();
    unsigned row = warp() * 16 + lane() / 4, column = lane() % 4 * 2;
    unsigned part[4][4];
    for (unsigned step = 0; step < 4; step++)
        for (unsigned i = 0; i < 4; i++) {
            const float* at = a + (row + i % 2 * 8) * 64 + step * 16 + i / 2 * 8 + column;
            part[step][i] = pack2<half_t>(at[0], at[1]);
        }
    float sums[32] = {};
    wgmma_fence();
    for (unsigned step = 0; step < 4; step++) wgmma_m64n64k16_rs<half_t>(sums, part[step], right(shared, step));
    wgmma_commit();
    wgmma_wait<0>();
    for (unsigned i = 0; i < 32; i++) d[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = sums[i];
}

// The mistakes: `a` and `b` as above with 64 columns, `d` has a place for each thread.
#define WRONG(NAME, BODY) \
    TS_ENTRY(128, NAME, const float* a, const float* b, float* d) { \
        half_t* shared = operands<64>(a, b); \
        float sums[32] = {}; \
        BODY \
        d[threadIdx.x] = sums[5]; \
    }
#define READY fence_async_shared(); sync_block();
#define MULTIPLY(STEP) wgmma_m64n64k16<half_t>(sums, left(shared, STEP), right(shared, STEP));

WRONG(product_of_what_is_not_fenced, sync_block(); wgmma_fence(); MULTIPLY(0) wgmma_commit(); wgmma_wait<0>();)
WRONG(product_before_the_barrier, fence_async_shared(); wgmma_fence(); MULTIPLY(0) wgmma_commit(); wgmma_wait<0>();)
WRONG(product_without_its_fence, READY MULTIPLY(0) wgmma_commit(); wgmma_wait<0>();)
WRONG(product_after_a_wait_without_a_fence,
      READY wgmma_fence(); MULTIPLY(0) wgmma_commit(); wgmma_wait<0>(); MULTIPLY(1) wgmma_commit(); wgmma_wait<0>();)
WRONG(product_left_behind, READY wgmma_fence(); MULTIPLY(0) wgmma_commit();)
WRONG(product_not_committed, READY wgmma_fence(); MULTIPLY(0) wgmma_wait<0>();)
WRONG(product_over_what_is_written, READY wgmma_fence(); MULTIPLY(0) wgmma_commit(); shared[place(lane(), 0)] = half_t{0};
      wgmma_wait<0>();)
WRONG(product_of_two_groups, READY wgmma_fence();
      wgmma_m64n64k16<half_t>(sums, left(shared, warp() / 2), right(shared, 0)); wgmma_commit(); wgmma_wait<0>();)
WRONG(product_past_the_end, READY wgmma_fence();
      wgmma_m64n64k16<half_t>(sums, left(shared, 0), wgmma_descriptor(shared + 8192, 0, WGMMA_STRIDE)); wgmma_commit();
      wgmma_wait<0>();)
WRONG(product_of_some_warps, READY wgmma_fence(); if (warp() % 2 == 0) { MULTIPLY(0) } wgmma_commit(); wgmma_wait<0>();)
// Nothing reports this one: the sums are not there yet, so a NaN is what it reads.
WRONG(sums_before_the_wait, READY wgmma_fence(); MULTIPLY(0) wgmma_commit(); d[threadIdx.x] = sums[3]; float early = sums[5];
      wgmma_wait<0>(); sums[5] = early;)
