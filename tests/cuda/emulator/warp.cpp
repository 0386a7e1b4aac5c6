// Collectives of a warp. Each lane's operands lie on its own stack; the last lane to come works on all of them.
#include <algorithm>
#include <cstring>

#include "product.hpp"
#include "state.hpp"

namespace {

using ts_host::Site;

struct Shuffle {
    unsigned value, argument, result;
};

Shuffle& shuffle_of(void** lanes, unsigned l) { return *static_cast<Shuffle*>(lanes[l]); }

// Of the argument, shfl looks at the lowest five bits.
void by_xor(void** lanes) {
    for (unsigned l = 0; l < 32; l++) {
        Shuffle& s = shuffle_of(lanes, l);
        s.result = shuffle_of(lanes, l ^ (s.argument & 31)).value;
    }
}

void by_delta(void** lanes) {
    for (unsigned l = 0; l < 32; l++) {
        Shuffle& s = shuffle_of(lanes, l);
        unsigned from = l + (s.argument & 31);
        s.result = from < 32 ? shuffle_of(lanes, from).value : s.value;
    }
}

void by_lane(void** lanes) {
    for (unsigned l = 0; l < 32; l++) {
        Shuffle& s = shuffle_of(lanes, l);
        s.result = shuffle_of(lanes, s.argument & 31).value;
    }
}

void any(void** lanes) {
    unsigned r = 0;
    for (unsigned l = 0; l < 32; l++) r |= shuffle_of(lanes, l).value;
    for (unsigned l = 0; l < 32; l++) shuffle_of(lanes, l).result = r;
}

void all(void** lanes) {
    unsigned r = 1;
    for (unsigned l = 0; l < 32; l++) r &= shuffle_of(lanes, l).value;
    for (unsigned l = 0; l < 32; l++) shuffle_of(lanes, l).result = r;
}

unsigned exchange(const char* name, const Site& where, unsigned value, unsigned argument, void (*execute)(void**)) {
    Shuffle s{value, argument, 0};
    emu::warp_collective(name, where, &s, execute);
    return s.result;
}

// Lanes then know what each of them knew.
void advance_stamp(void**) {
    using emu::now;
    now.warps[now.current / 32].stamp = ++now.stamp;
    if (!emu::has_barriers()) return;
    auto* lanes = &now.threads[now.current / 32 * 32];
    emu::Known all{};
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; i < all.size(); i++) all[i] = std::max(all[i], lanes[l].known[i]);
    for (unsigned l = 0; l < 32; l++) lanes[l].known = all;
}

struct Load {
    unsigned* registers;
    unsigned matrices;
    bool transposed;
    const unsigned char* row;
};

void load_matrices(void** lanes) {
    for (unsigned l = 0; l < 32; l++) {
        auto& mine = *static_cast<Load*>(lanes[l]);
        for (unsigned m = 0; m < mine.matrices; m++) {
            auto element = [&](unsigned row, unsigned column) {
                unsigned short v;
                memcpy(&v, static_cast<Load*>(lanes[8 * m + row])->row + 2 * column, 2);
                return static_cast<unsigned>(v);
            };
            unsigned a = l / 4, b = 2 * (l % 4);
            mine.registers[m] = mine.transposed ? element(b, a) | element(b + 1, a) << 16
                                                : element(a, b) | element(a, b + 1) << 16;
        }
    }
}

struct Product {
    float* d;
    const unsigned *a, *b;
    bool bf16;
};

// a: 16 rows of `depth`, b: `depth` rows of 8.
void add_rows(void** lanes, const double* a, const double* b, unsigned depth) {
    for (unsigned row = 0; row < 16; row++) {
        float* sums[8];
        for (unsigned c = 0; c < 8; c++)
            sums[c] = static_cast<Product*>(lanes[4 * (row % 8) + c / 2])->d + 2 * (row / 8) + c % 2;
        emu::add_products(a + row * depth, b, depth, 8, sums);
    }
}

