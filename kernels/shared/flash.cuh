// Attention on tensor cores for heads up to 160 channels: a warp keeps its queries' output in registers.
#pragma once

#include "softmax.cuh"

constexpr unsigned FLASH_THREADS = 128;

// Four warps of ROW_TILES x 16 queries; KEYS keys at a time. Rows in shared memory take an odd number of 16-byte
// chunks, so that the 8 rows of a matrix that ldmatrix reads lie in different banks.
template <unsigned D> struct FlashTile {
    static constexpr unsigned ROW_TILES = D > 80 ? 1 : 2;
    static constexpr unsigned QUERIES = 64 * ROW_TILES;
    static constexpr unsigned KEYS = D > 64 ? 32 : 64;
    // Chunks of a row that q k^T sums over: an even number, the last one zeros where D is no multiple of 16.
    static constexpr unsigned CHUNKS = (D + 15) / 16 * 2;
    static constexpr unsigned PITCH = (CHUNKS + 1) * 8;
    static constexpr unsigned BYTES = (QUERIES + 2 * KEYS) * PITCH * 2;
    // Afterwards the same memory holds 16 rows of each warp's output as f32.
    static constexpr unsigned STAGED_PITCH = HEAD_STAGED_PITCH<D>;
    static_assert(BYTES >= 4 * 16 * STAGED_PITCH * 4, "staging");
};

// Copies ROWS rows of CHUNKS chunks, zeros past `count` rows and past channel D.
template <unsigned ROWS, unsigned CHUNKS, unsigned D, class X>
TS_D void copy_rows(X* to, const X* from, unsigned pitch, unsigned count) {
#pragma unroll
    for (unsigned i = threadIdx.x; i < ROWS * CHUNKS; i += FLASH_THREADS) {
        const unsigned row = i / CHUNKS;
        const unsigned chunk = i % CHUNKS;
        const bool valid = row < count && chunk * 8 < D;
        cp_async16(to + row * FlashTile<D>::PITCH + chunk * 8, valid ? from + size_t(row) * pitch + chunk * 8 : from,
                   valid);
    }
}

template <unsigned D, class X, class Y>
TS_D void attention_mma(const AttentionParams& p, const X* q, const X* k, const X* v, Y* y, Control* control) {
    using Tile = FlashTile<D>;
    constexpr unsigned KEY_TILES = Tile::KEYS / 8;
    constexpr unsigned OUT_TILES = D / 8;
    const Head<X> at(p, q, k, v, control, Tile::QUERIES);
    if (at.item >= p.n) {
        return;
    }
    X* const q_tile = dynamic_shared<X>();
    X* const k_tile = q_tile + Tile::QUERIES * Tile::PITCH;
    X* const v_tile = k_tile + Tile::KEYS * Tile::PITCH;
    copy_rows<Tile::QUERIES, Tile::CHUNKS, D>(q_tile, at.q + size_t(at.first) * p.pitch_q, p.pitch_q,
                                              p.queries - at.first);
    copy_rows<Tile::KEYS, Tile::CHUNKS, D>(k_tile, at.k, p.pitch_k, at.end);
    cp_async_commit();

    // Scores in units of log2, for exp2. This thread has rows lane / 4 and lane / 4 + 8 of each row tile.
    const float scale = p.scale * 1.44269504088896341f;
    const unsigned first_row = warp() * (Tile::ROW_TILES * 16);
    float out[Tile::ROW_TILES][OUT_TILES][4] = {};
    float highest[Tile::ROW_TILES][2];
    float sum[Tile::ROW_TILES][2] = {};
#pragma unroll
    for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
        highest[i][0] = LOWEST_SCORE;
        highest[i][1] = LOWEST_SCORE;
    }
    for (unsigned start = 0; start < at.end; start += Tile::KEYS) {
        cp_async_wait<0>();
        // These keys have landed for everybody, and everybody is through with the values before them.
        sync_block();
        copy_rows<Tile::KEYS, OUT_TILES, D>(v_tile, at.v + size_t(start) * p.pitch_v, p.pitch_v, at.end - start);
        cp_async_commit();
        float scores[Tile::ROW_TILES][KEY_TILES][4] = {};
#pragma unroll
        for (unsigned step = 0; step < Tile::CHUNKS / 2; step++) {
            unsigned a[Tile::ROW_TILES][4];
#pragma unroll
            for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
                ldmatrix_x4(a[i], q_tile + (first_row + i * 16 + lane() % 16) * Tile::PITCH +
                                      (step * 2 + lane() / 16) * 8);
            }
#pragma unroll
            for (unsigned j = 0; j < KEY_TILES; j += 2) {
                unsigned b[4];
                ldmatrix_x4(b, k_tile + (j * 8 + lane() / 16 * 8 + lane() % 8) * Tile::PITCH +
                                   (step * 2 + lane() / 8 % 2) * 8);
                const unsigned low[2] = {b[0], b[1]};
                const unsigned high[2] = {b[2], b[3]};
#pragma unroll
                for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
                    mma_m16n8k16<X>(scores[i][j], a[i], low);
                    mma_m16n8k16<X>(scores[i][j + 1], a[i], high);
                }
            }
        }
        cp_async_wait<0>();
        // The values have landed for everybody, and everybody is through with the keys.
        sync_block();
        if (start + Tile::KEYS < at.end) {
            const unsigned next = start + Tile::KEYS;
            copy_rows<Tile::KEYS, Tile::CHUNKS, D>(k_tile, at.k + size_t(next) * p.pitch_k, p.pitch_k, at.end - next);
        }
        cp_async_commit();
        const bool hides = start + Tile::KEYS > at.end || (at.causal && start + Tile::KEYS > at.first + 1);
#pragma unroll
        for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
            soften(scores[i], out[i], highest[i], sum[i], scale, hides, at, at.first + first_row + i * 16, start);
        }
#pragma unroll
        for (unsigned step = 0; step < KEY_TILES / 2; step++) {
            unsigned a[Tile::ROW_TILES][4];
#pragma unroll
            for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
                pack_weights<X>(a[i], scores[i], step * 2);
            }
            const X* const row = v_tile + (step * 16 + lane() % 16) * Tile::PITCH;
#pragma unroll
            for (unsigned j = 0; j + 1 < OUT_TILES; j += 2) {
                unsigned b[4];
                ldmatrix_x4_trans(b, row + (j + lane() / 16) * 8);
                const unsigned low[2] = {b[0], b[1]};
                const unsigned high[2] = {b[2], b[3]};
#pragma unroll
                for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
                    mma_m16n8k16<X>(out[i][j], a[i], low);
                    mma_m16n8k16<X>(out[i][j + 1], a[i], high);
                }
            }
            if constexpr (OUT_TILES % 2 != 0) {
                unsigned b[2];
                ldmatrix_x2_trans(b, row + (OUT_TILES - 1) * 8);
#pragma unroll
                for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
                    mma_m16n8k16<X>(out[i][OUT_TILES - 1], a[i], b);
                }
            }
        }
    }
    cp_async_wait<0>();
    sync_block();
    float* const staged = dynamic_shared<float>() + warp() * (16 * Tile::STAGED_PITCH);
#pragma unroll
    for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
        store_head<D>(p, at, at.first + first_row + i * 16, out[i], sum[i], staged, y, control);
    }
    clear_past_heads(p, at.item, at.head, at.first, Tile::QUERIES, FLASH_THREADS, y, control);
}
