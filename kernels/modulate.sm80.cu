#include "shared/device.cuh"
#include "shared/vector.cuh"

// y = act(x * (1 + gamma) + beta), gamma and beta for every value
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a thread per 8 channels of a pixel, channels fastest.
// Layout: NHWC; gb has gamma in channels 0 .. c, beta in c .. 2 c.
// Numerics: f32, one rounding at the store. y may be x's very range: a thread reads what it writes.
// Limits: 2^32 chunks of 8 channels; where c is no multiple of 8, beta is gathered channel by channel.

constexpr unsigned MODULATE_THREADS = 256;

template <class X, class Y>
TS_D void modulate(const ModulateParams& p, const X* x, const X* gb, Y* y, Control* control) {
    const unsigned chunks = p.pitch / 8;
    const unsigned id = block_index() * MODULATE_THREADS + threadIdx.x;
    const unsigned pixel = id / chunks;
    const unsigned c = id % chunks * 8;
    if (pixel >= p.pixels) {
        return;
    }
    const X* const row = gb + size_t(pixel) * p.pitch_gb;
    float v[8], gamma[8], beta[8] = {};
    load8(x + size_t(pixel) * p.pitch + c, v);
    load8(row + c, gamma);
    if (p.c % 8 == 0) {
        load8(row + p.c + c, beta);
    } else {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            if (c + i < p.c) {
                beta[i] = to_f32(row[p.c + c + i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = fmaf(v[i], 1.0f + gamma[i], beta[i]);
    }
    activate8(p.act, v);
    clear_pads(v, c, p.c);
    store8(y + size_t(pixel) * p.pitch + c, v, control);
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(MODULATE_THREADS, modulate_base_##X##_##W##_##Y, \
        const ModulateParams p, const X* x, const X* gb, Y* y, Control* control) { \
        modulate<X, Y>(p, x, gb, y, control); \
    }
TS_TYPES_XY(ENTRY)
