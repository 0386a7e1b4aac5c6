#include "shared/device.cuh"
#include "shared/vector.cuh"

// along one axis y[o] = sum over i < taps of weight[o][i] * x[clamp(first[o] + i)]
// Bindings: abi's order.
// Launch: base 256 threads, no dynamic shared memory; a thread per 8 channels of an output pixel, channels fastest.
// Layout: NHWC; row o of the table is the first index, then the weights.
// Numerics: f32, taps in order, one rounding at the store.
// Limits: 2^32 chunks of 8 channels.

constexpr unsigned RESAMPLE_THREADS = 256;
// Whole numbers up to here are exact.
constexpr float FARTHEST = 16777216.0f;

template <class X, class Y>
TS_D void resample(const ResampleParams& p, const X* x, const float* table, Y* y, Control* control) {
    const bool along_rows = p.axis == 0;
    const unsigned oh = along_rows ? p.out : p.h;
    const unsigned ow = along_rows ? p.w : p.out;
    const unsigned chunks = p.pitch / 8;
    const unsigned id = block_index() * RESAMPLE_THREADS + threadIdx.x;
    const unsigned pixel = id / chunks;
    const unsigned c = id % chunks * 8;
    if (pixel >= p.n * oh * ow) {
        return;
    }
    const unsigned column = pixel % ow;
    const unsigned row = pixel / ow % oh;
    const unsigned item = pixel / ow / oh;
    // Where the line of pixels along the axis begins, and how far apart they are.
    const X* line = x + ((size_t(item) * p.h + (along_rows ? 0 : row)) * p.w + (along_rows ? column : 0)) * p.pitch + c;
    const size_t step = size_t(along_rows ? p.w : 1) * p.pitch;
    const int last = int(along_rows ? p.h : p.w) - 1;
    const unsigned o = along_rows ? row : column;
    const float* entry = table + (size_t((p.parts & 1u) != 0 ? item : 0) * p.out + o) * p.pitch_table;
    const int first = int(fminf(fmaxf(entry[0], -FARTHEST), FARTHEST));
    float v[8] = {};
    for (unsigned i = 0; i < p.taps; i++) {
        const int at = min(max(first + int(i), 0), last);
        const float weight = entry[1 + i];
        float e[8];
        load8(line + at * step, e);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            v[j] = fmaf(weight, e[j], v[j]);
        }
    }
    store8(y + size_t(pixel) * p.pitch + c, v, control);
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(RESAMPLE_THREADS, resample_base_##X##_##W##_##Y, \
        const ResampleParams p, const X* x, const float* table, Y* y, Control* control) { \
        resample<X, Y>(p, x, table, y, control); \
    }
TS_TYPES_XY(ENTRY)
