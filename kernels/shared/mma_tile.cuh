// A product on tensor cores: 256 threads, 128 rows by COLUMNS (128 or 64), 64 bytes of K at a time (32 elements of the half
// types, 16 of f32) through STAGES buffers that cp.async fills. Sums are f32, K in order 16 by 16; of f32, whose factors are
// rounded to tf32, 8 by 8.
//
// Shared memory, per stage: the left operand as 128 rows of 4 chunks of 16 bytes, chunk c of row r at place c ^ (r / 2 % 4);
// the right one as rows of K of COLUMNS / CHUNK chunks, chunk c of row r at place c ^ (r % 8), of f32 at c ^ (r % 4 * 2). So
// the 8 rows of a matrix that ldmatrix reads at once lie in different banks, and so do the 4 rows by 8 columns of f32 that a
// warp loads.
#pragma once

#include "staged.cuh"

constexpr unsigned MMA_THREADS = 256;
constexpr unsigned MMA_ROWS = 128;
// Rows of the left operand whose chunks a thread fetches: MMA_LEFT_ROWS of them, 64 apart.
constexpr unsigned MMA_LEFT_ROWS = 2;

template <unsigned COLUMNS, class T> struct MmaTile {
    static constexpr unsigned STAGES = COLUMNS == 128 ? 3 : 4;
    // Elements of 16 bytes, and of K in a stage.
    static constexpr unsigned CHUNK = 16 / sizeof(T);
    static constexpr unsigned K = 4 * CHUNK;
    // Warps across the columns, 32 columns each, and 16-row tiles of a warp.
    static constexpr unsigned ACROSS = COLUMNS / 32;
    static constexpr unsigned DOWN = 8 / ACROSS;
    static constexpr unsigned ROW_TILES = MMA_ROWS / DOWN / 16;
    static constexpr unsigned CHUNKS = COLUMNS / CHUNK;
    static constexpr unsigned LEFT = MMA_ROWS * K;
    static constexpr unsigned STAGE = LEFT + K * COLUMNS;
    static constexpr unsigned BYTES = STAGES * STAGE * sizeof(T);
    // The same memory holds 16 rows of sums per warp afterwards.
    static_assert(BYTES >= 8 * STAGED_FLOATS * 4, "staging");

    // Where chunk `c` of row `row` of the right operand lies.
    static TS_D unsigned right_place(unsigned row, unsigned c) { return c ^ (sizeof(T) == 4 ? row % 4 * 2 : row % 8); }
};

template <unsigned COLUMNS, class T> using MmaSums = float[MmaTile<COLUMNS, T>::ROW_TILES][4][4];

TS_D unsigned mma_left_row() { return threadIdx.x / 4; }
TS_D unsigned mma_left_chunk() { return threadIdx.x % 4; }

// `left.address(i)` is this thread's chunk of row mma_left_row() + 64 i in the block of K at hand, null for zeros;
// `left.advance()` goes on by a block. `weight` has `k` rows of `pitch` columns.
template <unsigned COLUMNS, class Left, class T>
TS_D void copy_stage(Left& left, const T* weight, unsigned k, unsigned pitch, const Columns& columns, unsigned block,
                     T* stage) {
    using Tile = MmaTile<COLUMNS, T>;
    {
        const unsigned row = mma_left_row();
        const unsigned place = mma_left_chunk() ^ (row / 2 % 4);
#pragma unroll
        for (unsigned i = 0; i < MMA_LEFT_ROWS; i++) {
            const T* from = left.address(i);
            cp_async16(stage + (row + 64 * i) * Tile::K + place * Tile::CHUNK, from != nullptr ? from : weight, from != nullptr);
        }
        left.advance();
    }
    const unsigned chunk = threadIdx.x % Tile::CHUNKS;
    // Columns come in chunks of 8, whatever the type.
    const unsigned eight = chunk * Tile::CHUNK / 8;
    const unsigned column = columns.weight(eight) + chunk * Tile::CHUNK % 8;
    const bool exists = columns.channel(eight) < columns.pitch;
#pragma unroll
    for (unsigned row = threadIdx.x / Tile::CHUNKS; row < Tile::K; row += MMA_THREADS / Tile::CHUNKS) {
        const unsigned at = block * Tile::K + row;
        const bool valid = exists && at < k;
        cp_async16(stage + Tile::LEFT + row * COLUMNS + Tile::right_place(row, chunk) * Tile::CHUNK,
                   valid ? weight + size_t(at) * pitch + column : weight, valid);
    }
}

// Fragment of the left operand for the warp's row tile `i`, 32 bytes of K from `step` * 32 on.
template <unsigned COLUMNS, class T> TS_D void load_left(unsigned (&a)[4], const T* stage, unsigned step, unsigned i) {
    using Tile = MmaTile<COLUMNS, T>;
    const unsigned row = warp() / Tile::ACROSS * (Tile::ROW_TILES * 16) + lane() % 16 + 16 * i;
    const unsigned place = (2 * step + lane() / 16) ^ (row / 2 % 4);
    ldmatrix_x4(a, stage + row * Tile::K + place * Tile::CHUNK);
}

// One block of K out of a stage.
template <unsigned COLUMNS, class T>
TS_D void multiply_stage(const T* stage, MmaSums<COLUMNS, T>& sums) {
    using Tile = MmaTile<COLUMNS, T>;
    const unsigned first_chunk = warp() % Tile::ACROSS * 4 + lane() / 16;
#pragma unroll
    for (unsigned step = 0; step < Tile::K / 16; step++) {
        unsigned b[2][4];
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            const unsigned row = step * 16 + lane() % 16;
            const unsigned place = Tile::right_place(row, first_chunk + 2 * j);
            ldmatrix_x4_trans(b[j], stage + Tile::LEFT + row * COLUMNS + place * 8);
        }
#pragma unroll
        for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
            unsigned a[4];
            load_left<COLUMNS>(a, stage, step, i);
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                const unsigned pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                mma_m16n8k16<T>(sums[i][j], a, pair);
            }
        }
    }
}

