#include "product.hpp"

#include <cmath>
#include <cstring>

#include "shared/device.cuh"

namespace emu {

namespace {

// Rounds towards zero: what is known of tensor cores is that they cut the sum off rather than round it. Clearing the bits
// of f64 beyond f32's does that for every value in f32's normal range; the others are left to the conversion.
double cut(double v) {
    double magnitude = std::fabs(v);
    if (!(magnitude >= 0x1p-126 && magnitude < 0x1p128)) return static_cast<double>(static_cast<float>(v));
    unsigned long long bits;
    memcpy(&bits, &v, 8);
    bits &= ~0x1fffffffull;
    memcpy(&v, &bits, 8);
    return v;
}

}  // namespace

double half_value(unsigned short bits, bool bf16) {
    return static_cast<double>(bf16 ? bits_to_f32(static_cast<unsigned>(bits) << 16) : f16_to_f32(bits));
}

// Columns side by side, so that the compiler can take several at once.
void add_products(const double* a, const double* b, unsigned depth, unsigned columns, float* const* sums) {
    double sum[128];
    for (unsigned c = 0; c < columns; c++) sum[c] = *sums[c];
    for (unsigned step = 0; step < depth; step += 8) {
        for (unsigned k = step; k < step + 8; k++)
            for (unsigned c = 0; c < columns; c++) sum[c] += a[k] * b[k * columns + c];
        for (unsigned c = 0; c < columns; c++) sum[c] = cut(sum[c]);
    }
    for (unsigned c = 0; c < columns; c++) *sums[c] = static_cast<float>(sum[c]);
}

}  // namespace emu
