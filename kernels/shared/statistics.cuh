// Partial statistics of a norm's input, (count, mean, M2) per channel over a run of pixels: of group_norm_stats, and of the ending of
// a product whose result a norm reads.
#pragma once

#include "conv_source.cuh"

// First pixel row (or column) at or past `part` / 65536 of `side`.
TS_D unsigned statistics_edge(int part, unsigned side) {
    return (unsigned(part) * side + 65535u) / 65536u;
}

// The pixels of an item that count: its stats_rect, all of them where that is zero.
struct Counted {
    unsigned y0 = 0;
    unsigned x0 = 0;
    unsigned y1;
    unsigned x1;

    TS_D Counted(const Item& item, unsigned h, unsigned w) : y1(h), x1(w) {
        const int* const part = item.stats_rect;
        if (part[0] != 0 || part[1] != 0 || part[2] != 0 || part[3] != 0) {
            y0 = statistics_edge(part[0], h), x0 = statistics_edge(part[1], w);
            y1 = statistics_edge(part[2], h), x1 = statistics_edge(part[3], w);
        }
    }

    TS_D bool has(unsigned row, unsigned column) const { return row >= y0 && row < y1 && column >= x0 && column < x1; }
};

// Statistics of 8 channels, over this thread's PIXELS values that count and those of the threads that `sum` adds up: it replaces
// what it is given by the sum over all of them, the same bits in each. Two passes: the mean as `shift`, any number near it that is
// the same in each, plus the mean distance from that; then M2 about that mean, with the second pass' own mean distance taken out, so
// that nothing cancels.
template <unsigned PIXELS, class Sum>
TS_D void moments(const float (&v)[PIXELS][8], const bool (&counts)[PIXELS], const float (&shift)[8], const Sum& sum, float (&count)[1],
                  float (&mean)[8], float (&m2)[8]) {
    count[0] = 0.0f;
    float distance[8] = {};
#pragma unroll
    for (unsigned j = 0; j < PIXELS; j++) {
        if (counts[j]) {
            count[0] += 1.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                distance[i] += v[j][i] - shift[i];
            }
        }
    }
    sum(count);
    sum(distance);
    const float over = 1.0f / (count[0] > 1.0f ? count[0] : 1.0f);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        mean[i] = count[0] > 0.0f ? shift[i] + distance[i] * over : 0.0f;
        distance[i] = 0.0f;
        m2[i] = 0.0f;
    }
#pragma unroll
    for (unsigned j = 0; j < PIXELS; j++) {
        if (counts[j]) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float d = v[j][i] - mean[i];
                distance[i] += d;
                m2[i] += d * d;
            }
        }
    }
    sum(distance);
    sum(m2);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float rest = m2[i] - distance[i] * distance[i] * over;
        m2[i] = rest < 0.0f ? 0.0f : rest;
    }
}

// Puts one block's statistics of 8 channels at `at`, its rows `pitch` apart.
TS_D void store_moments(float* at, unsigned pitch, float count, const float (&mean)[8], const float (&m2)[8], Control* control) {
    const float counted[8] = {count, count, count, count, count, count, count, count};
    store8(at, counted, control);
    store8(at + pitch, mean, control);
    store8(at + 2 * size_t(pitch), m2, control);
}

// Warps that make a tile's statistics.
constexpr unsigned STATISTICS_WARPS = 8;

// Adds up over the lanes that hold the same one of a warp's CHUNKS chunks.
template <unsigned CHUNKS> struct SumLanes {
    template <unsigned N> TS_D void operator()(float (&v)[N]) const {
#pragma unroll
        for (unsigned mask = CHUNKS; mask < 32; mask *= 2) {
#pragma unroll
            for (unsigned i = 0; i < N; i++) {
                v[i] += shuffle_xor(v[i], mask);
            }
        }
    }
};

// Statistics of a convolution's tile, PRODUCT_BLOCK rows from `first` on by COLUMNS channels from `column` on, read again from where
// the block has just put it. All lanes of STATISTICS_WARPS warps come here, numbered by `worker`, behind everybody's stores; each takes
// its own channels. `statistics` is [n][blocks][3][pitch_y], blocks in the order of the rows, phase after phase.
template <unsigned COLUMNS, bool UP2X2, class Y>
TS_D void tile_statistics(const Conv2dParams& p, const Y* y, float* statistics, Control* control, unsigned phase, unsigned first,
                          unsigned column, unsigned worker) {
    constexpr unsigned CHUNKS = COLUMNS / (8 * STATISTICS_WARPS);
    constexpr unsigned LANES = 32 / CHUNKS;
    constexpr unsigned PIXELS = PRODUCT_BLOCK / LANES;
    const unsigned rows = conv_pixels<UP2X2>(p);
    if (first >= rows) {
        return;
    }
    const unsigned whole = p.oh * p.ow;
    const unsigned blocks = rows / p.n / PRODUCT_BLOCK;
    const unsigned item = first / (blocks * PRODUCT_BLOCK);
    const unsigned block = phase * blocks + first / PRODUCT_BLOCK % blocks;
    const unsigned channel = column + (worker * CHUNKS + lane() % CHUNKS) * 8;
    const bool exists = channel < p.pitch_y;
    const Counted counted(item_of(control, item), p.oh, p.ow);
    float v[PIXELS][8] = {};
    bool counts[PIXELS];
#pragma unroll
    for (unsigned j = 0; j < PIXELS; j++) {
        const unsigned index = first + lane() / CHUNKS + j * LANES;
        const unsigned pixel = UP2X2 ? conv_place<UP2X2>(p, index, phase).out : index;
        const unsigned row = (pixel - item * whole) / p.ow;
        counts[j] = counted.has(row, pixel - item * whole - row * p.ow);
        if (exists) {
            load8(y + size_t(pixel) * p.pitch_y + channel, v[j]);
        }
    }
    float shift[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        shift[i] = shuffle(v[0][i], lane() % CHUNKS);
    }
    float count[1], mean[8], m2[8];
    moments(v, counts, shift, SumLanes<CHUNKS>{}, count, mean, m2);
    if (lane() < CHUNKS && exists) {
        float* const at = statistics + (size_t(item) * (UP2X2 ? 4 : 1) * blocks + block) * 3 * p.pitch_y + channel;
        store_moments(at, p.pitch_y, count[0], mean, m2, control);
    }
}
