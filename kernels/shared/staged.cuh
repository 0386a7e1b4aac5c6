// The ending of a product on tensor cores: 16 rows by 32 columns of sums, as a warp's lanes hold them, by way of shared memory to
// whole chunks of 8 columns.
#pragma once

#include "output.cuh"

// Floats between rows of 32 staged sums.
constexpr unsigned STAGED_PITCH = 40;
// Floats that a warp's staged sums take.
constexpr unsigned STAGED_FLOATS = 16 * STAGED_PITCH;

// Hands `part` to the output's ending. With g = lane / 4 and t = lane % 4, part[j] has rows g (its first two) and g + 8 of columns
// 8 j + 2 t and the next. Row 0 is row `row` of the product, column 0 the first of its tile's chunk `chunk`. `staged` are
// STAGED_FLOATS of the warp's own.
template <class Output>
TS_D void finish_part(const Output& out, const Columns& columns, unsigned row, unsigned chunk, const float (&part)[4][4],
                      float* staged) {
    const unsigned step = columns.gated ? 2 : 1;
    sync_warp();
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        float* const at = staged + lane() / 4 * STAGED_PITCH + j * 8 + lane() % 4 * 2;
        *reinterpret_cast<float2*>(at) = make_float2(part[j][0], part[j][1]);
        *reinterpret_cast<float2*>(at + 8 * STAGED_PITCH) = make_float2(part[j][2], part[j][3]);
    }
    sync_warp();
#pragma unroll 1
    for (unsigned l = lane() * step; l < 64; l += 32 * step) {
        finish_staged(out, columns, row + l / 4, staged + l / 4 * STAGED_PITCH + l % 4 * 8, chunk + l % 4);
    }
}
