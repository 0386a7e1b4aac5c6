// A product on Hopper's tensor cores whose operands the tensor memory accelerator brings: 384 threads, of which the first warpgroup's
// first thread copies and the other two warpgroups multiply, 64 * HALVES rows each, by 128 columns, 64 of K at a time
// through STAGES buffers. Blocks stay: each takes one tile after another, and the copies for the next begin while
// this one's result is stored. Sums are f32, K in order 16 by 16.
//
// Shared memory: STAGES times the left operand, rows of 64 of K, and the right one, two slabs of 64 columns by 64 rows of K, all as
// wgmma.cuh has operands; then each warp's staged sums; then the barriers.
#pragma once

#include "staged.cuh"
#include "tma.cuh"
#include "turn.cuh"
#include "wgmma_tile.cuh"

constexpr unsigned TMA_THREADS = 384;
// Registers of a thread that copies, and of one that multiplies: 128 and 256 of them share 65536.
constexpr unsigned TMA_COPIER_REGISTERS = 40;
constexpr unsigned TMA_WORKER_REGISTERS = 232;
constexpr unsigned TMA_COLUMNS = 128;
constexpr unsigned TMA_K = 64;
// Warps that multiply.
constexpr unsigned TMA_WORKERS = 8;
// Tiles down, at most, of which blocks take all columns before they go further down: what blocks that run at the same time read is so
// nearer to a square.
constexpr unsigned TMA_TOGETHER = 12;

template <unsigned HALVES> struct TmaTile {
    static constexpr unsigned ROWS = 2 * 64 * HALVES;
    static constexpr unsigned STAGES = HALVES == 2 ? 4 : 6;
    static constexpr unsigned LEFT = ROWS * TMA_K;
    static constexpr unsigned SLAB = 64 * TMA_K;
    static constexpr unsigned STAGE = LEFT + 2 * SLAB;
    static constexpr unsigned STAGES_BYTES = STAGES * STAGE * 2;
    static constexpr unsigned STAGED_BYTES = TMA_WORKERS * STAGED_FLOATS * 4;
    // A full and an empty one for each stage, and one for what has been stored.
    static constexpr unsigned BARRIERS = 2 * STAGES + 1;
    static constexpr unsigned BYTES = STAGES_BYTES + STAGED_BYTES + BARRIERS * sizeof(Barrier);
    static_assert(BYTES <= 217216, "what launch.txt says");
};

template <unsigned HALVES> TS_D Barrier* barriers_tma() {
    using Tile = TmaTile<HALVES>;
    return reinterpret_cast<Barrier*>(swizzled_shared<unsigned char>() + Tile::STAGES_BYTES + Tile::STAGED_BYTES);
}

// For endings that read again what other warps have stored. One for all tiles of a warp.
template <unsigned HALVES> struct Stored {
    unsigned parity = 0;

    // Returns when all multiplying warps have come here: behind it, what they stored before is there.
    TS_D void wait() {
        Barrier* const barrier = barriers_tma<HALVES>() + 2 * TmaTile<HALVES>::STAGES;
        sync_warp();
        if (lane() == 0) {
            mbarrier_arrive(barrier);
        }
        mbarrier_wait(barrier, parity);
        parity ^= 1;
    }
};

// What blocks take one after another: tiles of a launch, each in `parts` of its K, of which a block takes `together`, one part or all
// of them, before its next tile.
struct TmaTiles {
    unsigned down;
    unsigned across;
    unsigned parts = 1;
    unsigned together = 1;

    TS_D unsigned tiles() const { return down * across; }
    // Turns of blocks, and the tile and first part of one.
    TS_D unsigned turns() const { return tiles() * (parts / together); }
    TS_D unsigned tile(unsigned turn) const { return turn % tiles(); }
    TS_D unsigned part(unsigned turn) const { return turn / tiles() * together; }

    // First and end of the blocks of K that are a part's, of `blocks`.
    TS_D uint2 range(unsigned part, unsigned blocks) const {
        return make_uint2(blocks * part / parts, blocks * (part + 1) / parts);
    }

    // Row (x) and column (y) of a tile.
    TS_D uint2 at(unsigned index) const {
        const unsigned first = index / (TMA_TOGETHER * across) * TMA_TOGETHER;
        const unsigned height = min(TMA_TOGETHER, down - first);
        const unsigned inside = index - first * across;
        return make_uint2(first + inside % height, inside / height);
    }
};

// The copying thread's part: brings every block of K of every tile. `source` knows the operands: `blocks()` of K, `begin(tile, block)`
// before the first of a row of blocks, and `load(block, left, right, barrier)`, which copies one block's STAGE elements.
template <class Tile, class Source, class T>
TS_D void copy_tma(Source& source, const TmaTiles& tiles, T* stages, Barrier* full, Barrier* empty) {
    Turn<Tile::STAGES> turn;
    const unsigned blocks = source.blocks();
    for (unsigned index = blockIdx.x; index < tiles.turns(); index += gridDim.x) {
        // Parts of a tile that stay together follow one another in K.
        const unsigned part = tiles.part(index);
        const uint2 range = make_uint2(tiles.range(part, blocks).x, tiles.range(part + tiles.together - 1, blocks).y);
        source.begin(tiles.at(tiles.tile(index)), range.x);
        for (unsigned block = range.x; block < range.y; block++) {
            mbarrier_wait(empty + turn.stage, turn.parity ^ 1);
            mbarrier_arrive_expect(full + turn.stage, Tile::STAGE * 2);
            T* const stage = stages + turn.stage * Tile::STAGE;
            source.load(block, stage, stage + Tile::LEFT, full + turn.stage);
            turn.next();
        }
    }
}

