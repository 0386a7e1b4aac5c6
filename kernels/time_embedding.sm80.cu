#include "shared/device.cuh"
#include "shared/vector.cuh"

// y[row] = sin(t f_0) .. sin(t f_(half - 1)), cos(t f_0) ..; f_i = exp(-ln(max_period) i / (half - shift))
// Bindings: abi's order.
// Launch: base 128 threads, no dynamic shared memory; a thread per 8 channels of a row, channels fastest.
// Layout: t [rows] with pitch 8, f32; y [rows][pitch].
// Numerics: f32. sin and cos are computed here: the library's reduction of large arguments needs local memory.
// Limits: |t f| below 8192, so that the reduction by pi / 2 stays exact in its first part.
// Source: Cephes' minimax polynomials for single precision.

constexpr unsigned TIME_EMBEDDING_THREADS = 128;

// sin(x + quarter * pi / 2) for x >= 0.
TS_D float sin_quarter(float x, unsigned quarter) {
    const float n = rintf(x * 0.63661977236758134f);
    const float r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.54978995489188216e-8f;
    const float z = r * r;
    const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    const float even = (2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f;
    const float c = even * z * z - 0.5f * z + 1.0f;
    const unsigned quadrant = (unsigned(n) + quarter) & 3u;
    const float v = (quadrant & 1u) != 0 ? c : s;
    return (quadrant & 2u) != 0 ? -v : v;
}

template <class Y> TS_D void time_embedding(const TimeEmbeddingParams& p, const float* t, Y* y, Control* control) {
    const unsigned chunks = p.pitch / 8;
    const unsigned id = block_index() * TIME_EMBEDDING_THREADS + threadIdx.x;
    const unsigned row = id / chunks;
    const unsigned c = id % chunks * 8;
    if (row >= p.rows) {
        return;
    }
    const float value = t[size_t(row) * 8];
    const unsigned half = p.dim / 2;
    const float rate = -logf(p.max_period);
    float v[8] = {};
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
        const unsigned channel = c + i;
        if (channel < p.dim) {
            const bool second = channel >= half;
            const unsigned at = second ? channel - half : channel;
            const float angle = value * expf(rate * float(at) / (float(half) - p.shift));
            const bool cosine = second != (p.flip != 0);
            // sin(-a) = -sin(a), cos(-a) = cos(a).
            const float e = sin_quarter(fabsf(angle), cosine ? 1u : 0u);
            v[i] = angle < 0.0f && !cosine ? -e : e;
        }
    }
    store8(y + size_t(row) * p.pitch + c, v, control);
}

#define ENTRY(X, W, Y) \
    TS_ENTRY(TIME_EMBEDDING_THREADS, time_embedding_base_##X##_##W##_##Y, \
        const TimeEmbeddingParams p, const X* t, Y* y, Control* control) { \
        time_embedding<Y>(p, t, y, control); \
    }
ENTRY(f32, f32, f32)
ENTRY(f32, f32, f16)
ENTRY(f32, f32, bf16)
