// A convolution as a product on tensor cores: its result, its body over any way to multiply, and what all of its kernels are
// called with.
#pragma once

#include "conv_source.cuh"
#include "output.cuh"
#include "statistics.cuh"

// conv2d's result: pixels of `pitch_y` channels.
template <class Y, bool UP2X2> struct ConvOutput {
    const Conv2dParams& p;
    const float* bias;
    const float* row_bias;
    const Y* residual;
    Y* y;
    Control* control;
    unsigned phase;

    TS_D void finish(unsigned index, unsigned c, float (&v)[8]) const {
        if (index >= conv_pixels<UP2X2>(p) || c >= p.pitch_y) {
            return;
        }
        add8(bias + c, v);
        const unsigned pixel = UP2X2 ? conv_place<UP2X2>(p, index, phase).out : index;
        if ((p.parts & 2u) != 0) {
            const unsigned row = item_of(control, pixel / (p.oh * p.ow)).step_row;
            add8(row_bias + size_t(row) * p.pitch_row_bias + c, v);
        }
        activate8(p.act, v);
        finish_store(p.parts, residual, y, size_t(pixel) * p.pitch_y + c, c, p.oc, v, control);
    }

    // A convolution has no gate.
    TS_D void finish_gated(unsigned, unsigned, float (&)[8], float (&)[8]) const {}
};

// Whether the result's statistics are wanted: of values stored as the operands are.
template <class X, class Y> TS_D bool wants_statistics(const Conv2dParams& p) {
    return sizeof(X) == sizeof(Y) && (p.parts & 8u) != 0;
}

// A block's tile; `Way`: Mma of mma_tile.cuh or Wgmma of wgmma_tile.cuh.
template <class Way, bool UP2X2, class X, class Y>
TS_D void conv2d_product(const Conv2dParams& p, const X* x, const X* x2, const X* weight, const float* bias,
                         const float* row_bias, const Y* residual, Y* y, Control* control, float* statistics) {
    const unsigned column_tiles = ceil_div(p.pitch_y, Way::COLUMNS);
    const unsigned pixel_tiles = ceil_div(conv_pixels<UP2X2>(p), Way::ROWS);
    const unsigned id = block_index();
    const unsigned tile = id / column_tiles;
    if (tile >= (UP2X2 ? 4 : 1) * pixel_tiles) {
        return;
    }
    const unsigned phase = UP2X2 ? tile / pixel_tiles : 0;
    const unsigned first = (UP2X2 ? tile % pixel_tiles : tile) * Way::ROWS;
    const Columns columns(id % column_tiles, Way::COLUMNS, p.pitch_y, false);
    ConvSource<X, Way::LEFT_ROWS, Way::K, UP2X2, Way::LEFT_APART> left(p, x, x2, first + Way::left_row(), phase,
                                                                       Way::left_channel());
    const unsigned k = UP2X2 ? 4 * p.pitch_x : p.kernel * p.kernel * (p.pitch_x + p.pitch_x2);
    const X* taps = weight + size_t(phase) * k * p.pitch_y;
    typename Way::Sums sums = {};
    Way::multiply(left, taps, k, p.pitch_y, columns, sums);
    const ConvOutput<Y, UP2X2> out = {p, bias, row_bias, residual, y, control, phase};
    Way::finish(out, columns, first, sums);
    if (wants_statistics<X, Y>(p)) {
        sync_block();
        tile_statistics<Way::COLUMNS, UP2X2>(p, y, statistics, control, phase, first, columns.first, warp());
    }
}

// OPEN(name, parameters) begins an entry of the block size wanted.
#define CONV_ENTRY(OPEN, VARIANT, X, W, Y, BODY) \
    OPEN(conv2d_##VARIANT##_##X##_##W##_##Y, const Conv2dParams p, const X* x, const X* x2, const W* weight, \
         const float* bias, const float* row_bias, const Y* residual, Y* y, Control* control, float* statistics) { \
        BODY(p, x, x2, weight, bias, row_bias, residual, y, control, statistics); \
    }
