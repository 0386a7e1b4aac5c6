#include "shared/device.cuh"
#include "shared/vector.cuh"

// every y is an x, or zero: depth to space, space to depth, windows and back, a run of pixels, channels as columns
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a thread per 8 channels of an output pixel, channels fastest.
// Layout: NHWC. Where the channels of a part begin on no multiple of 8 they are gathered one by one.
// Numerics: none; a store may narrow.
// Limits: 2^32 chunks of 8 channels.

constexpr unsigned REARRANGE_THREADS = 256;

template <class X, class Y>
TS_D void rearrange(const RearrangeParams& p, const X* x, Y* y, Control* control) {
    const unsigned chunks = p.pitch_y / 8;
    const unsigned id = block_index() * REARRANGE_THREADS + threadIdx.x;
    const unsigned pixel = id / chunks;
    const unsigned c = id % chunks * 8;
    if (pixel >= p.n * p.oh * p.ow) {
        return;
    }
    const unsigned ox = pixel % p.ow;
    const unsigned oy = pixel / p.ow % p.oh;
    const unsigned item = pixel / p.ow / p.oh;
    const unsigned s = p.size;
    // Row and column of the source pixel, and the first channel of the part; space to depth has a source for every
    // channel.
    unsigned row = oy;
    unsigned column = ox;
    unsigned part = 0;
    const bool spread = p.kind == MOVE_SPACE_TO_DEPTH;
    if (p.kind == MOVE_DEPTH_TO_SPACE) {
        row = oy / s;
        column = ox / s;
        part = (oy % s * s + ox % s) * p.c;
    } else if (spread) {
        row = oy * s;
        column = ox * s;
    } else if (p.kind == MOVE_WINDOWS) {
        row = oy / p.across * s + ox / s;
        column = oy % p.across * s + ox % s;
    } else if (p.kind == MOVE_UNWINDOWS) {
        row = oy / s * p.across + ox / s;
        column = oy % s * s + ox % s;
    } else if (p.kind == MOVE_PIXELS) {
        const unsigned at = s + oy * p.ow + ox;
        row = at / p.w;
        column = at % p.w;
    } else {
        column = ox / s;
        part = ox % s * p.c;
    }
    float v[8] = {};
    const X* const base = x + ((size_t(item) * p.h + row) * p.w + column) * p.pitch_x;
    if (row < p.h && column < p.w) {
        if (part % 8 == 0 && (!spread || p.c_x % 8 == 0)) {
            const unsigned sub = spread ? c / p.c_x : 0;
            const X* const from = spread ? base + (size_t(sub / s) * p.w + sub % s) * p.pitch_x : base;
            // y's pads may lie past the end of x's row.
            if (c < p.c) {
                load8(from + part + c - sub * p.c_x, v);
            }
        } else {
#pragma unroll
            for (unsigned i = 0; i < 8; i++) {
                if (c + i < p.c) {
                    const unsigned sub = spread ? (c + i) / p.c_x : 0;
                    const X* const from = spread ? base + (size_t(sub / s) * p.w + sub % s) * p.pitch_x : base;
                    v[i] = to_f32(from[part + c + i - sub * p.c_x]);
                }
            }
        }
    }
    clear_pads(v, c, p.c);
    store8(y + size_t(pixel) * p.pitch_y + c, v, control);
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(REARRANGE_THREADS, rearrange_base_##X##_##W##_##Y, \
        const RearrangeParams p, const X* x, Y* y, Control* control) { \
        rearrange<X, Y>(p, x, y, control); \
    }
TS_TYPES_XY(ENTRY)
