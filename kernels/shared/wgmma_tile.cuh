// A product on Hopper's tensor cores: 256 threads, two warpgroups of 64 rows each, 128 rows by COLUMNS (128 or 64), 64 of K at a
// time through STAGES buffers that cp.async fills. Sums are f32, K in order 16 by 16.
//
// Shared memory, per stage, as wgmma.cuh has its operands: the left one as 128 rows of 8 chunks (8 elements, 16 bytes each), chunk
// c of row r at place c ^ (r % 8); the right one in slabs of 64 columns, each 64 rows of K of 8 chunks, likewise.
#pragma once

#include "staged.cuh"
#include "wgmma.cuh"

constexpr unsigned WGMMA_THREADS = 256;
// Blocks that a processor runs at a time, so that one multiplies while the other ends.
constexpr unsigned WGMMA_BLOCKS = 2;
constexpr unsigned WGMMA_ROWS = 128;
constexpr unsigned WGMMA_K = 64;
// Rows of the left operand whose chunks a thread fetches, and how far apart they are.
constexpr unsigned WGMMA_LEFT_ROWS = 4;
constexpr unsigned WGMMA_LEFT_APART = 32;

template <unsigned COLUMNS> struct WgmmaTile {
    static constexpr unsigned STAGES = COLUMNS == 128 ? 3 : 4;
    static constexpr unsigned CHUNKS = COLUMNS / 8;
    static constexpr unsigned LEFT = WGMMA_ROWS * WGMMA_K;
    static constexpr unsigned SLAB = WGMMA_K * 64;
    static constexpr unsigned STAGE = LEFT + WGMMA_K * COLUMNS;
    static constexpr unsigned BYTES = STAGES * STAGE * 2;
    // Sums of a thread.
    static constexpr unsigned SUMS = COLUMNS / 2;
    static_assert(BYTES == 98304, "what launch.txt says");
};

TS_D unsigned wgmma_left_row() { return threadIdx.x / 8; }
TS_D unsigned wgmma_left_chunk() { return threadIdx.x % 8; }

// As copy_stage of mma_tile.cuh: `left.address(i)` is this thread's chunk of row wgmma_left_row() + 32 i.
template <unsigned COLUMNS, class Left, class T>
TS_D void copy_wgmma_stage(Left& left, const T* weight, unsigned k, unsigned pitch, const Columns& columns, unsigned block,
                           T* stage) {
    using Tile = WgmmaTile<COLUMNS>;
    {
        const unsigned row = wgmma_left_row();
        const unsigned place = wgmma_left_chunk() ^ (row % 8);
#pragma unroll
        for (unsigned i = 0; i < WGMMA_LEFT_ROWS; i++) {
            const T* from = left.address(i);
            cp_async16(stage + (row + WGMMA_LEFT_APART * i) * WGMMA_K + place * 8, from != nullptr ? from : weight,
                       from != nullptr);
        }
        left.advance();
    }
    const unsigned chunk = threadIdx.x % Tile::CHUNKS;
    const unsigned column = columns.weight(chunk);
    const bool exists = columns.channel(chunk) < columns.pitch;
    T* const slab = stage + Tile::LEFT + chunk / 8 * Tile::SLAB;
#pragma unroll
    for (unsigned row = threadIdx.x / Tile::CHUNKS; row < WGMMA_K; row += WGMMA_THREADS / Tile::CHUNKS) {
        const unsigned at = block * WGMMA_K + row;
        const bool valid = exists && at < k;
        cp_async16(slab + row * 64 + (chunk % 8 ^ (row % 8)) * 8, valid ? weight + size_t(at) * pitch + column : weight,
                   valid);
    }
}

template <class T> TS_D void wgmma_step(float (&sums)[64], unsigned long long a, unsigned long long b) {
    wgmma_m64n128k16<T>(sums, a, b);
}
template <class T> TS_D void wgmma_step(float (&sums)[32], unsigned long long a, unsigned long long b) {
    wgmma_m64n64k16<T>(sums, a, b);
}

// Begins the products of one stage.
template <unsigned COLUMNS, class T>
TS_D void multiply_wgmma_stage(const T* stage, float (&sums)[WgmmaTile<COLUMNS>::SUMS]) {
    using Tile = WgmmaTile<COLUMNS>;
    const T* const left = stage + threadIdx.x / 128 * (64 * WGMMA_K);
    wgmma_hold(sums);
    wgmma_fence();
#pragma unroll
    for (unsigned step = 0; step < WGMMA_K / 16; step++) {
        wgmma_step<T>(sums, wgmma_descriptor(left + step * 16, 0, WGMMA_STRIDE),
                      wgmma_descriptor(stage + Tile::LEFT + step * 16 * 64, Tile::SLAB * 2, WGMMA_STRIDE));
    }
    wgmma_commit();
}

