// The parts of flash attention that do not depend on how its products are made: 16 queries of a warp, as tensor cores hold
// them. With g = lane / 4 and t = lane % 4 a thread has rows g (the first two of four) and g + 8 of columns 8 j + 2 t and the next.
#pragma once

#include "heads.cuh"

// Floats between rows of a head's output, staged.
template <unsigned D> constexpr unsigned HEAD_STAGED_PITCH = D + 8;

// Scores to weights, online: `highest` and `sum` are the rows' largest score and sum of weights so far, `out` what they summed.
// `scale` makes scores powers of 2; `hides`: some key of the tile, whose first is `start`, is not seen by some query; `row` is the
// query of row 0.
template <unsigned KEY_TILES, unsigned OUT_TILES, class X>
TS_D void soften(float (&scores)[KEY_TILES][4], float (&out)[OUT_TILES][4], float (&highest)[2], float (&sum)[2],
                 float scale, bool hides, const Head<X>& at, unsigned row, unsigned start) {
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        const unsigned query = row + half * 8 + lane() / 4;
        float now = highest[half];
#pragma unroll
        for (unsigned j = 0; j < KEY_TILES; j++) {
#pragma unroll
            for (unsigned e = 0; e < 2; e++) {
                float& score = scores[j][half * 2 + e];
                score *= scale;
                if (hides) {
                    const unsigned key = start + j * 8 + lane() % 4 * 2 + e;
                    score = key >= at.end || (at.causal && key > query) ? LOWEST_SCORE : score;
                }
                now = fmaxf(now, score);
            }
        }
        now = fmaxf(now, shuffle_xor(now, 1));
        now = fmaxf(now, shuffle_xor(now, 2));
        const float factor = exp2_approx(highest[half] - now);
        highest[half] = now;
        float share = 0.0f;
#pragma unroll
        for (unsigned j = 0; j < KEY_TILES; j++) {
#pragma unroll
            for (unsigned e = 0; e < 2; e++) {
                float& score = scores[j][half * 2 + e];
                score = exp2_approx(score - now);
                share += score;
            }
        }
        sum[half] = sum[half] * factor + share;
#pragma unroll
        for (unsigned j = 0; j < OUT_TILES; j++) {
            out[j][half * 2] *= factor;
            out[j][half * 2 + 1] *= factor;
        }
    }
}

// The weights of 16 keys from tile `j` of 8 on, as the left operand of a product.
template <class X, unsigned KEY_TILES>
TS_D void pack_weights(unsigned (&a)[4], const float (&scores)[KEY_TILES][4], unsigned j) {
    a[0] = pack2<X>(scores[j][0], scores[j][1]);
    a[1] = pack2<X>(scores[j][2], scores[j][3]);
    a[2] = pack2<X>(scores[j + 1][0], scores[j + 1][1]);
    a[3] = pack2<X>(scores[j + 1][2], scores[j + 1][3]);
}

// Divides by the sums and stores 16 queries of a head of D channels, by way of `staged`, 16 rows of HEAD_STAGED_PITCH floats of
// the warp's own.
template <unsigned D, class X, class Y>
TS_D void store_head(const AttentionParams& p, const Head<X>& at, unsigned row, const float (&out)[D / 8][4],
                     const float (&sum)[2], float* staged, Y* y, Control* control) {
    constexpr unsigned PITCH = HEAD_STAGED_PITCH<D>;
    sync_warp();
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        float total = sum[half];
        total += shuffle_xor(total, 1);
        total += shuffle_xor(total, 2);
        const float over = 1.0f / total;
        float* const to = staged + (half * 8 + lane() / 4) * PITCH + lane() % 4 * 2;
#pragma unroll
        for (unsigned j = 0; j < D / 8; j++) {
            *reinterpret_cast<float2*>(to + j * 8) = make_float2(out[j][half * 2] * over, out[j][half * 2 + 1] * over);
        }
    }
    sync_warp();
    for (unsigned l = lane(); l < 2 * D; l += 32) {
        const unsigned query = row + l / (D / 8);
        const unsigned chunk = l % (D / 8);
        if (query < p.queries) {
            float e[8];
            load8(staged + l / (D / 8) * PITCH + chunk * 8, e);
            store8(y + (size_t(at.item) * p.queries + query) * p.pitch_y + at.head * D + chunk * 8, e, control);
        }
    }
}