void multiply(void** lanes) {
    double a[16][16], b[16][8];
    bool bf16 = static_cast<Product*>(lanes[0])->bf16;
    auto value = [&](unsigned word, unsigned half) {
        return emu::half_value(static_cast<unsigned short>(word >> (16 * half)), bf16);
    };
    for (unsigned l = 0; l < 32; l++) {
        auto& p = *static_cast<Product*>(lanes[l]);
        unsigned g = l / 4, t = l % 4;
        for (unsigned h = 0; h < 2; h++) {
            a[g][2 * t + h] = value(p.a[0], h);
            a[g + 8][2 * t + h] = value(p.a[1], h);
            a[g][2 * t + 8 + h] = value(p.a[2], h);
            a[g + 8][2 * t + 8 + h] = value(p.a[3], h);
            b[2 * t + h][g] = value(p.b[0], h);
            b[2 * t + 8 + h][g] = value(p.b[1], h);
        }
    }
    add_rows(lanes, &a[0][0], &b[0][0], 16);
}

void multiply_tf32(void** lanes) {
    double a[16][8], b[8][8];
    auto value = [](unsigned word) { return static_cast<double>(bits_to_f32(word & ~0x1fffu)); };
    for (unsigned l = 0; l < 32; l++) {
        auto& p = *static_cast<Product*>(lanes[l]);
        unsigned g = l / 4, t = l % 4;
        for (unsigned h = 0; h < 2; h++) {
            a[g][t + 4 * h] = value(p.a[2 * h]);
            a[g + 8][t + 4 * h] = value(p.a[2 * h + 1]);
            b[t + 4 * h][g] = value(p.b[h]);
        }
    }
    add_rows(lanes, &a[0][0], &b[0][0], 8);
}

}  // namespace

void sync_warp(Site where) { exchange("sync_warp", where, 0, 0, advance_stamp); }

float shuffle_xor(float v, unsigned mask, Site where) {
    return bits_to_f32(exchange("shuffle_xor", where, f32_to_bits(v), mask, by_xor));
}
unsigned shuffle_xor(unsigned v, unsigned mask, Site where) { return exchange("shuffle_xor", where, v, mask, by_xor); }
float shuffle_down(float v, unsigned delta, Site where) {
    return bits_to_f32(exchange("shuffle_down", where, f32_to_bits(v), delta, by_delta));
}
unsigned shuffle_down(unsigned v, unsigned delta, Site where) {
    return exchange("shuffle_down", where, v, delta, by_delta);
}
float shuffle(float v, unsigned source, Site where) {
    return bits_to_f32(exchange("shuffle", where, f32_to_bits(v), source, by_lane));
}
unsigned shuffle(unsigned v, unsigned source, Site where) { return exchange("shuffle", where, v, source, by_lane); }
bool vote_any(bool v, Site where) { return exchange("vote_any", where, v, 0, any) != 0; }
bool vote_all(bool v, Site where) { return exchange("vote_all", where, v, 0, all) != 0; }

namespace ts_host {

void load_matrix(unsigned* r, unsigned matrices, bool transposed, const void* row, Site where) {
    // The lanes whose addresses count read their rows.
    if (emu::now.current % 32 < 8 * matrices) {
        if (!emu::is_shared_address(row))
            emu::fail(emu::Fault::address, 0, &where, "ldmatrix from %p, which is not shared memory", row);
        emu::check_shared(row, 16, false, true, 0, &where);
    }
    Load l{r, matrices, transposed, static_cast<const unsigned char*>(row)};
    const char* name = matrices == 4 ? (transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4")
                                     : (transposed ? "ldmatrix_x2_trans" : "ldmatrix_x2");
    emu::warp_collective(name, where, &l, load_matrices);
}

void mma_16x8x16(float* d, const unsigned* a, const unsigned* b, bool bf16, Site where) {
    Product p{d, a, b, bf16};
    emu::warp_collective(bf16 ? "mma_m16n8k16<bf16>" : "mma_m16n8k16<f16>", where, &p, multiply);
}

void mma_16x8x8_tf32(float* d, const unsigned* a, const unsigned* b, Site where) {
    Product p{d, a, b, false};
    emu::warp_collective("mma_m16n8k8_tf32", where, &p, multiply_tf32);
}

}  // namespace ts_host
