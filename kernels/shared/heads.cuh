// Which rows a block of an attention kernel works on.
#pragma once

#include "vector.cuh"

// Below every score; finite, so that differences are.
constexpr float LOWEST_SCORE = -3.0e38f;

// What a block works on, and where its head's rows begin.
template <class X> struct Head {
    unsigned item, head, first, end;
    bool causal;
    const X* q;
    const X* k;
    const X* v;

    // `end`: one past the last key that any of `block` queries sees. A context's row is padding beyond its keys.
    TS_D Head(const AttentionParams& p, const X* q, const X* k, const X* v, const Control* control, unsigned block) {
        const unsigned id = block_index();
        const unsigned blocks = ceil_div(p.queries, block);
        first = id % blocks * block;
        head = id / blocks % p.heads;
        item = id / blocks / p.heads;
        causal = (p.parts & 1u) != 0;
        end = p.keys;
        if (item < p.n) {
            unsigned row = item;
            if ((p.parts & 2u) != 0) {
                row = item_of(control, item).ctx_row;
                const unsigned counted = item_of(control, item).keys;
                end = counted != 0 ? min(end, counted) : end;
            }
            const unsigned channel = head * p.head_dim;
            this->q = q + size_t(item) * p.queries * p.pitch_q + p.offset_q + channel;
            this->k = k + size_t(row) * p.keys * p.pitch_k + p.offset_k + channel;
            this->v = v + size_t(row) * p.keys * p.pitch_v + p.offset_v + channel;
        }
        end = causal ? min(end, first + block) : end;
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