// The same of f32, through tf32: a register of ldmatrix is an element here. Both operands' elements are rounded, as the
// tensor cores would cut them off.
template <unsigned COLUMNS> TS_D void multiply_tf32_stage(const float* stage, MmaSums<COLUMNS, float>& sums) {
    using Tile = MmaTile<COLUMNS, float>;
    const unsigned first_column = warp() % Tile::ACROSS * 32 + lane() / 4;
#pragma unroll
    for (unsigned step = 0; step < Tile::K / 8; step++) {
        unsigned b[4][2];
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            const unsigned column = first_column + 8 * j;
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = step * 8 + half * 4 + lane() % 4;
                const unsigned place = Tile::right_place(row, column / 4);
                b[j][half] = f32_to_tf32(stage[Tile::LEFT + row * COLUMNS + place * 4 + column % 4]);
            }
        }
#pragma unroll
        for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
            unsigned a[4];
            load_left<COLUMNS>(a, stage, step, i);
#pragma unroll
            for (unsigned r = 0; r < 4; r++) {
                a[r] = f32_to_tf32(bits_to_f32(a[r]));
            }
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                mma_m16n8k8_tf32(sums[i][j], a, b[j]);
            }
        }
    }
}

template <unsigned COLUMNS, class Left, class T>
TS_D void multiply_mma(Left& left, const T* weight, unsigned k, unsigned pitch, const Columns& columns, T* shared,
                       MmaSums<COLUMNS, T>& sums) {
    using Tile = MmaTile<COLUMNS, T>;
    const unsigned blocks = ceil_div(k, Tile::K);
#pragma unroll
    for (unsigned s = 0; s + 1 < Tile::STAGES; s++) {
        if (s < blocks) {
            copy_stage<COLUMNS>(left, weight, k, pitch, columns, s, shared + s * Tile::STAGE);
        }
        cp_async_commit();
    }
    unsigned fill = Tile::STAGES - 1;
    unsigned drain = 0;
    for (unsigned block = 0; block < blocks; block++) {
        cp_async_wait<int(Tile::STAGES) - 2>();
        // Behind this barrier everybody's copies of this block have landed, and nobody reads the stage that is filled.
        sync_block();
        const unsigned next = block + Tile::STAGES - 1;
        if (next < blocks) {
            copy_stage<COLUMNS>(left, weight, k, pitch, columns, next, shared + fill * Tile::STAGE);
        }
        cp_async_commit();
        if constexpr (sizeof(T) == 4) {
            multiply_tf32_stage<COLUMNS>(shared + drain * Tile::STAGE, sums);
        } else {
            multiply_stage<COLUMNS>(shared + drain * Tile::STAGE, sums);
        }
        fill = fill + 1 == Tile::STAGES ? 0 : fill + 1;
        drain = drain + 1 == Tile::STAGES ? 0 : drain + 1;
    }
    cp_async_wait<0>();
    sync_block();
}

// Hands the tile, whose first row is `first`, to the output's ending: each warp stages 16 rows of its 32 columns.
template <unsigned COLUMNS, class T, class Output>
TS_D void finish_mma(const Output& out, const Columns& columns, unsigned first, float* shared,
                     const MmaSums<COLUMNS, T>& sums) {
    using Tile = MmaTile<COLUMNS, T>;
    const unsigned chunk = warp() % Tile::ACROSS * 4;
    // One copy of the ending, so that the code stays small: the sums of a row tile are selected, not indexed.
#pragma unroll 1
    for (unsigned i = 0; i < Tile::ROW_TILES; i++) {
        float part[4][4];
#pragma unroll
        for (unsigned r = 0; r < Tile::ROW_TILES; r++) {
#pragma unroll
            for (unsigned j = 0; j < 16; j++) {
                part[j / 4][j % 4] = r == 0 || i == r ? sums[r][j / 4][j % 4] : part[j / 4][j % 4];
            }
        }
        const unsigned row = first + (warp() / Tile::ACROSS * Tile::ROW_TILES + i) * 16;
        finish_part(out, columns, row, chunk, part, shared + warp() * STAGED_FLOATS);
    }
}

// How gemm_product and conv2d_product multiply, operands of type T.
template <unsigned WIDTH, class T> struct Mma {
    static constexpr unsigned COLUMNS = WIDTH;
    static constexpr unsigned ROWS = MMA_ROWS;
    static constexpr unsigned K = MmaTile<WIDTH, T>::K;
    static constexpr unsigned LEFT_ROWS = MMA_LEFT_ROWS;
    static constexpr unsigned LEFT_APART = 64;
    using Sums = MmaSums<COLUMNS, T>;
    static TS_D unsigned left_row() { return mma_left_row(); }
    static TS_D unsigned left_channel() { return mma_left_chunk() * MmaTile<COLUMNS, T>::CHUNK; }
    template <class Left>
    static TS_D void multiply(Left& left, const T* weight, unsigned k, unsigned pitch, const Columns& columns, Sums& sums) {
        multiply_mma<COLUMNS>(left, weight, k, pitch, columns, dynamic_shared<T>(), sums);
    }
    template <class Output>
    static TS_D void finish(const Output& out, const Columns& columns, unsigned first, const Sums& sums) {
        finish_mma<COLUMNS, T>(out, columns, first, dynamic_shared<float>(), sums);
    }
};
