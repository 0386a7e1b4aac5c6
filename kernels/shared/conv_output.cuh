// The result of a convolution as a product, and what all of its kernels are called with.
#pragma once

#include "conv_source.cuh"
#include "output.cuh"

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

// BLOCKS of them a processor at a time, at least.
#define CONV_ENTRY(THREADS, BLOCKS, VARIANT, X, W, Y, BODY) \
    TS_ENTRY_BLOCKS(THREADS, BLOCKS, conv2d_##VARIANT##_##X##_##W##_##Y, const Conv2dParams p, const X* x, const X* x2, \
             const W* weight, const float* bias, const float* row_bias, const Y* residual, Y* y, Control* control) { \
        BODY(p, x, x2, weight, bias, row_bias, residual, y, control); \
    }
