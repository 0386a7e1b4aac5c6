#include "shared/device.cuh"
#include "shared/vector.cuh"

// y = (x - mean) / sqrt(var + eps) * weight + bias over the channels of each row
// Bindings: abi's order.
// Launch: base 128 threads, no dynamic shared memory; a warp per row, 4 rows a block.
// Layout: rows of pitch channels; affine weight then bias, pitch values each.
// Numerics: f32, two passes: mean as a shift plus the mean distance from it, then the mean squared distance.
//   Lanes sum their chunks in order, a butterfly sums the lanes: the same for every row of a width.
// Limits: none.

constexpr unsigned LAYER_NORM_THREADS = 128;

template <class X, class Y>
TS_D void layer_norm(const LayerNormParams& p, const X* x, const float* affine, Y* y, Control* control) {
    const unsigned row = block_index() * (LAYER_NORM_THREADS / 32) + warp();
    if (row >= p.rows) {
        return;
    }
    const X* source = x + size_t(row) * p.pitch;
    const float over = 1.0f / float(p.c);
    const float shift = to_f32(*source);
    float v[8];
    float sum = 0.0f;
    for (unsigned c = lane() * 8; c < p.pitch; c += 256) {
        load8(source + c, v);
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            sum += c + i < p.c ? v[i] - shift : 0.0f;
        }
    }
    const float mean = shift + warp_sum(sum) * over;
    sum = 0.0f;
    for (unsigned c = lane() * 8; c < p.pitch; c += 256) {
        load8(source + c, v);
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            const float d = c + i < p.c ? v[i] - mean : 0.0f;
            sum += d * d;
        }
    }
    const float scale = 1.0f / sqrtf(warp_sum(sum) * over + p.eps);
    for (unsigned c = lane() * 8; c < p.pitch; c += 256) {
        float weight[8];
        float bias[8];
        load8(source + c, v);
        load8(affine + c, weight);
        load8(affine + p.pitch + c, bias);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = (v[i] - mean) * scale * weight[i] + bias[i];
        }
        clear_pads(v, c, p.c);
        store8(y + size_t(row) * p.pitch + c, v, control);
    }
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(LAYER_NORM_THREADS, layer_norm_base_##X##_##W##_##Y, \
        const LayerNormParams p, const X* x, const float* affine, Y* y, Control* control) { \
        layer_norm<X, Y>(p, x, affine, y, control); \
    }
TS_TYPES_XY(ENTRY)
