// The left operand of a convolution as a product: rows are output pixels, K runs over taps, in each over the channels
// of both sources. Chunks of 8 channels, and of 4, lie within one tap and one source, since pitches are multiples of 8.
#pragma once

#include "vector.cuh"

// Where an output pixel reads: item, first input row and column; and where it is written.
struct ConvPlace {
    unsigned item;
    int row;
    int column;
    unsigned out;
};

// Pixel `index` of the launch, counted over all items; with UP2X2 over all items' input pixels, in phase (a, b).
template <bool UP2X2> TS_D ConvPlace conv_place(const Conv2dParams& p, unsigned index, unsigned phase) {
    const unsigned width = UP2X2 ? p.w : p.ow;
    const unsigned height = UP2X2 ? p.h : p.oh;
    const unsigned line = index / width;
    const unsigned column = index - line * width;
    const unsigned item = line / height;
    const unsigned row = line - item * height;
    if constexpr (UP2X2) {
        const unsigned a = phase / 2;
        const unsigned b = phase % 2;
        return ConvPlace{item, int(row + a) - 1, int(column + b) - 1,
                         (item * p.oh + 2 * row + a) * p.ow + 2 * column + b};
    } else {
        return ConvPlace{item, int(row * p.stride) - int(p.pad_top), int(column * p.stride) - int(p.pad_left), index};
    }
}

// Pixels that share their weights: of the launch, or of one phase.
template <bool UP2X2> TS_D unsigned conv_pixels(const Conv2dParams& p) {
    return UP2X2 ? p.n * p.h * p.w : p.n * p.oh * p.ow;
}

// Chunks of ROWS pixels APART from each other, STEP of K after another.
template <class X, unsigned ROWS, unsigned STEP, bool UP2X2, unsigned APART = 64> struct ConvSource {
    const Conv2dParams& p;
    const X* x;
    const X* x2;
    // Chunk at hand: channel of both sources laid one after another, and tap.
    unsigned c;
    int dy = 0;
    int dx = 0;
    int row[ROWS];
    int column[ROWS];
    unsigned base[ROWS];

    TS_D ConvSource(const Conv2dParams& p, const X* x, const X* x2, unsigned first, unsigned phase, unsigned c)
        : p(p), x(x), x2(x2), c(c) {
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            const unsigned index = first + APART * i;
            const ConvPlace at = conv_place<UP2X2>(p, index, phase);
            const bool exists = index < conv_pixels<UP2X2>(p);
            // A row above every tap's reach reads zeros only.
            row[i] = exists ? at.row : -(1 << 30);
            column[i] = at.column;
            base[i] = at.item * p.h;
        }
        settle();
    }

    TS_D int side() const { return UP2X2 ? 2 : int(p.kernel); }

    // Carries channels past the sources' end over to the next taps.
    TS_D void settle() {
        const unsigned total = p.pitch_x + (UP2X2 ? 0 : p.pitch_x2);
        while (c >= total) {
            c -= total;
            if (++dx == side()) {
                dx = 0;
                dy++;
            }
        }
    }

    TS_D void advance() {
        c += STEP;
        settle();
    }

    // Null outside the input and past the last tap.
    TS_D const X* address(unsigned i) const {
        int y = row[i] + dy;
        int across = column[i] + dx;
        const bool doubled = !UP2X2 && p.upsample != 0;
        const unsigned height = doubled ? p.oh : p.h;
        const unsigned width = doubled ? p.ow : p.w;
        if (dy >= side() || unsigned(y) >= height || unsigned(across) >= width) {
            return nullptr;
        }
        if (doubled) {
            y /= 2;
            across /= 2;
        }
        const size_t pixel = size_t(base[i] + unsigned(y)) * p.w + unsigned(across);
        if (UP2X2 || c < p.pitch_x) {
            return x + pixel * p.pitch_x + c;
        }
        return x2 + pixel * p.pitch_x2 + (c - p.pitch_x);
    }

    TS_D void next(float (&v)[8]) {
        if (const X* at = address(0)) {
            load8(at, v);
        }
        advance();
    }
};
