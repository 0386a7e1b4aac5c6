#include "shared/device.cuh"

// Kernels of the self tests that do right: what each collective gives goes to memory as it is.

// Fragments as the manual numbers their elements: element i of a lane stands in half i % 2 of register i / 2.
template <class T> TS_D void product(const float* a, const float* b, const float* c, float* d) {
    unsigned group = lane() >> 2, member = lane() % 4;
    unsigned fa[4], fb[2];
    float fc[4];
    for (unsigned r = 0; r < 4; r++) {
        float v[2];
        for (unsigned h = 0; h < 2; h++) {
            unsigned i = 2 * r + h;
            unsigned row = (i < 2 || (4 <= i && i < 6)) ? group : group + 8;
            unsigned column = member * 2 + (i & 1) + (i < 4 ? 0 : 8);
            v[h] = a[row * 16 + column];
        }
        fa[r] = pack2<T>(v[0], v[1]);
    }
    for (unsigned r = 0; r < 2; r++) {
        float v[2];
        for (unsigned h = 0; h < 2; h++) {
            unsigned i = 2 * r + h;
            unsigned row = member * 2 + (i & 1) + (i < 2 ? 0 : 8);
            v[h] = b[row * 8 + group];
        }
        fb[r] = pack2<T>(v[0], v[1]);
    }
    for (unsigned i = 0; i < 4; i++) fc[i] = c[(i < 2 ? group : group + 8) * 8 + member * 2 + (i & 1)];
    mma_m16n8k16<T>(fc, fa, fb);
    for (unsigned i = 0; i < 4; i++) d[(i < 2 ? group : group + 8) * 8 + member * 2 + (i & 1)] = fc[i];
}

// The same of 8 columns of tf32, an element a register.
TS_ENTRY(32, product_tf32, const float* a, const float* b, const float* c, float* d) {
    unsigned group = lane() >> 2, member = lane() % 4;
    unsigned fa[4], fb[2];
    float fc[4];
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? member : member + 4;
        fa[i] = f32_to_tf32(a[row * 8 + column]);
    }
    for (unsigned i = 0; i < 2; i++) fb[i] = f32_to_tf32(b[(i == 0 ? member : member + 4) * 8 + group]);
    for (unsigned i = 0; i < 4; i++) fc[i] = c[(i < 2 ? group : group + 8) * 8 + member * 2 + (i & 1)];
    mma_m16n8k8_tf32(fc, fa, fb);
    for (unsigned i = 0; i < 4; i++) d[(i < 2 ? group : group + 8) * 8 + member * 2 + (i & 1)] = fc[i];
}

// Factors of tf32 as they are, and as the tensor cores see them: what they cut off does not count.
TS_ENTRY(32, tf32_cut, const float* in, unsigned* rounded, float* product) {
    rounded[threadIdx.x] = f32_to_tf32(in[threadIdx.x]);
    bool first = lane() % 4 == 0;
    unsigned a[4] = {first ? f32_to_bits(in[threadIdx.x]) : 0, 0, 0, 0}, b[2] = {first ? f32_to_bits(1.0f) : 0, 0};
    float d[4] = {};
    mma_m16n8k8_tf32(d, a, b);
    product[threadIdx.x] = d[0];
}

TS_ENTRY(32, product_f16, const float* a, const float* b, const float* c, float* d) { product<half_t>(a, b, c, d); }
TS_ENTRY(32, product_bf16, const float* a, const float* b, const float* c, float* d) { product<bf16_t>(a, b, c, d); }

// `rows[l]`: which 16-byte row of `tile` lane l names. Registers by lane, then kind (x4, x4 transposed, x2, x2 transposed).
TS_ENTRY(32, load_matrices, const uint4* tile, const unsigned* rows, unsigned* out) {
    TS_SHARED(uint4, t, 32);
    t[threadIdx.x] = tile[threadIdx.x];
    sync_block();
    const void* row = t + rows[threadIdx.x];
    unsigned r[4];
    unsigned two[2];
    unsigned* mine = out + threadIdx.x * 12;
    ldmatrix_x4(r, row);
    for (int i = 0; i < 4; i++) mine[i] = r[i];
    ldmatrix_x4_trans(r, row);
    for (int i = 0; i < 4; i++) mine[4 + i] = r[i];
    ldmatrix_x2(two, row);
    for (int i = 0; i < 2; i++) mine[8 + i] = two[i];
    ldmatrix_x2_trans(two, row);
    for (int i = 0; i < 2; i++) mine[10 + i] = two[i];
}

