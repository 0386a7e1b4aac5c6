#include "shared/device.cuh"
#include "shared/tma.cuh"
#include "shared/wgmma.cuh"

// Probes of what Hopper alone has; see probes.sm80.cu for how they are written and run.

// In: 8192 bytes of a (64 rows of 128 bytes), 8192 bytes of b (two slabs of 32 rows of K of 128 bytes), 64 sums that every thread
// begins with. Two products in groups of their own, the first of the second 16 of a's 64 of K with the first 16 rows of b, the
// other of the last 16 with the next 16 rows. Out: the sums, thread by thread.
template <class T> TS_D void product(float (&d)[64], unsigned long long a, unsigned long long b) { wgmma_m64n128k16<T>(d, a, b); }
template <class T> TS_D void product(float (&d)[32], unsigned long long a, unsigned long long b) { wgmma_m64n64k16<T>(d, a, b); }

template <class T, unsigned SUMS> TS_D void products(const unsigned* in, unsigned* out) {
    const unsigned* mine = in + blockIdx.x * 4160;
    unsigned char* shared = swizzled_shared<unsigned char>();
    for (unsigned at = threadIdx.x; at < 1024; at += 128) store16(shared + 16 * at, load16(mine + 4 * at));
    fence_async_shared();
    sync_block();
    float sums[SUMS];
    for (unsigned i = 0; i < SUMS; i++) sums[i] = bits_to_f32(mine[4096 + i]);
    wgmma_hold(sums);
    wgmma_fence();
    product<T>(sums, wgmma_descriptor(shared + 32, 0, WGMMA_STRIDE), wgmma_descriptor(shared + 8192, 4096, WGMMA_STRIDE));
    wgmma_commit();
    product<T>(sums, wgmma_descriptor(shared + 96, 0, WGMMA_STRIDE), wgmma_descriptor(shared + 10240, 4096, WGMMA_STRIDE));
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_wait<0>();
    wgmma_hold(sums);
    for (unsigned i = 0; i < SUMS; i++) out[(blockIdx.x * 128 + threadIdx.x) * SUMS + i] = f32_to_bits(sums[i]);
}

// b by columns: the first 8192 bytes of b are 64 columns of 64 of K. Other than that as above.
template <class T> TS_D void products_nk(const unsigned* in, unsigned* out) {
    const unsigned* mine = in + blockIdx.x * 4160;
    unsigned char* shared = swizzled_shared<unsigned char>();
    for (unsigned at = threadIdx.x; at < 1024; at += 128) store16(shared + 16 * at, load16(mine + 4 * at));
    fence_async_shared();
    sync_block();
    float sums[32];
    for (unsigned i = 0; i < 32; i++) sums[i] = bits_to_f32(mine[4096 + i]);
    wgmma_hold(sums);
    wgmma_fence();
    for (unsigned step = 0; step < 4; step += 2)
        wgmma_m64n64k16_nk<T>(sums, wgmma_descriptor(shared + 32 * step + 32, 0, WGMMA_STRIDE),
                              wgmma_descriptor(shared + 8192 + 16 * step, 0, WGMMA_STRIDE));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(sums);
    for (unsigned i = 0; i < 32; i++) out[(blockIdx.x * 128 + threadIdx.x) * 32 + i] = f32_to_bits(sums[i]);
}

// a from registers: words 4 t and on of a's bytes are thread t's, for the first product; 512 on for the other.
template <class T> TS_D void products_rs(const unsigned* in, unsigned* out) {
    const unsigned* mine = in + blockIdx.x * 4160;
    unsigned char* shared = swizzled_shared<unsigned char>();
    for (unsigned at = threadIdx.x; at < 512; at += 128) store16(shared + 16 * at, load16(mine + 2048 + 4 * at));
    fence_async_shared();
    sync_block();
    float sums[32];
    unsigned a[2][4];
    for (unsigned i = 0; i < 32; i++) sums[i] = bits_to_f32(mine[4096 + i]);
    for (unsigned i = 0; i < 8; i++) a[i / 4][i % 4] = mine[i / 4 * 512 + threadIdx.x * 4 + i % 4];
    wgmma_hold(a[0]);
    wgmma_hold(a[1]);
    wgmma_hold(sums);
    wgmma_fence();
    wgmma_m64n64k16_rs<T>(sums, a[0], wgmma_descriptor(shared, 0, WGMMA_STRIDE));
    wgmma_m64n64k16_rs<T>(sums, a[1], wgmma_descriptor(shared + 2048, 0, WGMMA_STRIDE));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(sums);
    wgmma_hold(a[0]);
    wgmma_hold(a[1]);
    for (unsigned i = 0; i < 32; i++) out[(blockIdx.x * 128 + threadIdx.x) * 32 + i] = f32_to_bits(sums[i]);
}

