#include "shared/device.cuh"
#include "shared/vector.cuh"

// a = weight / sqrt(M2 / count + eps), b = bias - mean * a per channel, from a group's merged partials
// Bindings: abi's order.
// Launch: base 128 threads, no dynamic shared memory; a block per (item, group).
// Layout: partials [n][blocks][3][pitch_x + pitch_x2]; ab [n][2][pitch_x + pitch_x2] in the sources' channel
//   positions; affine weight then bias in concatenated channel order.
// Numerics: f32; thread i merges partials i, i + 128, .. in order, then a fixed tree over the 128 (Chan).
// Limits: none.
// Source: Chan, Golub and LeVeque 1983.

constexpr unsigned NORM_FINALIZE_THREADS = 128;

struct Sample {
    float count, mean, m2;
};

// The union of two samples.
TS_D Sample merge(Sample a, Sample b) {
    if (b.count == 0.0f) {
        return a;
    }
    const float count = a.count + b.count;
    const float share = b.count / count;
    const float distance = b.mean - a.mean;
    return Sample{count, a.mean + distance * share, a.m2 + b.m2 + distance * distance * a.count * share};
}

// Position of concatenated channel `c` in a row of the partials.
TS_D unsigned position(const NormFinalizeParams& p, unsigned c) {
    return c < p.c ? c : p.pitch_x + c - p.c;
}

TS_D void norm_finalize(const NormFinalizeParams& p, const float* partials, const float* affine, float* ab) {
    TS_SHARED(float, counts, NORM_FINALIZE_THREADS);
    TS_SHARED(float, means, NORM_FINALIZE_THREADS);
    TS_SHARED(float, m2s, NORM_FINALIZE_THREADS);
    const unsigned id = block_index();
    const unsigned group = id % p.groups;
    const unsigned item = id / p.groups;
    if (item >= p.n) {
        return;
    }
    const unsigned me = threadIdx.x;
    const unsigned total = p.pitch_x + p.pitch_x2;
    const unsigned channels = p.c + p.c2;
    const unsigned width = channels / p.groups;
    const unsigned first = group * width;
    Sample mine = {0.0f, 0.0f, 0.0f};
    for (unsigned i = me; i < p.blocks * width; i += NORM_FINALIZE_THREADS) {
        const size_t block = size_t(item) * p.blocks + i / width;
        const float* at = partials + block * 3 * total + position(p, first + i % width);
        mine = merge(mine, Sample{at[0], at[total], at[2 * size_t(total)]});
    }
    counts[me] = mine.count;
    means[me] = mine.mean;
    m2s[me] = mine.m2;
    sync_block();
    for (unsigned step = NORM_FINALIZE_THREADS / 2; step > 0; step /= 2) {
        if (me < step) {
            const Sample other = {counts[me + step], means[me + step], m2s[me + step]};
            mine = merge(mine, other);
            counts[me] = mine.count;
            means[me] = mine.mean;
            m2s[me] = mine.m2;
        }
        sync_block();
    }
    const Sample all = {counts[0], means[0], m2s[0]};
    const float variance = all.count > 0.0f ? all.m2 / all.count : 0.0f;
    const float scale = 1.0f / sqrtf(variance + p.eps);
    const unsigned affine_pitch = ceil_div(channels, 8) * 8;
    float* a = ab + size_t(item) * 2 * total;
    for (unsigned i = me; i < width; i += NORM_FINALIZE_THREADS) {
        const float factor = affine[first + i] * scale;
        const unsigned at = position(p, first + i);
        a[at] = factor;
        a[total + at] = affine[affine_pitch + first + i] - all.mean * factor;
    }
    // Pad positions of both sources, by the last group's block.
    if (group + 1 == p.groups) {
        const unsigned gap = p.pitch_x - p.c;
        for (unsigned i = me; i < total - channels; i += NORM_FINALIZE_THREADS) {
            const unsigned at = i < gap ? p.c + i : p.pitch_x + p.c2 + i - gap;
            a[at] = 0.0f;
            a[total + at] = 0.0f;
        }
    }
}

TS_ENTRY(NORM_FINALIZE_THREADS, norm_finalize_base_f32_f32_f32,
    const NormFinalizeParams p, const float* partials, const float* affine, float* ab, Control* control) {
    (void)control;
    norm_finalize(p, partials, affine, ab);
}
