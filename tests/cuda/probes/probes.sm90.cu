#include "shared/device.cuh"
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