TS_ENTRY(64, shuffles, const unsigned* in, unsigned* out) {
    unsigned v = in[threadIdx.x];
    unsigned* mine = out + threadIdx.x * 8;
    mine[0] = shuffle_xor(v, 5u);
    mine[1] = shuffle_down(v, 3u);
    mine[2] = shuffle(v, threadIdx.x * 7u);
    mine[3] = vote_any(v == 9);
    mine[4] = vote_all(v != 9);
    mine[5] = f32_to_bits(warp_sum(static_cast<float>(v)));
    mine[6] = f32_to_bits(warp_max(static_cast<float>(v)));
    mine[7] = lane() | warp() << 8;
}

// A sum over the block through shared memory with all kinds of barrier; one status bit per block with an odd sum.
TS_ENTRY(96, block_sums, const unsigned* in, unsigned* out, unsigned* control, unsigned n) {
    unsigned* all = dynamic_shared<unsigned>();
    TS_SHARED(unsigned, of_warp, 3);
    unsigned i = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
    all[threadIdx.x] = i < n ? in[i] : 0;
    sync_block();
    unsigned mirrored = all[95 - threadIdx.x];
    for (unsigned mask = 16; mask != 0; mask >>= 1) mirrored += shuffle_xor(mirrored, mask);
    if (lane() == 0) of_warp[warp()] = mirrored;
    sync_block();
    unsigned sum = of_warp[0] + of_warp[1] + of_warp[2];
    // Within a warp sync_warp is enough.
    all[threadIdx.x] = sum + lane();
    sync_warp();
    unsigned neighbour = all[threadIdx.x ^ 1];
    if (threadIdx.x == 0) {
        out[blockIdx.y * gridDim.x + blockIdx.x] = neighbour - 1;
        if (sum & 1) atomic_or(control, 1u << (blockIdx.x & 31));
    }
}

// Copies n rows of 16 bytes through a ring of three, two groups under way; lanes past the end copy zeros.
TS_ENTRY(32, ring, const uint4* in, uint4* out, unsigned n) {
    TS_SHARED(uint4, stage, 96);
    unsigned steps = (n + 31) / 32;
    for (unsigned s = 0; s < 2; s++) {
        unsigned at = s * 32 + threadIdx.x;
        cp_async16(stage + s * 32 + threadIdx.x, in + at, at < n);
        cp_async_commit();
    }
    for (unsigned s = 0; s < steps; s++) {
        cp_async_wait<1>();
        sync_block();
        unsigned at = (s + 2) * 32 + threadIdx.x;
        cp_async16(stage + (s + 2) % 3 * 32 + threadIdx.x, at < n ? in + at : nullptr, at < n);
        cp_async_commit();
        out[s * 32 + threadIdx.x] = load16(stage + s % 3 * 32 + (threadIdx.x ^ 1));
    }
    cp_async_wait<0>();
}

TS_ENTRY(32, rounding, const float* in, half_t* f16, bf16_t* bf16, unsigned* packed, unsigned* control, unsigned n) {
    unsigned status = 0;
    for (unsigned i = threadIdx.x; i < n; i += 32) {
        f16[i] = from_f32<half_t>(in[i], status);
        bf16[i] = from_f32<bf16_t>(in[i]);
        packed[2 * i] = pack2<half_t>(in[i], -in[i]);
        packed[2 * i + 1] = pack2<bf16_t>(in[i], 0.0f);
    }
    report_status(control, status);
}

TS_ENTRY(32, approximations, const float* in, float* out, unsigned n) {
    for (unsigned i = threadIdx.x; i < n; i += 32) {
        out[i * 6 + 0] = exp2_approx(in[i]);
        out[i * 6 + 1] = rcp_approx(in[i]);
        out[i * 6 + 2] = erf_f32(in[i]);
        out[i * 6 + 3] = silu(in[i]);
        out[i * 6 + 4] = gelu(in[i]);
        out[i * 6 + 5] = quick_gelu(in[i]);
    }
}
