// Attention on Hopper's tensor cores for heads of 64 channels: a warpgroup keeps 64 queries' output in registers, two of them share
// keys and values. Scores are products of shared memory, outputs take their weights from registers.
#pragma once

#include "softmax.cuh"
#include "wgmma.cuh"

constexpr unsigned FLASH_WGMMA_THREADS = 256;
// Blocks that a processor runs at a time, so that one multiplies while another takes exponentials.
constexpr unsigned FLASH_WGMMA_BLOCKS = 2;
constexpr unsigned FLASH_WGMMA_QUERIES = 128;
constexpr unsigned FLASH_WGMMA_KEYS = 64;
// Elements of a tile of 64 rows of 64 channels, and of the queries.
constexpr unsigned FLASH_WGMMA_TILE = 64 * 64;
constexpr unsigned FLASH_WGMMA_Q = 2 * FLASH_WGMMA_TILE;
// Queries, and two stages of keys and values.
constexpr unsigned FLASH_WGMMA_BYTES = (FLASH_WGMMA_Q + 2 * 2 * FLASH_WGMMA_TILE) * 2;
static_assert(FLASH_WGMMA_BYTES == 49152, "what launch.txt says");
static_assert(FLASH_WGMMA_BYTES >= 8 * 16 * HEAD_STAGED_PITCH<64> * 4, "staging");

// Copies ROWS rows of 64 channels, zeros past `count`; chunk c of row r to place c ^ (r % 8).
template <unsigned ROWS, class X> TS_D void copy_swizzled(X* to, const X* from, unsigned pitch, unsigned count) {
    const unsigned chunk = threadIdx.x % 8;
#pragma unroll
    for (unsigned row = threadIdx.x / 8; row < ROWS; row += FLASH_WGMMA_THREADS / 8) {
        const bool valid = row < count;
        cp_async16(to + row * 64 + (chunk ^ (row % 8)) * 8, valid ? from + size_t(row) * pitch + chunk * 8 : from, valid);
    }
}

// Adds a warpgroup's weights of KEY_TILES * 8 keys, left in `scores`, times their values, rows of 64 channels, to its output.
template <unsigned KEY_TILES, class X>
TS_D void add_weighed(float (&out)[8][4], const float (&scores)[KEY_TILES][4], const X* values) {
    float(&sums)[32] = reinterpret_cast<float(&)[32]>(out);
    unsigned weights[KEY_TILES / 2][4];
#pragma unroll
    for (unsigned step = 0; step < KEY_TILES / 2; step++) {
        pack_weights<X>(weights[step], scores, step * 2);
        wgmma_hold(weights[step]);
    }
    wgmma_hold(sums);
    wgmma_fence();
#pragma unroll
    for (unsigned step = 0; step < KEY_TILES / 2; step++) {
        wgmma_m64n64k16_rs<X>(sums, weights[step], wgmma_descriptor(values + step * 16 * 64, 0, WGMMA_STRIDE));
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(sums);
#pragma unroll
    for (unsigned step = 0; step < KEY_TILES / 2; step++) {
        wgmma_hold(weights[step]);
    }
}

template <class X, class Y>
TS_D void attention_wgmma_64(const AttentionParams& p, const X* q, const X* k, const X* v, Y* y, Control* control) {
    const Head<X> at(p, q, k, v, control, FLASH_WGMMA_QUERIES);
    if (at.item >= p.n) {
        return;
    }
    X* const q_tile = swizzled_shared<X>();
    X* const stages = q_tile + FLASH_WGMMA_Q;
    const auto copy_stage = [&](unsigned start, unsigned stage) {
        X* const to = stages + stage * (2 * FLASH_WGMMA_TILE);
        copy_swizzled<FLASH_WGMMA_KEYS>(to, at.k + size_t(start) * p.pitch_k, p.pitch_k, at.end - start);
        copy_swizzled<FLASH_WGMMA_KEYS>(to + FLASH_WGMMA_TILE, at.v + size_t(start) * p.pitch_v, p.pitch_v, at.end - start);
    };
    copy_swizzled<FLASH_WGMMA_QUERIES>(q_tile, at.q + size_t(at.first) * p.pitch_q, p.pitch_q, p.queries - at.first);
    copy_stage(0, 0);
    cp_async_commit();

    // Scores in units of log2, for exp2.
    const float scale = p.scale * 1.44269504088896341f;
    const unsigned row = at.first + warp() * 16;
    const X* const queries = q_tile + warp() / 4 * FLASH_WGMMA_TILE;
    float out[8][4] = {};
    float highest[2] = {LOWEST_SCORE, LOWEST_SCORE};
    float sum[2] = {};
    unsigned stage = 0;
    for (unsigned start = 0; start < at.end; start += FLASH_WGMMA_KEYS) {
        cp_async_wait<0>();
        fence_async_shared();
        // These keys and values have landed for everybody, and everybody has waited for the products of those before them.
        sync_block();
        const X* const keys = stages + stage * (2 * FLASH_WGMMA_TILE);
        float scores[8][4] = {};
        float(&score_sums)[32] = reinterpret_cast<float(&)[32]>(scores);
        wgmma_hold(score_sums);
        wgmma_fence();
#pragma unroll
        for (unsigned step = 0; step < 4; step++) {
            wgmma_m64n64k16_nk<X>(score_sums, wgmma_descriptor(queries + step * 16, 0, WGMMA_STRIDE),
                                  wgmma_descriptor(keys + step * 16, 0, WGMMA_STRIDE));
        }
        wgmma_commit();
        stage ^= 1;
        if (start + FLASH_WGMMA_KEYS < at.end) {
            copy_stage(start + FLASH_WGMMA_KEYS, stage);
        }
        cp_async_commit();
        wgmma_wait<0>();
        wgmma_hold(score_sums);
        const bool hides = start + FLASH_WGMMA_KEYS > at.end || (at.causal && start + FLASH_WGMMA_KEYS > at.first + 1);
        soften(scores, out, highest, sum, scale, hides, at, row, start);
        add_weighed(out, scores, keys + FLASH_WGMMA_TILE);
    }
    cp_async_wait<0>();
    sync_block();
    float* const staged = swizzled_shared<float>() + warp() * (16 * HEAD_STAGED_PITCH<64>);
    store_head<64>(p, at, row, out, sum, staged, y, control);
    clear_past_heads(p, at.item, at.head, at.first, FLASH_WGMMA_QUERIES, FLASH_WGMMA_THREADS, y, control);
}
