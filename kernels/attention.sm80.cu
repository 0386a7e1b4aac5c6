#include "shared/device.cuh"
#include "shared/flash.cuh"
#include "shared/flash_wide.cuh"

// y[query][head] = softmax(scale * q k^T [+ rel] [causal]) v, per item and head, online over tiles of keys
// Bindings: abi's order; `scratch` is not used.
// Launch: base 256 threads, no dynamic shared memory, a block per 32 queries of one head of one item;
//   mma_40, mma_64, mma_80 128 threads, 28672, 36864, 33792 bytes, a block per 128 queries;
//   mma_160 128 threads, 43008 bytes, a block per 64 queries;
//   mma_512 256 threads, 101376 bytes, a block per 32 queries. Query blocks fastest, then heads, then items.
// Layout: tokens x pitch; head h takes channels offset + h * head_dim, all multiples of 8.
// Numerics: scores, exponentials and sums f32, keys in order, so the result depends on nothing but its operands.
//   mma: the exponentials, 0 to 1, are rounded to the half type before they meet v.
// Limits: base: head_dim a multiple of 8, at most 512; mma: no `rel`, q, k, v of a half type, head_dim as named.
// Source: online softmax (Milakov and Gimelshein 2018), tiles as in flash attention 2 (Dao 2023).

constexpr unsigned ATTENTION_BASE_THREADS = 256;
constexpr unsigned BASE_QUERIES = 32;
constexpr unsigned BASE_KEYS = 32;
// Channels of a slice of q and k, and of a panel of v; panels of the widest head.
constexpr unsigned BASE_SLICE = 32;
constexpr unsigned BASE_PANEL = 64;
constexpr unsigned BASE_PANELS = 8;
constexpr unsigned BASE_PITCH = 36;
constexpr unsigned BASE_V_PITCH = 68;

// What the relative position of a query and a key adds to their score.
template <class X>
TS_D float relative_score(const AttentionParams& p, const X* rel, unsigned item, unsigned query, unsigned head,
                          unsigned key) {
    const unsigned pitch = (2 * (p.rel_h + p.rel_w) - 2 + 7) / 8 * 8;
    const X* const row = rel + ((size_t(item) * p.queries + query) * p.heads + head) * pitch;
    const unsigned a = query / p.rel_w + p.rel_h - 1 - key / p.rel_w;
    const unsigned b = 2 * p.rel_h - 1 + query % p.rel_w + p.rel_w - 1 - key % p.rel_w;
    return to_f32(row[a]) + to_f32(row[b]);
}

// Eight threads share a query: each has four keys of a tile, then 8 channels of every panel of the output.
template <class X, class Y>
TS_D void attention_base(const AttentionParams& p, const X* q, const X* k, const X* v, const X* rel, Y* y,
                         Control* control) {
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
            } else if (!fetches_q && inside && start + row < at.end) {
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
            const bool hidden = key >= at.end || (at.causal && key > at.first + query);
            float score = scores[j] * p.scale;
            if ((p.parts & 4u) != 0 && key < p.keys && at.first + query < p.queries) {
                score += relative_score(p, rel, at.item, at.first + query, at.head, key);
            }
            scores[j] = hidden ? LOWEST_SCORE : score;
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
                if (key < at.end && c < p.head_dim) {
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

#define ATTENTION_ENTRY(THREADS, VARIANT, X, W, Y, CALL) \
    TS_ENTRY(THREADS, attention_##VARIANT##_##X##_##W##_##Y, const AttentionParams p, const X* q, const X* k, \
             const X* v, const X* rel, Y* y, void* scratch, Control* control) { \
        (void)rel, (void)scratch; \
        CALL; \
    }

#define ATTENTION_BASE(X, W, Y) \
    ATTENTION_ENTRY(ATTENTION_BASE_THREADS, base, X, W, Y, attention_base(p, q, k, v, rel, y, control))
TS_TYPES_XY(ATTENTION_BASE)

#define ATTENTION_MMA(X, W, Y) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_40, X, W, Y, attention_mma<40>(p, q, k, v, y, control)) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_64, X, W, Y, attention_mma<64>(p, q, k, v, y, control)) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_80, X, W, Y, attention_mma<80>(p, q, k, v, y, control)) \
    ATTENTION_ENTRY(FLASH_THREADS, mma_160, X, W, Y, attention_mma<160>(p, q, k, v, y, control)) \
    ATTENTION_ENTRY(WIDE_THREADS, mma_512, X, W, Y, attention_wide<512>(p, q, k, v, y, control))
TS_TYPES_MMA(ATTENTION_MMA)
