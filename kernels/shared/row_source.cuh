// The left operand of gemm: rows of k channels.
#pragma once

#include "vector.cuh"

// Chunks of the rows of x, one block of K after another.
template <class X, unsigned ROWS, unsigned STEP, unsigned APART = 64> struct RowSource {
    const X* row[ROWS];
    unsigned c;
    unsigned k;

    // Rows `first`, `first + APART`, ..; rows past the end are zeros.
    TS_D RowSource(const GemmParams& p, const X* x, unsigned first, unsigned chunk) : c(chunk * 8), k(p.k) {
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            const unsigned at = first + APART * i;
            row[i] = at < p.m ? x + size_t(at) * p.k : nullptr;
        }
    }

    TS_D const X* address(unsigned i) const { return row[i] != nullptr && c < k ? row[i] + c : nullptr; }

    TS_D void advance() { c += STEP; }

    TS_D void next(float (&v)[8]) {
        if (const X* at = address(0)) {
            load8(at, v);
        }
        advance();
    }
};
