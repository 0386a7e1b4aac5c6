// Attention on tensor cores for wide heads (the VAE's 512 channels): eight warps share 32 queries. For the scores a warp
// has 16 queries x 8 of 32 keys, for the output all 32 queries x an eighth of the channels; the exponentials change
// hands through shared memory.
#pragma once

#include "heads.cuh"

constexpr unsigned WIDE_THREADS = 256;

template <unsigned D> struct WideTile {
    static_assert(D % 128 == 0, "an eighth of the channels is a number of 16-byte pairs, a row one of 128 bytes");
    static constexpr unsigned QUERIES = 32;
    static constexpr unsigned KEYS = 32;
    static constexpr unsigned CHUNKS = D / 8;
    // q, k and v: 32 rows of CHUNKS chunks of 16 bytes, chunk c of row r at place c ^ (r % 8).
    static constexpr unsigned ROWS = 32 * D;
    // Exponentials: rows of 5 chunks, so that 8 rows lie in different banks.
    static constexpr unsigned WEIGHTS_PITCH = KEYS + 8;
    static constexpr unsigned WEIGHTS = QUERIES * WEIGHTS_PITCH;
    // Then [4][32] floats: maxima or sums of each query over 8 keys.
    static constexpr unsigned BYTES = (3 * ROWS + WEIGHTS) * 2 + 4 * QUERIES * 4;
    static_assert(BYTES <= 99 * 1024, "what every card from 8.0 on grants a block");
    // Channels of a warp, and floats between rows of its staged output.
    static constexpr unsigned PART = D / 8;
    static constexpr unsigned STAGED_PITCH = PART + 8;
    static_assert(3 * ROWS * 2 >= 8 * 16 * STAGED_PITCH * 4, "staging");
};

template <unsigned D, class X> TS_D X* wide_chunk(X* tile, unsigned row, unsigned chunk) {
    return tile + row * D + (chunk ^ (row % 8)) * 8;
}

// Copies 32 rows, zeros past `count` of them.
template <unsigned D, class X> TS_D void copy_wide(X* to, const X* from, unsigned pitch, unsigned count) {
    constexpr unsigned CHUNKS = WideTile<D>::CHUNKS;
#pragma unroll
    for (unsigned i = threadIdx.x; i < 32 * CHUNKS; i += WIDE_THREADS) {
        const unsigned row = i / CHUNKS;
        const unsigned chunk = i % CHUNKS;
        const bool valid = row < count;
        cp_async16(wide_chunk<D>(to, row, chunk), valid ? from + size_t(row) * pitch + chunk * 8 : from, valid);
    }
}

// Combines what the four warps of a row tile left of one query, in a fixed order.
TS_D float wide_maximum(const float* shared, unsigned row) {
    return fmaxf(fmaxf(shared[row], shared[32 + row]), fmaxf(shared[64 + row], shared[96 + row]));
}

