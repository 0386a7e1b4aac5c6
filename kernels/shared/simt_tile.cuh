// A product on the plain arithmetic units, for any element types: 256 threads, 64 rows by 64 columns, 16 of K at a
// time through shared memory as f32; a thread sums 4 x 4 elements, K in order.
#pragma once

#include "output.cuh"

constexpr unsigned SIMT_THREADS = 256;
constexpr unsigned SIMT_TILE = 64;
constexpr unsigned SIMT_K = 16;
// Padded, so that a transposed store hits different banks.
constexpr unsigned SIMT_PITCH = 68;
// Floats of shared memory: both operands' tiles, and later the sums.
constexpr unsigned SIMT_SHARED = SIMT_TILE * SIMT_PITCH;

// The row and the first of 8 channels that this thread fetches of the left operand (the first 128 threads do), and the row of K
// and chunk of columns that it fetches of the right one (the others do).
TS_D bool simt_loads_left() { return threadIdx.x < 128; }
TS_D unsigned simt_left_row() { return threadIdx.x / 2 % 64; }
TS_D unsigned simt_left_channel() { return threadIdx.x % 2 * 8; }
TS_D unsigned simt_right_row() { return threadIdx.x / 8 % 16; }
TS_D unsigned simt_right_chunk() { return threadIdx.x % 8; }

// `left.next(v)` gives this thread's 8 elements of the next block of 16 of K, zeros outside; `weight` has `k` rows of
// `pitch` columns, of which chunk simt_right_chunk() of the tile begins at `column`; none if `column` is the pitch.
template <class Left, class W>
TS_D void multiply_simt(Left& left, const W* weight, unsigned k, unsigned pitch, unsigned column, float* shared,
                        float (&sums)[4][4]) {
    float* const left_tile = shared;
    float* const right_tile = shared + SIMT_K * SIMT_PITCH;
    const unsigned tx = threadIdx.x % 16 * 4;
    const unsigned ty = threadIdx.x / 16 * 4;
    for (unsigned start = 0; start < k; start += SIMT_K) {
        float v[8] = {};
        if (simt_loads_left()) {
            left.next(v);
        } else if (start + simt_right_row() < k && column < pitch) {
            load8(weight + size_t(start + simt_right_row()) * pitch + column, v);
        }
        sync_block();
        if (simt_loads_left()) {
#pragma unroll
            for (unsigned i = 0; i < 8; i++) {
                left_tile[(simt_left_channel() + i) * SIMT_PITCH + simt_left_row()] = v[i];
            }
        } else {
#pragma unroll
            for (unsigned i = 0; i < 8; i++) {
                right_tile[simt_right_row() * SIMT_PITCH + simt_right_chunk() * 8 + i] = v[i];
            }
        }
        sync_block();
#pragma unroll
        for (unsigned i = 0; i < SIMT_K; i++) {
            const float4 a = *reinterpret_cast<const float4*>(left_tile + i * SIMT_PITCH + ty);
            const float4 b = *reinterpret_cast<const float4*>(right_tile + i * SIMT_PITCH + tx);
            const float rows[4] = {a.x, a.y, a.z, a.w};
            const float columns[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int r = 0; r < 4; r++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    sums[r][c] = fmaf(rows[r], columns[c], sums[r][c]);
                }
            }
        }
    }
}

// Hands the tile, whose first row is `first`, to the output's ending.
template <class Output>
TS_D void finish_simt(const Output& out, const Columns& columns, unsigned first, float* shared,
                      const float (&sums)[4][4]) {
    const unsigned tx = threadIdx.x % 16 * 4;
    const unsigned ty = threadIdx.x / 16 * 4;
    sync_block();
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            shared[(ty + r) * SIMT_PITCH + tx + c] = sums[r][c];
        }
    }
    sync_block();
    const unsigned step = columns.gated ? 2 : 1;
#pragma unroll 1
    for (unsigned i = threadIdx.x * step; i < SIMT_TILE * 8; i += SIMT_THREADS * step) {
        const unsigned row = i / 8;
        finish_staged(out, columns, first + row, shared + row * SIMT_PITCH + i % 8 * 8, i % 8);
    }
}