// As multiply_mma of mma_tile.cuh.
template <unsigned COLUMNS, class Left, class T>
TS_D void multiply_wgmma(Left& left, const T* weight, unsigned k, unsigned pitch, const Columns& columns, T* shared,
                         float (&sums)[WgmmaTile<COLUMNS>::SUMS]) {
    using Tile = WgmmaTile<COLUMNS>;
    const unsigned blocks = ceil_div(k, WGMMA_K);
#pragma unroll
    for (unsigned s = 0; s + 1 < Tile::STAGES; s++) {
        if (s < blocks) {
            copy_wgmma_stage<COLUMNS>(left, weight, k, pitch, columns, s, shared + s * Tile::STAGE);
        }
        cp_async_commit();
    }
    unsigned fill = Tile::STAGES - 1;
    unsigned drain = 0;
    for (unsigned block = 0; block < blocks; block++) {
        cp_async_wait<int(Tile::STAGES) - 2>();
        fence_async_shared();
        // Behind this barrier everybody's copies of this block can be multiplied, and everybody has waited for the products of
        // the stage that is filled.
        sync_block();
        multiply_wgmma_stage<COLUMNS>(shared + drain * Tile::STAGE, sums);
        // The addresses of the next copies are found while the tensor cores work.
        const unsigned next = block + Tile::STAGES - 1;
        if (next < blocks) {
            copy_wgmma_stage<COLUMNS>(left, weight, k, pitch, columns, next, shared + fill * Tile::STAGE);
        }
        cp_async_commit();
        wgmma_wait<0>();
        wgmma_hold(sums);
        fill = fill + 1 == Tile::STAGES ? 0 : fill + 1;
        drain = drain + 1 == Tile::STAGES ? 0 : drain + 1;
    }
    cp_async_wait<0>();
    sync_block();
}

// Hands the tile, whose first row is `first`, to the output's ending: each warp its 16 rows, 32 columns after another.
template <unsigned COLUMNS, class Output>
TS_D void finish_wgmma(const Output& out, const Columns& columns, unsigned first, float* shared,
                       const float (&sums)[WgmmaTile<COLUMNS>::SUMS]) {
    // One copy of the ending, as in mma_tile.cuh.
#pragma unroll 1
    for (unsigned i = 0; i < COLUMNS / 32; i++) {
        float part[4][4];
#pragma unroll
        for (unsigned r = 0; r < COLUMNS / 32; r++) {
#pragma unroll
            for (unsigned j = 0; j < 16; j++) {
                part[j / 4][j % 4] = r == 0 || i == r ? sums[r * 16 + j] : part[j / 4][j % 4];
            }
        }
        finish_part(out, columns, first + warp() * 16, i * 4, part, shared + warp() * STAGED_FLOATS);
    }
}

// How gemm_product and conv2d_product multiply.
template <unsigned WIDTH> struct Wgmma {
    static constexpr unsigned COLUMNS = WIDTH;
    static constexpr unsigned ROWS = WGMMA_ROWS;
    static constexpr unsigned K = WGMMA_K;
    static constexpr unsigned LEFT_ROWS = WGMMA_LEFT_ROWS;
    static constexpr unsigned LEFT_APART = WGMMA_LEFT_APART;
    using Sums = float[WgmmaTile<COLUMNS>::SUMS];
    static TS_D unsigned left_row() { return wgmma_left_row(); }
    static TS_D unsigned left_channel() { return wgmma_left_chunk() * 8; }
    template <class T> static TS_D T* shared() { return swizzled_shared<T>(); }
    template <class Left, class T>
    static TS_D void multiply(Left& left, const T* weight, unsigned k, unsigned pitch, const Columns& columns, Sums& sums) {
        multiply_wgmma<COLUMNS>(left, weight, k, pitch, columns, shared<T>(), sums);
    }
    template <class Output>
    static TS_D void finish(const Output& out, const Columns& columns, unsigned first, const Sums& sums) {
        finish_wgmma<COLUMNS>(out, columns, first, shared<float>(), sums);
    }
};
