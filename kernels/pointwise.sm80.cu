#include "shared/device.cuh"
#include "shared/vector.cuh"

// y[p][c] = clamp(act(alpha a[p][offset + c] + beta b[p][c] + gamma), lo, hi)
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a thread per 8 channels of a pixel, channels fastest.
// Layout: NHWC; `a` may have more channels than y, from any offset on (a channel slice).
// Numerics: f32, one rounding at the store. y may be a's very range: a thread reads what it writes.
// Limits: 2^32 chunks of 8 channels; an offset that is no multiple of 8 gathers channels one by one.

constexpr unsigned POINTWISE_THREADS = 256;

template <class X, class Y>
TS_D void pointwise(const PointwiseParams& p, const X* a, const X* b, const float* table, Y* y, Control* control) {
    const unsigned chunks = p.pitch_y / 8;
    const unsigned id = block_index() * POINTWISE_THREADS + threadIdx.x;
    const unsigned pixel = id / chunks;
    const unsigned c = id % chunks * 8;
    if (pixel >= p.n * p.pixels) {
        return;
    }
    float alpha = p.alpha;
    float beta = p.beta;
    if ((p.parts & 2u) != 0) {
        const float* row = table + size_t(item_of(control, pixel / p.pixels).step_row) * 8;
        alpha = row[0];
        beta = row[1];
    }
    float v[8] = {};
    const X* source = a + size_t(pixel) * p.pitch_a;
    if (p.offset % 8 == 0) {
        // y's pad channels may lie past the end of a's row.
        if (p.offset + c < p.pitch_a) {
            load8(source + p.offset + c, v);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            if (c + i < p.c) {
                v[i] = to_f32(source[p.offset + c + i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = alpha * v[i] + p.gamma;
    }
    if ((p.parts & 1u) != 0) {
        float w[8];
        load8(b + size_t(pixel) * p.pitch_b + c, w);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] += beta * w[i];
        }
    }
    activate8(p.act, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        // Comparisons, not minimum and maximum: a NaN must stay one.
        v[i] = v[i] < p.lo ? p.lo : v[i];
        v[i] = v[i] > p.hi ? p.hi : v[i];
    }
    clear_pads(v, c, p.c);
    store8(y + size_t(pixel) * p.pitch_y + c, v, control);
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(POINTWISE_THREADS, pointwise_base_##X##_##W##_##Y, \
        const PointwiseParams p, const X* a, const X* b, const float* table, Y* y, Control* control) { \
        pointwise<X, Y>(p, a, b, table, y, control); \
    }
TS_TYPES_XY(ENTRY)
