#include "shared/device.cuh"
#include "shared/statistics.cuh"

// partials[item][block] = (count, mean, M2) per channel over the block's 256 pixels inside stats_rect
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a block per (item, run of 256 pixels, 64 channels), channels
//   fastest. Thread t holds 8 channels of pixels t / 8, t / 8 + 32, .. in registers: memory is read once.
// Layout: x and x2 NHWC; partials [n][blocks][3][pitch_x + pitch_x2], x's channels first.
// Numerics: f32, two passes (shared/statistics.cuh). Order fixed: a thread's pixels, then a butterfly over the 4 pixels of a
//   warp, then the warps in order.
// Limits: sides at most 65,535, so that rectangles fit u32.

constexpr unsigned STATS_THREADS = 256;
constexpr unsigned STATS_WARPS = STATS_THREADS / 32;
constexpr unsigned STATS_PIXELS = NORM_BLOCK / 32;

// Adds up over all threads that hold the same channels.
struct SumPixels {
    float* shared;

    template <unsigned N> TS_D void operator()(float (&v)[N]) const {
#pragma unroll
        for (unsigned i = 0; i < N; i++) {
            v[i] += shuffle_xor(v[i], 8);
            v[i] += shuffle_xor(v[i], 16);
        }
        const unsigned chunk = threadIdx.x % 8;
        sync_block();
        if (lane() < 8) {
#pragma unroll
            for (unsigned i = 0; i < N; i++) {
                shared[(warp() * N + i) * 8 + chunk] = v[i];
            }
        }
        sync_block();
#pragma unroll
        for (unsigned i = 0; i < N; i++) {
            float sum = 0.0f;
#pragma unroll
            for (unsigned w = 0; w < STATS_WARPS; w++) {
                sum += shared[(w * N + i) * 8 + chunk];
            }
            v[i] = sum;
        }
    }
};

template <class X>
TS_D void group_norm_stats(const GroupNormStatsParams& p, const X* x, const X* x2, float* partials, Control* control) {
    TS_SHARED(float, shared, STATS_WARPS * 64);
    const unsigned total = p.pitch_x + p.pitch_x2;
    const unsigned parts = ceil_div(total, 64);
    const unsigned id = block_index();
    const unsigned block = id / parts % p.blocks;
    const unsigned item = id / parts / p.blocks;
    if (item >= p.n) {
        return;
    }
    const unsigned channel = id % parts * 64 + threadIdx.x % 8 * 8;
    const bool exists = channel < total;
    const bool second = channel >= p.pitch_x;
    const unsigned pixels = p.h * p.w;
    const unsigned pitch = second ? p.pitch_x2 : p.pitch_x;
    const X* source = (second ? x2 : x) + size_t(item) * pixels * pitch + (second ? channel - p.pitch_x : channel);
    const Counted counted(item_of(control, item), p.h, p.w);
    const unsigned begin = block * NORM_BLOCK;
    float shift[8] = {};
    if (exists) {
        load8(source + size_t(begin) * pitch, shift);
    }
    float v[STATS_PIXELS][8] = {};
    bool counts[STATS_PIXELS];
#pragma unroll
    for (unsigned j = 0; j < STATS_PIXELS; j++) {
        const unsigned pixel = begin + threadIdx.x / 8 + j * 32;
        const unsigned row = pixel / p.w;
        counts[j] = pixel < pixels && counted.has(row, pixel - row * p.w);
        if (counts[j] && exists) {
            load8(source + size_t(pixel) * pitch, v[j]);
        }
    }
    float count[1], mean[8], m2[8];
    moments(v, counts, shift, SumPixels{shared}, count, mean, m2);
    if (threadIdx.x < 8 && exists) {
        float* const at = partials + (size_t(item) * p.blocks + block) * 3 * total + channel;
        store_moments(at, total, count[0], mean, m2, control);
    }
}

#define ENTRY(X) \
    TS_ENTRY(STATS_THREADS, group_norm_stats_base_##X##_##X##_f32, \
        const GroupNormStatsParams p, const X* x, const X* x2, float* partials, Control* control) { \
        group_norm_stats<X>(p, x, x2, partials, control); \
    }
ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
