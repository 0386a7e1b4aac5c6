// What follows a product: bias, activation, gate, residual, the store. A product's columns come in chunks of 8.
#pragma once

#include "vector.cuh"

TS_D void add8(const float* from, float (&v)[8]) {
    float w[8];
    load8(from, w);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] += w[i];
    }
}

// Which channels the chunks of a column tile are. With GEGLU chunks alternate between value and gate, so that both
// halves of a result meet in one tile.
struct Columns {
    unsigned first;
    unsigned pitch;
    bool gated;

    TS_D Columns(unsigned tile, unsigned columns, unsigned pitch, bool gated)
        : first(tile * (gated ? columns / 2 : columns)), pitch(pitch), gated(gated) {}

    // Output channel of chunk `j`; at or past the pitch there is none.
    TS_D unsigned channel(unsigned j) const {
        return first + (gated ? j / 2 : j) * 8;
    }

    // Column of the weight of chunk `j`.
    TS_D unsigned weight(unsigned j) const {
        return channel(j) + (gated && j % 2 != 0 ? pitch : 0);
    }
};

// Channels c .. c + 8 of a result of `channels`, at element `at`: the residual where there is one (bit 2 of `parts`, in
// gemm and conv2d alike), zeros for the pads, the store.
template <class Y>
TS_D void finish_store(unsigned parts, const Y* residual, Y* y, size_t at, unsigned c, unsigned channels, float (&v)[8],
                       Control* control) {
    if ((parts & 4u) != 0) {
        float r[8];
        load8(residual + at, r);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] += r[i];
        }
    }
    clear_pads(v, c, channels);
    store8(y + at, v, control);
}

// gemm's result: rows of `pitch_y` channels.
template <class Y> struct GemmOutput {
    const GemmParams& p;
    const float* bias;
    const Y* residual;
    Y* y;
    Control* control;

    TS_D void add_and_store(unsigned row, unsigned c, float (&v)[8]) const {
        finish_store(p.parts, residual, y, size_t(row) * p.pitch_y + c, c, p.n, v, control);
    }

    TS_D void finish(unsigned row, unsigned c, float (&v)[8]) const {
        if (row < p.m && c < p.pitch_y) {
            add8(bias + c, v);
            activate8(p.act, v);
            add_and_store(row, c, v);
        }
    }

    TS_D void finish_gated(unsigned row, unsigned c, float (&v)[8], float (&gate)[8]) const {
        if (row < p.m && c < p.pitch_y) {
            add8(bias + c, v);
            add8(bias + p.pitch_y + c, gate);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                v[i] *= gelu(gate[i]);
            }
            add_and_store(row, c, v);
        }
    }
};

// Chunk `j` of a row of a tile, staged in shared memory, through the output's ending. With GEGLU `j` is even, and its
// gate lies behind it.
template <class Output>
TS_D void finish_staged(const Output& out, const Columns& columns, unsigned row, const float* staged, unsigned j) {
    float v[8];
    load8(staged, v);
    if (columns.gated) {
        float gate[8];
        load8(staged + 8, gate);
        out.finish_gated(row, columns.channel(j), v, gate);
    } else {
        out.finish(row, columns.channel(j), v);
    }
}
