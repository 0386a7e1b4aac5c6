#include "shared/device.cuh"
#include "shared/vector.cuh"

// y = act(concat(x, x2) * a + b), per item and channel
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a thread per 8 channels of a pixel, channels fastest.
// Layout: x, x2 NHWC; ab [n][2][pitch_x + pitch_x2] in the sources' positions; y concatenated without inner padding.
// Numerics: f32, one rounding at the store. y may be x's very range: a thread reads what it writes.
// Limits: 2^32 chunks of 8 channels; where x's channels are no multiple of 8 the chunks past them are gathered.

constexpr unsigned NORM_APPLY_THREADS = 256;

template <class X> TS_D void scale8(const X* source, const float* a, const float* b, float (&v)[8]) {
    float factor[8];
    float offset[8];
    load8(source, v);
    load8(a, factor);
    load8(b, offset);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = v[i] * factor[i] + offset[i];
    }
}

template <class X, class Y>
TS_D void norm_apply(const NormApplyParams& p, const X* x, const X* x2, const float* ab, Y* y, Control* control) {
    const unsigned chunks = p.pitch_y / 8;
    const unsigned id = block_index() * NORM_APPLY_THREADS + threadIdx.x;
    const unsigned pixel = id / chunks;
    const unsigned c = id % chunks * 8;
    if (pixel >= p.n * p.pixels) {
        return;
    }
    const unsigned total = p.pitch_x + p.pitch_x2;
    const float* a = ab + size_t(pixel / p.pixels) * 2 * total;
    const float* b = a + total;
    const X* first = x + size_t(pixel) * p.pitch_x;
    const X* second = x2 + size_t(pixel) * p.pitch_x2;
    float v[8] = {};
    if (p.pitch_x2 == 0 || c + 8 <= p.c) {
        scale8(first + c, a + c, b + c, v);
    } else if (p.c % 8 == 0) {
        // Past x2's pitch there are pad channels only.
        const unsigned s = c - p.c;
        if (s < p.pitch_x2) {
            scale8(second + s, a + p.pitch_x + s, b + p.pitch_x + s, v);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            const unsigned channel = c + i;
            if (channel < p.c + p.c2) {
                const bool in_first = channel < p.c;
                const unsigned position = in_first ? channel : p.pitch_x + channel - p.c;
                const X* at = in_first ? first + channel : second + (channel - p.c);
                v[i] = to_f32(*at) * a[position] + b[position];
            }
        }
    }
    activate8(p.act, v);
    // (a, b) of pad positions may hold anything.
    clear_pads(v, c, p.c + p.c2);
    store8(y + size_t(pixel) * p.pitch_y + c, v, control);
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(NORM_APPLY_THREADS, norm_apply_base_##X##_##W##_##Y, \
        const NormApplyParams p, const X* x, const X* x2, const float* ab, Y* y, Control* control) { \
        norm_apply<X, Y>(p, x, x2, ab, y, control); \
    }
TS_TYPES_XY(ENTRY)
