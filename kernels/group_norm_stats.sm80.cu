#include "shared/device.cuh"
#include "shared/vector.cuh"

// partials[item][block] = (count, mean, M2) per channel over the block's 256 pixels inside stats_rect
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a block per (item, run of 256 pixels, 64 channels), channels
//   fastest. Thread t holds 8 channels of pixels t / 8, t / 8 + 32, .. in registers: memory is read once.
// Layout: x and x2 NHWC; partials [n][blocks][3][pitch_x + pitch_x2], x's channels first.
// Numerics: f32, two passes: mean as a shift plus the mean distance from it, then M2 about that mean, with the
//   second pass' own mean distance taken out, so that nothing cancels. Order fixed: a thread's pixels, then a
//   butterfly over the 4 pixels of a warp, then the warps in order.
// Limits: sides at most 65,535, so that rectangles fit u32.

constexpr unsigned STATS_THREADS = 256;
constexpr unsigned STATS_WARPS = STATS_THREADS / 32;
constexpr unsigned STATS_PIXELS = NORM_BLOCK / 32;

// First pixel row (or column) at or past `part` / 65536 of `side`.
TS_D unsigned edge(int part, unsigned side) {
    return (unsigned(part) * side + 65535u) / 65536u;
}

// Adds `v` over all threads that hold the same channels; every thread gets the same bits.
template <unsigned N> TS_D void sum_pixels(float (&v)[N], float* shared) {
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
    const int* part = item_of(control, item).stats_rect;
    unsigned y0 = 0, x0 = 0, y1 = p.h, x1 = p.w;
    if (part[0] != 0 || part[1] != 0 || part[2] != 0 || part[3] != 0) {
        y0 = edge(part[0], p.h), x0 = edge(part[1], p.w), y1 = edge(part[2], p.h), x1 = edge(part[3], p.w);
    }
    const unsigned begin = block * NORM_BLOCK;
    float shift[8] = {};
    if (exists) {
        load8(source + size_t(begin) * pitch, shift);
    }
    float v[STATS_PIXELS][8];
    bool counts[STATS_PIXELS];
    float count[1] = {0.0f};
    float sum[8] = {};
#pragma unroll
    for (unsigned j = 0; j < STATS_PIXELS; j++) {
        const unsigned pixel = begin + threadIdx.x / 8 + j * 32;
        const unsigned row = pixel / p.w;
        const unsigned column = pixel - row * p.w;
        counts[j] = pixel < pixels && row >= y0 && row < y1 && column >= x0 && column < x1;
        if (counts[j]) {
            count[0] += 1.0f;
        }
        if (counts[j] && exists) {
            load8(source + size_t(pixel) * pitch, v[j]);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sum[i] += v[j][i] - shift[i];
            }
        }
    }
    sum_pixels(count, shared);
    sum_pixels(sum, shared);
    const float over = 1.0f / (count[0] > 1.0f ? count[0] : 1.0f);
    float mean[8];
    float m2[8] = {};
    float distance[8] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        mean[i] = count[0] > 0.0f ? shift[i] + sum[i] * over : 0.0f;
    }
#pragma unroll
    for (unsigned j = 0; j < STATS_PIXELS; j++) {
        if (counts[j] && exists) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float d = v[j][i] - mean[i];
                distance[i] += d;
                m2[i] += d * d;
            }
        }
    }
    sum_pixels(distance, shared);
    sum_pixels(m2, shared);
    if (threadIdx.x < 8 && exists) {
        float counted[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            counted[i] = count[0];
            const float rest = m2[i] - distance[i] * distance[i] * over;
            m2[i] = rest < 0.0f ? 0.0f : rest;
        }
        float* at = partials + (size_t(item) * p.blocks + block) * 3 * total + channel;
        store8(at, counted, control);
        store8(at + total, mean, control);
        store8(at + 2 * size_t(total), m2, control);
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
