#include "shared/device.cuh"
#include "shared/vector.cuh"

// y[query][head] = softmax(scale * q k^T [causal]) v, per item and head, online over tiles of keys
// Bindings: abi's order; `scratch` is not used.
// Launch: base 256 threads, no dynamic shared memory, a block per 32 queries of one head of one item;
//   mma_40, mma_64, mma_80 128 threads, 28672, 36864, 33792 bytes, a block per 128 queries;
//   mma_160 128 threads, 43008 bytes, a block per 64 queries. Query blocks fastest, then heads, then items.
// Layout: tokens x pitch; head h takes channels offset + h * head_dim, all multiples of 8.
// Numerics: scores, exponentials and sums f32, keys in order, so the result depends on nothing but its operands.
//   mma: the exponentials, 0 to 1, are rounded to the half type before they meet v.
// Limits: base: head_dim a multiple of 8, at most 512; mma: q, k, v of a half type, head_dim as named.
// Source: online softmax (Milakov and Gimelshein 2018), tiles as in flash attention 2 (Dao 2023).

// Below every score; finite, so that differences are.
constexpr float LOWEST_SCORE = -3.0e38f;

// What a block works on, and where its head's rows begin.
template <class X> struct Head {
    unsigned item, head, first, end;
    bool causal;
    const X* q;
    const X* k;
    const X* v;

    // `end`: one past the last key that any of `block` queries sees.
    TS_D Head(const AttentionParams& p, const X* q, const X* k, const X* v, const Control* control, unsigned block) {
        const unsigned id = block_index();
        const unsigned blocks = ceil_div(p.queries, block);
        first = id % blocks * block;
        head = id / blocks % p.heads;
        item = id / blocks / p.heads;
        causal = (p.parts & 1u) != 0;
        end = causal ? min(p.keys, first + block) : p.keys;
        if (item < p.n) {
            const unsigned row = (p.parts & 2u) != 0 ? item_of(control, item).ctx_row : item;
            const unsigned channel = head * p.head_dim;
            this->q = q + size_t(item) * p.queries * p.pitch_q + p.offset_q + channel;
            this->k = k + size_t(row) * p.keys * p.pitch_k + p.offset_k + channel;
            this->v = v + size_t(row) * p.keys * p.pitch_v + p.offset_v + channel;
        }
    }
};

// Channels of y past the heads are zeros: the last head's block clears its queries'.
template <class Y>
TS_D void clear_past_heads(const AttentionParams& p, unsigned item, unsigned head, unsigned first, unsigned queries,
                           unsigned threads, Y* y, Control* control) {
    const unsigned width = p.heads * p.head_dim;
    if (head + 1 == p.heads && width < p.pitch_y) {
        const unsigned chunks = (p.pitch_y - width) / 8;
        for (unsigned i = threadIdx.x; i < queries * chunks; i += threads) {
            const unsigned query = first + i / chunks;
            if (query < p.queries) {
                const float zeros[8] = {};
                store8(y + (size_t(item) * p.queries + query) * p.pitch_y + width + i % chunks * 8, zeros, control);
            }
        }
    }
}

constexpr unsigned ATTENTION_BASE_THREADS = 256;
constexpr unsigned BASE_QUERIES = 32;
constexpr unsigned BASE_KEYS = 32;
// Channels of a slice of q and k, and of a panel of v; panels of the widest head.
constexpr unsigned BASE_SLICE = 32;
constexpr unsigned BASE_PANEL = 64;
constexpr unsigned BASE_PANELS = 8;
constexpr unsigned BASE_PITCH = 36;
constexpr unsigned BASE_V_PITCH = 68;