TS_ENTRY(128, probe_wgmma_nk_f16, const unsigned* in, unsigned* out) { products_nk<half_t>(in, out); }
TS_ENTRY(128, probe_wgmma_nk_bf16, const unsigned* in, unsigned* out) { products_nk<bf16_t>(in, out); }
TS_ENTRY(128, probe_wgmma_rs_f16, const unsigned* in, unsigned* out) { products_rs<half_t>(in, out); }
TS_ENTRY(128, probe_wgmma_rs_bf16, const unsigned* in, unsigned* out) { products_rs<bf16_t>(in, out); }
TS_ENTRY(128, probe_wgmma_n64_f16, const unsigned* in, unsigned* out) { products<half_t, 32>(in, out); }
TS_ENTRY(128, probe_wgmma_n64_bf16, const unsigned* in, unsigned* out) { products<bf16_t, 32>(in, out); }
TS_ENTRY(128, probe_wgmma_n128_f16, const unsigned* in, unsigned* out) { products<half_t, 64>(in, out); }
TS_ENTRY(128, probe_wgmma_n128_bf16, const unsigned* in, unsigned* out) { products<bf16_t, 64>(in, out); }

// Copies by the tensor memory accelerator. The map is of all cases' inputs (main.cpp); a case's last words say where its box begins.
// Out: the box as shared memory has it, 24 rows of 128 bytes.
#define COPIED(WORDS, LOAD) \
    const unsigned* at = in + blockIdx.x * WORDS + (WORDS - 8); \
    unsigned* shared = swizzled_shared<unsigned>(); \
    Barrier* barrier = reinterpret_cast<Barrier*>(shared + 24 * 32); \
    if (threadIdx.x == 0) { \
        mbarrier_init(barrier, 1); \
        mbarrier_init_fence(); \
    } \
    sync_block(); \
    if (threadIdx.x == 0) { \
        mbarrier_arrive_expect(barrier, 24 * 128); \
        LOAD; \
    } \
    mbarrier_wait(barrier, 0); \
    for (unsigned i = threadIdx.x; i < 24 * 32; i += 32) out[blockIdx.x * (24 * 32) + i] = shared[i];

TS_ENTRY(32, probe_tma_2d, const unsigned* in, unsigned* out, TS_MAP(map)) {
    COPIED(1032, tma_load_2d(shared, map, barrier, at[0], at[1]))
}
TS_ENTRY(32, probe_tma_3d, const unsigned* in, unsigned* out, TS_MAP(map)) {
    COPIED(1032, tma_load_3d(shared, map, barrier, at[0], at[1], at[2] + blockIdx.x))
}
// A picture of each case; the box goes on to the next one's.
TS_ENTRY(32, probe_tma_im2col, const unsigned* in, unsigned* out, TS_MAP(map)) {
    COPIED(728, tma_load_im2col(shared, map, barrier, at[0], int(at[1]), int(at[2]), blockIdx.x, at[3], at[4]))
}
TS_ENTRY(32, probe_tma_im2col_step, const unsigned* in, unsigned* out, TS_MAP(map)) {
    COPIED(728, tma_load_im2col(shared, map, barrier, at[0], int(at[1]), int(at[2]), blockIdx.x, at[3], at[4]))
}

// The second warp's lanes write, the first one's first lane sums and writes back, round after round. Out: each round's sum.
TS_ENTRY(64, probe_mbarrier, const unsigned* in, unsigned* out) {
    unsigned* shared = swizzled_shared<unsigned>();
    Barrier* given = reinterpret_cast<Barrier*>(shared + 64);
    Barrier* taken = given + 1;
    if (threadIdx.x == 0) {
        mbarrier_init(given, 32);
        mbarrier_init(taken, 1);
        mbarrier_init_fence();
    }
    sync_block();
    unsigned mine = in[blockIdx.x * 64 + threadIdx.x];
    for (unsigned round = 0; round < 5; round++) {
        if (warp() == 1) {
            shared[lane()] = mine + round;
            sync_warp();
            mbarrier_arrive(given);
            mbarrier_wait(taken, round % 2);
            mine ^= shared[32];
        } else if (lane() == 0) {
            mbarrier_wait(given, round % 2);
            for (unsigned i = 0; i < 32; i++) mine = mine * 3u + shared[i];
            shared[32] = mine;
            out[blockIdx.x * 5 + round] = mine;
        }
        if (warp() == 0) {
            sync_warp();
            if (lane() == 0) mbarrier_arrive(taken);
        }
    }
}

// The first warpgroup gives registers to the others, which need them: each thread sums what it keeps in many.
TS_ENTRY_BLOCKS(384, 1, probe_registers, const unsigned* in, unsigned* out) {
    const unsigned* mine = in + blockIdx.x * 384;
    unsigned sum = mine[threadIdx.x];
    if (warp() < 4) {
        registers_give<40>();
    } else {
        registers_take<232>();
        unsigned kept[160];
#pragma unroll
        for (unsigned i = 0; i < 160; i++) kept[i] = mine[(threadIdx.x + i) % 384] * (i + 1);
        sync_warp();
#pragma unroll
        for (unsigned i = 0; i < 160; i++) sum = (sum ^ kept[i]) * 5u;
    }
    out[blockIdx.x * 384 + threadIdx.x] = sum;
}