template <unsigned D, class X, class Y>
TS_D void attention_wide(const AttentionParams& p, const X* q, const X* k, const X* v, Y* y, Control* control) {
    using Tile = WideTile<D>;
    constexpr unsigned OUT_TILES = Tile::PART / 8;
    const Head<X> at(p, q, k, v, control, Tile::QUERIES);
    if (at.item >= p.n) {
        return;
    }
    X* const q_tile = dynamic_shared<X>();
    X* const k_tile = q_tile + Tile::ROWS;
    X* const v_tile = k_tile + Tile::ROWS;
    X* const weights = v_tile + Tile::ROWS;
    float* const exchange = reinterpret_cast<float*>(weights + Tile::WEIGHTS);
    copy_wide<D>(q_tile, at.q + size_t(at.first) * p.pitch_q, p.pitch_q, p.queries - at.first);
    copy_wide<D>(k_tile, at.k, p.pitch_k, at.end);
    cp_async_commit();

    // Scores in units of log2, for exp2. For the scores this thread has rows `mine` and `mine` + 8, keys 8 `group` + ..;
    // for the output rows lane / 4 + 8 i.
    const float scale = p.scale * 1.44269504088896341f;
    const unsigned group = warp() % 4;
    const unsigned row_tile = warp() / 4;
    const unsigned mine = row_tile * 16 + lane() / 4;
    float out[2][OUT_TILES][4] = {};
    float highest[4];
    float sum[2] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        highest[i] = LOWEST_SCORE;
    }
    for (unsigned start = 0; start < at.end; start += Tile::KEYS) {
        cp_async_wait<0>();
        // These keys have landed for everybody, and everybody is through with the values before them.
        sync_block();
        copy_wide<D>(v_tile, at.v + size_t(start) * p.pitch_v, p.pitch_v, at.end - start);
        cp_async_commit();
        // Even and odd steps of 16 channels apart, so that one product need not wait for the other.
        float scores[4] = {};
        float odd[4] = {};
#pragma unroll 4
        for (unsigned chunk = 0; chunk < Tile::CHUNKS; chunk += 4) {
            unsigned b[4];
            unsigned a[2][4];
            ldmatrix_x4(b, wide_chunk<D>(k_tile, group * 8 + lane() % 8, chunk + lane() / 8));
            ldmatrix_x4(a[0], wide_chunk<D>(q_tile, row_tile * 16 + lane() % 16, chunk + lane() / 16));
            ldmatrix_x4(a[1], wide_chunk<D>(q_tile, row_tile * 16 + lane() % 16, chunk + 2 + lane() / 16));
            const unsigned low[2] = {b[0], b[1]};
            const unsigned high[2] = {b[2], b[3]};
            mma_m16n8k16<X>(scores, a[0], low);
            mma_m16n8k16<X>(odd, a[1], high);
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned query = at.first + mine + half * 8;
            float top = LOWEST_SCORE;
#pragma unroll
            for (unsigned e = 0; e < 2; e++) {
                const unsigned key = start + group * 8 + lane() % 4 * 2 + e;
                float& score = scores[half * 2 + e];
                score = (score + odd[half * 2 + e]) * scale;
                score = key >= at.end || (at.causal && key > query) ? LOWEST_SCORE : score;
                top = fmaxf(top, score);
            }
            top = fmaxf(top, shuffle_xor(top, 1));
            top = fmaxf(top, shuffle_xor(top, 2));
            if (lane() % 4 == 0) {
                exchange[group * 32 + mine + half * 8] = top;
            }
        }
        sync_block();
        float factor[4];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const float now = fmaxf(highest[i], wide_maximum(exchange, lane() / 4 + 8 * i));
            factor[i] = exp2_approx(highest[i] - now);
            highest[i] = now;
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float now = row_tile == 0 ? highest[half] : highest[2 + half];
            const float low = exp2_approx(scores[half * 2] - now);
            const float high = exp2_approx(scores[half * 2 + 1] - now);
            sum[half] = sum[half] * (row_tile == 0 ? factor[half] : factor[2 + half]) + (low + high);
            X* const to = weights + (mine + half * 8) * Tile::WEIGHTS_PITCH + group * 8 + lane() % 4 * 2;
            *reinterpret_cast<unsigned*>(to) = pack2<X>(low, high);
        }
        cp_async_wait<0>();
        // Values and exponentials are there for everybody, and everybody is through with the keys.
        sync_block();
        if (start + Tile::KEYS < at.end) {
            const unsigned next = start + Tile::KEYS;
            copy_wide<D>(k_tile, at.k + size_t(next) * p.pitch_k, p.pitch_k, at.end - next);
        }
        cp_async_commit();
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
#pragma unroll
            for (unsigned j = 0; j < OUT_TILES; j++) {
#pragma unroll
                for (unsigned e = 0; e < 4; e++) {
                    out[i][j][e] *= factor[i * 2 + e / 2];
                }
            }
        }
#pragma unroll
        for (unsigned step = 0; step < Tile::KEYS / 16; step++) {
            unsigned a[2][4];
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                ldmatrix_x4(a[i], weights + (i * 16 + lane() % 16) * Tile::WEIGHTS_PITCH + (step * 2 + lane() / 16) * 8);
            }
#pragma unroll
            for (unsigned j = 0; j < OUT_TILES; j += 2) {
                unsigned b[4];
                ldmatrix_x4_trans(b, wide_chunk<D>(v_tile, step * 16 + lane() % 16,
                                                   warp() * OUT_TILES + j + lane() / 16));
                const unsigned low[2] = {b[0], b[1]};
                const unsigned high[2] = {b[2], b[3]};
#pragma unroll
                for (unsigned i = 0; i < 2; i++) {
                    mma_m16n8k16<X>(out[i][j], a[i], low);
                    mma_m16n8k16<X>(out[i][j + 1], a[i], high);
                }
            }
        }
    }
    cp_async_wait<0>();
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        float total = sum[half];
        total += shuffle_xor(total, 1);
        total += shuffle_xor(total, 2);
        if (lane() % 4 == 0) {
            exchange[group * 32 + mine + half * 8] = total;
        }
    }
    sync_block();
    float* const staged = dynamic_shared<float>() + warp() * (16 * Tile::STAGED_PITCH);
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        sync_warp();
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned row = i * 16 + half * 8 + lane() / 4;
            const float over = 1.0f / ((exchange[row] + exchange[32 + row]) + (exchange[64 + row] + exchange[96 + row]));
            float* const to = staged + (half * 8 + lane() / 4) * Tile::STAGED_PITCH + lane() % 4 * 2;
#pragma unroll
            for (unsigned j = 0; j < OUT_TILES; j++) {
                *reinterpret_cast<float2*>(to + j * 8) =
                    make_float2(out[i][j][half * 2] * over, out[i][j][half * 2 + 1] * over);
            }
        }
        sync_warp();
        for (unsigned l = lane(); l < 16 * OUT_TILES; l += 32) {
            const unsigned row = l / OUT_TILES;
            const unsigned query = at.first + i * 16 + row;
            if (query < p.queries) {
                float e[8];
                load8(staged + row * Tile::STAGED_PITCH + l % OUT_TILES * 8, e);
                store8(y + (size_t(at.item) * p.queries + query) * p.pitch_y + at.head * D + warp() * Tile::PART +
                           l % OUT_TILES * 8,
                       e, control);
            }
        }
    }
    clear_past_heads(p, at.item, at.head, at.first, Tile::QUERIES, WIDE_THREADS, y, control);
}