// Eight threads share a query: each has four keys of a tile, then 8 channels of every panel of the output.
template <class X, class Y>
TS_D void attention_base(const AttentionParams& p, const X* q, const X* k, const X* v, Y* y, Control* control) {
    TS_SHARED(float, q_tile, BASE_QUERIES * BASE_PITCH);
    TS_SHARED(float, k_tile, BASE_KEYS * BASE_PITCH);
    TS_SHARED(float, v_tile, BASE_KEYS * BASE_V_PITCH);
    TS_SHARED(float, weights, BASE_QUERIES * BASE_PITCH);
    const Head<X> at(p, q, k, v, control, BASE_QUERIES);
    if (at.item >= p.n) {
        return;
    }
    const unsigned query = threadIdx.x / 8;
    const unsigned part = threadIdx.x % 8;
    float out[BASE_PANELS][8] = {};
    float highest = LOWEST_SCORE;
    float sum = 0.0f;
    for (unsigned start = 0; start < at.end; start += BASE_KEYS) {
        float scores[4] = {};
        for (unsigned slice = 0; slice < p.head_dim; slice += BASE_SLICE) {
            // Half of the threads fetch q, half k: a chunk of 8 channels each.
            const bool fetches_q = threadIdx.x < 128;
            const unsigned row = threadIdx.x / 4 % 32;
            const unsigned c = threadIdx.x % 4 * 8;
            const bool inside = slice + c < p.head_dim;
            float e[8] = {};
            if (fetches_q && inside && at.first + row < p.queries) {
                load8(at.q + size_t(at.first + row) * p.pitch_q + slice + c, e);
            } else if (!fetches_q && inside && start + row < p.keys) {
                load8(at.k + size_t(start + row) * p.pitch_k + slice + c, e);
            }
            sync_block();
            float* const to = (fetches_q ? q_tile : k_tile) + row * BASE_PITCH + c;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                to[i] = e[i];
            }
            sync_block();
#pragma unroll 1
            for (unsigned d = 0; d < BASE_SLICE; d += 4) {
                const float4 a = *reinterpret_cast<const float4*>(q_tile + query * BASE_PITCH + d);
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
                    const float4 b = *reinterpret_cast<const float4*>(k_tile + (part + 8 * j) * BASE_PITCH + d);
                    scores[j] = fmaf(a.x, b.x, scores[j]);
                    scores[j] = fmaf(a.y, b.y, scores[j]);
                    scores[j] = fmaf(a.z, b.z, scores[j]);
                    scores[j] = fmaf(a.w, b.w, scores[j]);
                }
            }
        }
        float now = highest;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            const unsigned key = start + part + 8 * j;
            const bool hidden = key >= p.keys || (at.causal && key > at.first + query);
            scores[j] = hidden ? LOWEST_SCORE : scores[j] * p.scale;
            now = fmaxf(now, scores[j]);
        }
#pragma unroll
        for (unsigned mask = 1; mask < 8; mask *= 2) {
            now = fmaxf(now, shuffle_xor(now, mask));
        }
        const float factor = expf(highest - now);
        highest = now;
        float share = 0.0f;
        sync_warp();
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            const float e = scores[j] <= LOWEST_SCORE ? 0.0f : expf(scores[j] - now);
            share += e;
            // A query's weights are read by the warp that wrote them.
            weights[query * BASE_PITCH + part + 8 * j] = e;
        }
        sync_warp();
#pragma unroll
        for (unsigned mask = 1; mask < 8; mask *= 2) {
            share += shuffle_xor(share, mask);
        }
        sum = sum * factor + share;
#pragma unroll
        for (unsigned panel = 0; panel < BASE_PANELS; panel++) {
            if (panel * BASE_PANEL < p.head_dim) {
                const unsigned key = start + threadIdx.x / 8;
                const unsigned c = panel * BASE_PANEL + part * 8;
                float e[8] = {};
                if (key < p.keys && c < p.head_dim) {
                    load8(at.v + size_t(key) * p.pitch_v + c, e);
                }
                sync_block();
                float* const to = v_tile + threadIdx.x / 8 * BASE_V_PITCH + part * 8;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    to[i] = e[i];
                    out[panel][i] *= factor;
                }
                sync_block();
#pragma unroll 1
                for (unsigned j = 0; j < BASE_KEYS; j++) {
                    const float weight = weights[query * BASE_PITCH + j];
                    load8(v_tile + j * BASE_V_PITCH + part * 8, e);
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        out[panel][i] = fmaf(weight, e[i], out[panel][i]);
                    }
                }
            }
        }
    }
    if (at.first + query < p.queries) {
        const float over = 1.0f / sum;
        Y* const row = y + (size_t(at.item) * p.queries + at.first + query) * p.pitch_y + at.head * p.head_dim;
#pragma unroll
        for (unsigned panel = 0; panel < BASE_PANELS; panel++) {
            const unsigned c = panel * BASE_PANEL + part * 8;
            if (c < p.head_dim) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    out[panel][i] *= over;
                }
                store8(row + c, out[panel], control);
            }
        }
    }
    clear_past_heads(p, at.item, at.head, at.first, BASE_QUERIES, ATTENTION_BASE_THREADS, y, control);
}

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
    static constexpr unsigned STAGED_PITCH = D + 8;
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
    copy_rows<Tile::KEYS, Tile::CHUNKS, D>(k_tile, at.k, p.pitch_k, p.keys);
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
        copy_rows<Tile::KEYS, OUT_TILES, D>(v_tile, at.v + size_t(start) * p.pitch_v, p.pitch_v, p.keys - start);
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
            copy_rows<Tile::KEYS, Tile::CHUNKS, D>(k_tile, at.k + size_t(next) * p.pitch_k, p.pitch_k, p.keys - next);
        }
        cp_async_commit();
        const bool hides = start + Tile::KEYS > p.keys || (at.causal && start + Tile::KEYS > at.first + 1);
