// Products of tma_tile.cuh whose tiles' K goes into parts, each summed by itself and all added in their order. Either each part has a
// block, which keeps what it summed, and whichever warp comes last to its rows adds all of them; or one block goes through all parts
// and keeps what it has so far. Both give the same bits (src/abi/table/tma/parts.rs says which, and how many parts).
#pragma once

#include "tma_tile.cuh"

// Bytes before the parts' sums in the launch's memory for them: a word for each warp's rows of at most 256 tiles.
constexpr unsigned TMA_SPLIT_HEAD = 8192;

// What a launch is told of its parts, by value.
struct Partials {
    // TMA_SPLIT_HEAD bytes, zero before and after a launch, and 64 KiB times HALVES for each part of a tile, or for each block where
    // it goes through all of them.
    unsigned char* memory;
    unsigned count;
    // 0: a block for each part. 1: one for all parts of a tile.
    unsigned kept;
};

TS_D TmaTiles split_tiles(unsigned down, unsigned across, const Partials& partials) {
    return TmaTiles{down, across, partials.count, partials.kept != 0 ? partials.count : 1};
}

// Where this thread keeps its sums of number `index`: 16 bytes of them every 512.
template <unsigned HALVES> TS_D unsigned char* kept_sums(const Partials& partials, unsigned index) {
    const unsigned place = index * TMA_WORKERS + warp() - 4;
    return partials.memory + TMA_SPLIT_HEAD + size_t(place) * (HALVES * 64 * 32 * 4) + lane() * 16;
}

template <unsigned HALVES> TS_D void keep_sums(unsigned char* to, const float (&sums)[HALVES][64]) {
#pragma unroll
    for (unsigned i = 0; i < HALVES * 16; i++) {
        const float* const four = sums[i / 16] + i % 16 * 4;
        store16(to + i * 512, make_uint4(f32_to_bits(four[0]), f32_to_bits(four[1]), f32_to_bits(four[2]), f32_to_bits(four[3])));
    }
}

template <unsigned HALVES> TS_D void add_kept(const unsigned char* from, float (&sums)[HALVES][64]) {
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

// Puts this warp's rows of one part of a tile beside the others; true for the warp that has the sum of all parts then, in `sums`.
template <unsigned HALVES>
TS_D bool gather_parts(const TmaTiles& tiles, unsigned tile, unsigned part, const Partials& partials, float (&sums)[HALVES][64]) {
    if (tiles.together > 1) {
        unsigned char* const own = kept_sums<HALVES>(partials, blockIdx.x);
        if (part > 0) {
            add_kept(own, sums);
        }
        if (part + 1 < tiles.parts) {
            keep_sums(own, sums);
        }
        return part + 1 == tiles.parts;
    }
    unsigned* const arrived = reinterpret_cast<unsigned*>(partials.memory) + tile * TMA_WORKERS + warp() - 4;
    keep_sums(kept_sums<HALVES>(partials, part * tiles.tiles() + tile), sums);
    fence_device();
    sync_warp();
    unsigned before = 0;
    if (lane() == 0) {
        before = atomic_add(arrived, 1);
    }
    if (shuffle(before, 0) + 1 != tiles.parts) {
        return false;
    }
    if (lane() == 0) {
        *arrived = 0;
    }
    fence_device();
    // What nothing changes that is added to it, not even a zero's sign.
#pragma unroll
    for (unsigned i = 0; i < HALVES * 64; i++) {
        sums[i / 64][i % 64] = -0.0f;
    }
    const unsigned char* from = kept_sums<HALVES>(partials, tile);
#pragma unroll 1
    for (unsigned i = 0; i < tiles.parts; i++) {
        add_kept(from, sums);
        from += size_t(tiles.tiles()) * TMA_WORKERS * (HALVES * 64 * 32 * 4);
    }
    return true;
}
