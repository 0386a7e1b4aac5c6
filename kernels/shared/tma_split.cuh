// Products of tma_tile.cuh with fewer tiles than processors: a tile's K goes to several blocks, each of which keeps what it summed, and
// whichever warp comes last to its rows adds all parts in their order: the same bits whoever that is.
#pragma once

#include "tma_tile.cuh"

constexpr unsigned TMA_MOST_PARTS = 8;
// Blocks of K that a part has at least.
constexpr unsigned TMA_LEAST_BLOCKS = 4;
// Bytes before the parts' sums in the launch's memory for them: a word for each warp's rows of at most 256 tiles.
constexpr unsigned TMA_SPLIT_HEAD = 8192;

// Tiles in as many parts as there are blocks for.
TS_D TmaTiles split_tiles(unsigned down, unsigned across, unsigned blocks) {
    const unsigned most = min(TMA_MOST_PARTS, blocks / TMA_LEAST_BLOCKS);
    return TmaTiles{down, across, max(1u, min(gridDim.x / (down * across), most))};
}

// Puts this warp's rows of one part beside the others; true for the warp that has all of them then, in `sums`. `partials` are
// TMA_SPLIT_HEAD bytes, zero before and after a launch, and 64 KiB times HALVES for each of its blocks.
template <unsigned HALVES>
TS_D bool gather_parts(const TmaTiles& tiles, unsigned index, unsigned char* partials, float (&sums)[HALVES][64]) {
    if (tiles.parts == 1) {
        return true;
    }
    const unsigned worker = warp() - 4;
    const unsigned tile = index % tiles.tiles();
    unsigned* const arrived = reinterpret_cast<unsigned*>(partials) + tile * TMA_WORKERS + worker;
    const auto kept = [&](unsigned part) {
        const unsigned place = (part * tiles.tiles() + tile) * TMA_WORKERS + worker;
        return partials + TMA_SPLIT_HEAD + size_t(place) * (HALVES * 64 * 32 * 4) + lane() * 16;
    };
    unsigned char* const own = kept(tiles.part(index));
#pragma unroll
    for (unsigned i = 0; i < HALVES * 16; i++) {
        const float* const four = sums[i / 16] + i % 16 * 4;
        store16(own + i * 512, make_uint4(f32_to_bits(four[0]), f32_to_bits(four[1]), f32_to_bits(four[2]), f32_to_bits(four[3])));
    }
    fence_device();
    sync_warp();
    unsigned before = 0;
    if (lane() == 0) {
        before = atomic_add(arrived, 1);
    }
    if (shuffle(before, 0) + 1 != tiles.parts) {
        return false;
    }
    fence_device();
#pragma unroll
    for (unsigned i = 0; i < HALVES * 64; i++) {
        sums[i / 64][i % 64] = 0.0f;
    }
    for (unsigned part = 0; part < tiles.parts; part++) {
        const unsigned char* const from = kept(part);
#pragma unroll
        for (unsigned i = 0; i < HALVES * 16; i++) {
            const uint4 v = load_device16(from + i * 512);
            float* const four = sums[i / 16] + i % 16 * 4;
            four[0] += bits_to_f32(v.x);
            four[1] += bits_to_f32(v.y);
            four[2] += bits_to_f32(v.z);
            four[3] += bits_to_f32(v.w);
        }
    }
    if (lane() == 0) {
        *arrived = 0;
    }
    return true;
}