// Begins the products of one stage with this warpgroup's rows.
template <unsigned HALVES, class T> TS_D void multiply_tma_stage(const T* stage, float (&sums)[HALVES][64]) {
    using Tile = TmaTile<HALVES>;
    const T* const left = stage + (warp() / 4 - 1) * (HALVES * 64 * TMA_K);
#pragma unroll
    for (unsigned half = 0; half < HALVES; half++) {
        wgmma_hold(sums[half]);
    }
    wgmma_fence();
#pragma unroll
    for (unsigned step = 0; step < TMA_K / 16; step++) {
        const unsigned long long right = wgmma_descriptor(stage + Tile::LEFT + step * 16 * 64, Tile::SLAB * 2, WGMMA_STRIDE);
#pragma unroll
        for (unsigned half = 0; half < HALVES; half++) {
            wgmma_m64n128k16<T>(sums[half], wgmma_descriptor(left + half * (64 * TMA_K) + step * 16, 0, WGMMA_STRIDE), right);
        }
    }
    wgmma_commit();
}

// Hands a warp's rows, 16 of them from `first` on, to the output's ending, 32 columns after another. Where the tile is gated its first
// 64 columns are values and the others their gates, which the ending wants chunk by chunk in turn.
template <class Output>
TS_D void finish_tma_half(const Output& out, const Columns& columns, unsigned first, float* staged, const float (&sums)[64]) {
    // One copy of the ending, as in mma_tile.cuh.
#pragma unroll 1
    for (unsigned i = 0; i < 4; i++) {
        float part[4][4];
#pragma unroll
        for (unsigned r = 0; r < 4; r++) {
#pragma unroll
            for (unsigned j = 0; j < 16; j++) {
                const unsigned chunk = j / 4;
                const float plain = sums[r * 16 + j];
                const float in_turn = sums[(r * 2 + chunk / 2 + chunk % 2 * 8) * 4 + j % 4];
                const float v = columns.gated ? in_turn : plain;
                part[chunk][j % 4] = r == 0 || i == r ? v : part[chunk][j % 4];
            }
        }
        finish_part(out, columns, first, i * 4, part, staged);
    }
}

// Stores a tile whose first row is `first`: each warp 16 rows of each half.
template <unsigned HALVES, class Output>
TS_D void finish_tma(const Output& out, const Columns& columns, unsigned first, const float (&sums)[HALVES][64]) {
    const unsigned worker = warp() - 4;
    float* const staged =
        reinterpret_cast<float*>(swizzled_shared<unsigned char>() + TmaTile<HALVES>::STAGES_BYTES) + worker * STAGED_FLOATS;
    const unsigned row = first + worker / 4 * (64 * HALVES) + worker % 4 * 16;
#pragma unroll
    for (unsigned half = 0; half < HALVES; half++) {
        finish_tma_half(out, columns, row + half * 64, staged, sums[half]);
    }
}

// A multiplying warp's part. `finish(tile, part, sums)` takes what a part of a tile summed.
template <unsigned HALVES, class T, class Finish>
TS_D void work_tma(unsigned blocks, const TmaTiles& tiles, const T* stages, Barrier* full, Barrier* empty, const Finish& finish) {
    using Tile = TmaTile<HALVES>;
    Turn<Tile::STAGES> turn;
    for (unsigned index = blockIdx.x; index < tiles.turns(); index += gridDim.x) {
        const unsigned first = tiles.part(index);
#pragma unroll 1
        for (unsigned part = first; part < first + tiles.together; part++) {
            const uint2 range = tiles.range(part, blocks);
            float sums[HALVES][64] = {};
            unsigned before = 0;
            for (unsigned block = range.x; block < range.y; block++) {
                mbarrier_wait(full + turn.stage, turn.parity);
                multiply_tma_stage<HALVES>(stages + turn.stage * Tile::STAGE, sums);
                // The products of the stage before have ended: it may be filled again.
                wgmma_wait<1>();
                if (block != range.x && lane() == 0) {
                    mbarrier_arrive(empty + before);
                }
                before = turn.stage;
                turn.next();
            }
            wgmma_wait<0>();
#pragma unroll
            for (unsigned half = 0; half < HALVES; half++) {
                wgmma_hold(sums[half]);
            }
            if (lane() == 0) {
                mbarrier_arrive(empty + before);
            }
            finish(tiles.tile(index), part, sums);
        }
    }
}

// A block's tiles, from first to last: `source` as copy_tma wants it, `finish` as work_tma does.
template <unsigned HALVES, class T, class Source, class Finish>
TS_D void product_tma(Source& source, const TmaTiles& tiles, const Finish& finish) {
    using Tile = TmaTile<HALVES>;
    T* const stages = swizzled_shared<T>();
    Barrier* const full = barriers_tma<HALVES>();
    Barrier* const empty = full + Tile::STAGES;
    if (threadIdx.x == 0) {
        for (unsigned s = 0; s < Tile::STAGES; s++) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, TMA_WORKERS);
        }
        mbarrier_init(full + 2 * Tile::STAGES, TMA_WORKERS);
        mbarrier_init_fence();
    }
    sync_block();
    const unsigned blocks = source.blocks();
    if (threadIdx.x < 128) {
        registers_give<TMA_COPIER_REGISTERS>();
        if (threadIdx.x == 0) {
            copy_tma<Tile>(source, tiles, stages, full, empty);
        }
    } else {
        registers_take<TMA_WORKER_REGISTERS>();
        work_tma<HALVES>(blocks, tiles, stages, full, empty, finish);
    }
}
