// What mma and wgmma have in common: how a tensor core sums.
#pragma once

namespace emu {

double half_value(unsigned short bits, bool bf16);

// Adds `depth` products, 8 or 16, to each of `columns` sums: a is one row, b `depth` rows of `columns`. Each step adds 8 to the accumulator,
// exactly but for f64's rounding, and cuts the sum to f32. Whether a card takes 8 or 16 at a time and how many bits it keeps is
// not specified; this errs on the side of more error.
void add_products(const double* a, const double* b, unsigned depth, unsigned columns, float* const* sums);

}  // namespace emu
