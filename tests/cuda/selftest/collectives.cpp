// Shuffles, votes, barriers, ldmatrix and mma against what the PTX manual says of them, in every order of threads.
#include <cmath>
#include <random>

#include "check.hpp"

namespace selftest {

namespace {

float as_float(unsigned bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

void products(const char* kernel, int depth, emu::Options options) {
    std::mt19937 random(7);
    // Small integers: every sum is exact, so any other place of an element shows.
    const auto k8 = static_cast<unsigned>(depth) * 8;
    std::vector<float> a(2 * k8), b(k8), c(128);
    for (auto* m : {&a, &b, &c})
        for (auto& v : *m) v = static_cast<float>(static_cast<int>(random() % 31) - 15);
    Buffer<float> da(a), db(b), dc(c), dd(128);
    auto r = launch(kernel, {1, 1, 1}, 0, options, da.get(), db.get(), dc.get(), dd.get());
    CHECK(r.text == "");
    bool same = true;
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            double sum = c[row * 8 + column];
            for (int k = 0; k < depth; k++) sum += double(a[row * depth + k]) * double(b[k * 8 + column]);
            same = same && double(dd[row * 8 + column]) == sum;
        }
    CHECK(same);
    // The sum is cut, not rounded: 1 + 3 * 2^-24 lies nearer to 1 + 2^-22 but is held as 1 + 2^-23.
    for (auto& v : {&da, &db}) memset(v->get(), 0, v->values().size() * 4);
    for (int i = 0; i < 128; i++) dc[i] = 1.0f;
    for (int i = 0; i < 16; i++) da[i * depth] = 3.0f * 0x1p-12f;
    for (int i = 0; i < 8; i++) db[i] = 0x1p-12f;
    r = launch(kernel, {1, 1, 1}, 0, options, da.get(), db.get(), dc.get(), dd.get());
    CHECK(r.text == "" && dd[0] == 1.0f + 0x1p-23f);
    // A NaN reaches its row and no other.
    da[5 * depth + 3] = NAN;
    r = launch(kernel, {1, 1, 1}, 0, options, da.get(), db.get(), dc.get(), dd.get());
    bool only_row = true;
    for (int i = 0; i < 128; i++) only_row = only_row && std::isnan(dd[i]) == (i / 8 == 5);
    CHECK(r.text == "" && only_row);
}

void matrices(emu::Options options) {
    // Element values tell row and column; rows are named in an order of no pattern.
    std::vector<uint4> tile(32);
    for (unsigned row = 0; row < 32; row++)
        for (unsigned e = 0; e < 8; e++) {
            auto v = static_cast<unsigned short>(row * 8 + e);
            memcpy(reinterpret_cast<char*>(&tile[row]) + 2 * e, &v, 2);
        }
    std::vector<unsigned> rows(32);
    for (unsigned l = 0; l < 32; l++) rows[l] = (l * 13 + 5) % 32;
    Buffer<uint4> in(tile);
    Buffer<unsigned> named(rows), out(32 * 12);
    auto r = launch("load_matrices", {1, 1, 1}, 0, options, in.get(), named.get(), out.get());
    CHECK(r.text == "");
    bool same = true;
    for (unsigned t = 0; t < 32; t++)
        for (unsigned kind = 0; kind < 12; kind++) {
            bool transposed = (kind >= 4 && kind < 8) || kind >= 10;
            unsigned matrix = kind < 8 ? kind % 4 : kind % 2, want = 0;
            // The manual's table: thread t holds the elements 2 (t % 4) and the next of row t / 4, transposed of column.
            for (unsigned half = 0; half < 2; half++) {
                unsigned i = t / 4, j = 2 * (t % 4) + half;
                unsigned row = transposed ? j : i, column = transposed ? i : j;
                want |= (rows[8 * matrix + row] * 8 + column) << (16 * half);
            }
            same = same && out[t * 12 + kind] == want;
        }
    CHECK(same);
}

void exchanges(emu::Options options) {
    std::vector<unsigned> values(64);
    for (unsigned i = 0; i < 64; i++) values[i] = i < 32 ? i * i % 97 + 10 : 2 * i;
    values[40] = 9;
    Buffer<unsigned> in(values), out(64 * 8);
    auto r = launch("shuffles", {1, 1, 1}, 0, options, in.get(), out.get());
    CHECK(r.text == "");
    bool same = true;
    for (unsigned i = 0; i < 64; i++) {
        const unsigned* w = &values[i / 32 * 32];
        unsigned l = i % 32;
        float sum = 0, most = 0;
        for (unsigned j = 0; j < 32; j++) sum += float(w[j]), most = std::fmax(most, float(w[j]));
        const unsigned* got = &out[i * 8];
        same = same && got[0] == w[l ^ 5] && got[1] == (l + 3 < 32 ? w[l + 3] : w[l]) && got[2] == w[i * 7 % 32] &&
               got[3] == (i >= 32) && got[4] == (i < 32) && as_float(got[5]) == sum && as_float(got[6]) == most &&
               got[7] == (l | i / 32 << 8);
    }
    CHECK(same);
}

void sums(emu::Options options) {
    constexpr unsigned n = 1000;
    std::vector<unsigned> values(n);
    for (unsigned i = 0; i < n; i++) values[i] = i * 7919 % 1009;
    Buffer<unsigned> in(values), out(12), control(std::vector<unsigned>{0});
    auto r = launch("block_sums", {4, 3, 1}, 96 * 4, options, in.get(), out.get(), control.get(), n);
    CHECK(r.text == "");
    unsigned bits = 0;
    bool same = true;
    for (unsigned b = 0; b < 12; b++) {
        unsigned sum = 0;
        for (unsigned i = b * 96; i < b * 96 + 96 && i < n; i++) sum += values[i];
        same = same && out[b] == sum;
        if (sum & 1) bits |= 1u << (b % 4);
    }
    CHECK(same && control[0] == bits);
}

}  // namespace

void collectives() {
    for (auto order : orders) {
        emu::Options options;
        options.order = order;
        products("product_f16", 16, options);
        products("product_bf16", 16, options);
        products("product_tf32", 8, options);
        matrices(options);
        exchanges(options);
        sums(options);
    }
}

}  // namespace selftest