#pragma unroll
        for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned query = at.first + first_row + i * 16 + half * 8 + lane() / 4;
                float now = highest[i][half];
#pragma unroll
                for (unsigned j = 0; j < KEY_TILES; j++) {
#pragma unroll
                    for (unsigned e = 0; e < 2; e++) {
                        float& score = scores[i][j][half * 2 + e];
                        score *= scale;
                        if (hides) {
                            const unsigned key = start + j * 8 + lane() % 4 * 2 + e;
                            score = key >= p.keys || (at.causal && key > query) ? LOWEST_SCORE : score;
                        }
                        now = fmaxf(now, score);
                    }
                }
                now = fmaxf(now, shuffle_xor(now, 1));
                now = fmaxf(now, shuffle_xor(now, 2));
                const float factor = exp2_approx(highest[i][half] - now);
                highest[i][half] = now;
                float share = 0.0f;
#pragma unroll
                for (unsigned j = 0; j < KEY_TILES; j++) {
#pragma unroll
                    for (unsigned e = 0; e < 2; e++) {
                        float& score = scores[i][j][half * 2 + e];
                        score = exp2_approx(score - now);
                        share += score;
                    }
                }
                sum[i][half] = sum[i][half] * factor + share;
#pragma unroll
                for (unsigned j = 0; j < OUT_TILES; j++) {
                    out[i][j][half * 2] *= factor;
                    out[i][j][half * 2 + 1] *= factor;
                }
            }
        }
#pragma unroll
        for (unsigned step = 0; step < KEY_TILES / 2; step++) {
            unsigned a[Tile::ROW_TILES][4];
#pragma unroll
            for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
                const float(&low)[4] = scores[i][step * 2];
                const float(&high)[4] = scores[i][step * 2 + 1];
                a[i][0] = pack2<X>(low[0], low[1]);
                a[i][1] = pack2<X>(low[2], low[3]);
                a[i][2] = pack2<X>(high[0], high[1]);
                a[i][3] = pack2<X>(high[2], high[3]);
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
        sync_warp();
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            float total = sum[i][half];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            const float over = 1.0f / total;
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
            const unsigned query = at.first + first_row + i * 16 + row;
            if (query < p.queries) {
                float e[8];
                load8(staged + row * Tile::STAGED_PITCH + l % OUT_TILES * 8, e);
                store8(y + (size_t(at.item) * p.queries + query) * p.pitch_y + at.head * D + l % OUT_TILES * 8, e,
                       control);
            }
        }
    }
    clear_past_heads(p, at.item, at.head, at.first, Tile::QUERIES, FLASH_THREADS, y, control);
}

#define ATTENTION_ENTRY(THREADS, VARIANT, X, W, Y, BODY) \
    TS_ENTRY(THREADS, attention_##VARIANT##_##X##_##W##_##Y, const AttentionParams p, const X* q, const X* k, \
             const X* v, Y* y, void* scratch, Control* control) { \
        (void)scratch; \
        BODY(p, q, k, v, y, control); \
    }

#define ATTENTION_BASE(X, W, Y) ATTENTION_ENTRY(ATTENTION_BASE_THREADS, base, X, W, Y, attention_base)
TS_TYPES_XY(ATTENTION_BASE)

#define ATTENTION_MMA(X, W, Y) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_40, X, W, Y, attention_mma<40>) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_64, X, W, Y, attention_mma<64>) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_80, X, W, Y, attention_mma<80>) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_160, X, W, Y, attention_mma<160>)
TS_TYPES_MMA(ATTENTION_MMA)
