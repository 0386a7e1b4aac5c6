#include "cases.hpp"

#include <bit>
#include <cmath>
#include <cstdio>
#include <random>

namespace probes {

namespace {

// The words of mt19937 are the same everywhere; those of the library's distributions are not.
std::mt19937 source(unsigned seed) { return std::mt19937(seed); }

float as_float(uint32_t w) { return std::bit_cast<float>(w); }
uint32_t as_word(float f) { return std::bit_cast<uint32_t>(f); }
bool is_nan(uint32_t w) { return (w & 0x7fffffffu) > 0x7f800000u; }

double from_f16(uint32_t h) {
    uint32_t exponent = h >> 10 & 31, fraction = h & 0x3ff;
    double v = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? std::ldexp(fraction, -24)
                               : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    return h & 0x8000 ? -v : v;
}
double from_bf16(uint32_t h) { return as_float(h << 16); }

// ---------------------------------------------------------------- when answers agree

std::string at(unsigned i, uint32_t card, uint32_t other) {
    char text[80];
    snprintf(text, sizeof text, "word %u is %08x, the card gave %08x", i, other, card);
    return text;
}

// The same bits.
std::string equal(const uint32_t*, const uint32_t* card, const uint32_t* other, unsigned out) {
    for (unsigned i = 0; i < out; i++)
        if (card[i] != other[i]) return at(i, card[i], other[i]);
    return {};
}

// The same bits, but any NaN for a NaN.
std::string equal_or_nan(const uint32_t*, const uint32_t* card, const uint32_t* other, unsigned out) {
    for (unsigned i = 0; i < out; i++)
        if (card[i] != other[i] && !(is_nan(card[i]) && is_nan(other[i]))) return at(i, card[i], other[i]);
    return {};
}

// Within so many units in the last place; zeros, infinities and NaN where the card gave them.
template <unsigned units>
std::string within(const uint32_t*, const uint32_t* card, const uint32_t* other, unsigned out) {
    for (unsigned i = 0; i < out; i++) {
        float a = as_float(card[i]), b = as_float(other[i]);
        bool plain = std::isfinite(a) && std::isfinite(b) && a != 0 && b != 0 && std::signbit(a) == std::signbit(b);
        uint32_t apart = card[i] > other[i] ? card[i] - other[i] : other[i] - card[i];
        if (plain ? apart > units : card[i] != other[i] && !(is_nan(card[i]) && is_nan(other[i])))
            return at(i, card[i], other[i]);
    }
    return {};
}

// Products: their order and rounding are the card's own business, so a sum may be off by a few units in the last place of what
// was summed without signs (`size`). Where all of it are integers below 2^20 that is less than 1: equal.
bool sums_agree(uint32_t card, uint32_t other, double size) {
    float x = as_float(card), y = as_float(other);
    if (std::isfinite(x) && std::isfinite(y) && std::fabs(double(x) - double(y)) <= size * 0x1p-21 + 0x1p-126) return true;
    return card == other || (is_nan(card) && is_nan(other));
}

template <double (*value)(uint32_t)>
std::string summed(const uint32_t* in, const uint32_t* card, const uint32_t* other, unsigned) {
    auto a = [&](unsigned row, unsigned k) {
        unsigned lane = row % 8 * 4 + k % 8 / 2, word = row / 8 + k / 8 * 2;
        return value(in[lane * 10 + word] >> k % 2 * 16 & 0xffff);
    };
    auto b = [&](unsigned k, unsigned column) {
        return value(in[(column * 4 + k % 8 / 2) * 10 + 4 + k / 8] >> k % 2 * 16 & 0xffff);
    };
    for (unsigned i = 0; i < 128; i++) {
        unsigned lane = i / 4, row = lane / 4 + i % 4 / 2 * 8, column = lane % 4 * 2 + i % 2;
        double size = std::fabs(as_float(in[lane * 10 + 6 + i % 4]));
        for (unsigned k = 0; k < 16; k++) size += std::fabs(a(row, k) * b(k, column));
        if (!sums_agree(card[i], other[i], size)) return at(i, card[i], other[i]);
    }
    return {};
}

// An element of tf32: a float whose last 13 bits do not count.
double from_tf32(uint32_t w) { return as_float(w & ~0x1fffu); }

std::string summed_tf32(const uint32_t* in, const uint32_t* card, const uint32_t* other, unsigned) {
    for (unsigned i = 0; i < 128; i++) {
        unsigned lane = i / 4, row = lane / 4 + i % 4 / 2 * 8, column = lane % 4 * 2 + i % 2;
        double size = std::fabs(as_float(in[lane * 10 + 6 + i % 4]));
        for (unsigned k = 0; k < 8; k++) {
            double a = from_tf32(in[(row % 8 * 4 + k % 4) * 10 + row / 8 + k / 4 * 2]);
            size += std::fabs(a * from_tf32(in[(column * 4 + k % 4) * 10 + 4 + k / 4]));
        }
        if (!sums_agree(card[i], other[i], size)) return at(i, card[i], other[i]);
    }
    return {};
}

// The same of a warpgroup's, for each way its operands may lie (kernels/shared/wgmma.cuh): a in swizzled rows of 128 bytes or in
// registers, b by rows of K or by columns. What the two products of a probe multiply stands in probes.sm90.cu.
enum class Way { slabs, by_columns, registers };

template <double (*value)(uint32_t), Way way>
std::string group_summed(const uint32_t* in, const uint32_t* card, const uint32_t* other, unsigned out) {
    auto half = [&](unsigned byte) { return value(in[byte / 4] >> byte % 4 * 8 & 0xffff); };
    auto swizzled = [&](unsigned first_byte, unsigned row, unsigned i) {
        return half(first_byte + row * 128 + ((i / 8) ^ (row % 8)) * 16 + i % 8 * 2);
    };
    // `k` counts both products' 32.
    auto a = [&](unsigned row, unsigned k) {
        if (way != Way::registers) return swizzled(0, row, k < 16 ? 16 + k : 32 + k);
        unsigned thread = row / 16 * 32 + row % 8 * 4 + k % 8 / 2, word = row % 16 / 8 + k % 16 / 8 * 2;
        return half((k / 16 * 512 + thread * 4 + word) * 4 + k % 2 * 2);
    };
    auto b = [&](unsigned k, unsigned column) {
        if (way == Way::by_columns) return swizzled(8192, column, k);
        return swizzled(8192 + column / 64 * 4096, k, column % 64);
    };
    unsigned sums = out / 128;
    for (unsigned i = 0; i < out; i++) {
        unsigned thread = i / sums, j = i % sums;
        unsigned row = thread / 32 * 16 + thread % 32 / 4 + j % 4 / 2 * 8, column = j / 4 * 8 + thread % 4 * 2 + j % 2;
        double size = std::fabs(as_float(in[4096 + j]));
        for (unsigned k = 0; k < 32; k++) size += std::fabs(a(row, k) * b(k, column));
        if (!sums_agree(card[i], other[i], size)) return at(i, card[i], other[i]);
    }
    return {};
}

// ---------------------------------------------------------------- what goes in

Words random_words(unsigned seed, unsigned count, uint32_t mask = 0xffffffffu) {
    auto random = source(seed);
    Words out(count);
    for (auto& w : out) w = random() & mask;
    return out;
}

// A finite value of either type: sign and fraction at random, the power of two from -`span` to 0.
uint32_t random_half(std::mt19937& random, bool bf16, unsigned span) {
    uint32_t power = random() % (span + 1), bits = random();
    return bf16 ? (bits & 0x8000) | (127 - power) << 7 | (bits & 0x7f) : (bits & 0x8000) | (15 - power) << 10 | (bits & 0x3ff);
}

// A small integer, which both types hold.
uint32_t integer_half(std::mt19937& random, bool bf16) {
    auto v = as_word(static_cast<float>(static_cast<int>(random() % 31) - 15));
    if (bf16) return v >> 16;
    uint32_t exponent = v >> 23 & 255;
    return exponent == 0 ? 0 : (v >> 16 & 0x8000) | (exponent - 112) << 10 | (v >> 13 & 0x3ff);
}

// Infinities, NaN, largest and smallest values, zeros of both signs.
uint32_t special_half(std::mt19937& random, bool bf16) {
    static const uint32_t f16[] = {0x7c00, 0xfc00, 0x7e01, 0x7bff, 0xfbff, 0x0001, 0x83ff, 0x0400, 0x0000, 0x8000, 0x3c00, 0xbc00};
    static const uint32_t b16[] = {0x7f80, 0xff80, 0x7fc1, 0x7f7f, 0xff7f, 0x0001, 0x807f, 0x0080, 0x0000, 0x8000, 0x3f80, 0xbf80};
    return (bf16 ? b16 : f16)[random() % 12];
}

template <bool bf16> Words products() {
    auto random = source(bf16 ? 12 : 11);
    Words out;
    constexpr unsigned cases = 48;
    for (unsigned c = 0; c < cases; c++) {
        // 8 of integers, by which places are known; 24 of values of all sizes; 8 of tiny ones; 8 with a few special ones.
        unsigned kind = c < 8 ? 0 : c < 32 ? 1 : c < 40 ? 2 : 3;
        auto half = [&]() -> uint32_t {
            if (kind == 0) return integer_half(random, bf16);
            if (kind == 2) return random_half(random, bf16, 1) & (bf16 ? 0x80ffu : 0x83ffu);
            if (kind == 3 && random() % 24 == 0) return special_half(random, bf16);
            return random_half(random, bf16, 2 + c % 12);
        };
        auto sum = [&]() -> uint32_t {
            if (kind == 0) return as_word(static_cast<float>(static_cast<int>(random() % 2001) - 1000));
            if (kind == 2) return random() & 0x80ffffffu;
            if (kind == 3 && random() % 16 == 0) {
                static const uint32_t special[] = {0x7f800000, 0xff800000, 0x7fc00001, 0x7f7fffff, 0x00000001, 0x80000000};
                return special[random() % 6];
            }
            return (random() & 0x80000000u) | (120 + random() % 12) << 23 | (random() & 0x7fffff);
        };
        for (unsigned lane = 0; lane < 32; lane++) {
            for (unsigned i = 0; i < 6; i++) {
                uint32_t low = half();
                out.push_back(low | half() << 16);
            }
            for (unsigned i = 0; i < 4; i++) out.push_back(sum());
        }
    }
    return out;
}

// Integers, by which places are known, without and with bits that do not count; values of all sizes; a few special ones.
Words products_tf32() {
    auto random = source(15);
    Words out;
    for (unsigned c = 0; c < 40; c++) {
        unsigned kind = c < 8 ? 0 : c < 16 ? 1 : c < 32 ? 2 : 3;
        auto element = [&]() -> uint32_t {
            if (kind < 2) {
                auto v = as_word(static_cast<float>(static_cast<int>(random() % 31) - 15));
                return kind == 0 ? v : v | (random() & 0x1fff);
            }
            static const uint32_t special[] = {0x7f800000, 0xff800000, 0x7fffe000, 0x7f7fe000, 0x00002000, 0x80000000};
            if (kind == 3 && random() % 24 == 0) return special[random() % 6];
            return (random() & 0x807fe000u) | (127 - random() % (2 + c % 12)) << 23;
        };
        for (unsigned lane = 0; lane < 32; lane++) {
            for (unsigned i = 0; i < 6; i++) out.push_back(element());
            for (unsigned i = 0; i < 4; i++) out.push_back(as_word(static_cast<float>(static_cast<int>(random() % 2001) - 1000)));
        }
    }
    return out;
}

// Integers, by which places are known; values of all sizes, twice.
template <bool bf16> Words group_products() {
    auto random = source(bf16 ? 14 : 13);
    Words out;
    for (unsigned c = 0; c < 3; c++) {
        auto half = [&] { return c == 0 ? integer_half(random, bf16) : random_half(random, bf16, 4 * c); };
        for (unsigned i = 0; i < 4096; i++) {
            uint32_t low = half();
            out.push_back(low | half() << 16);
        }
        for (unsigned i = 0; i < 64; i++)
            out.push_back(as_word(static_cast<float>(static_cast<int>(random() % 2001) - 1000) * (c == 0 ? 1.0f : 0x1p-8f)));
    }
    return out;
}

Words matrices() {
    auto random = source(21);
    Words out;
    for (unsigned c = 0; c < 8; c++) {
        for (unsigned i = 0; i < 128; i++) out.push_back(random());
        for (unsigned lane = 0; lane < 32; lane++) out.push_back(c == 0 ? lane : random() % 32);
    }
    return out;
}

Words copies() {
    auto random = source(22);
    Words out;
    for (unsigned c = 0; c < 8; c++) {
        for (unsigned i = 0; i < 256; i++) out.push_back(random());
        for (unsigned i = 0; i < 64; i++) out.push_back(c == 0 || random() % 3 != 0);
    }
    return out;
}

// Arguments the same in all lanes, each other one, also beyond 31; then of each lane its own.
Words shuffles() {
    auto random = source(23);
    Words out;
    for (unsigned c = 0; c < 48; c++) {
        for (unsigned lane = 0; lane < 32; lane++) out.push_back(random() & 0x7effffff);  // no NaN: as a float its bits stay
        for (unsigned lane = 0; lane < 32; lane++) out.push_back(c < 40 ? c : random() % 32);
    }
    return out;
}

// Nobody, one, all but one, everybody, some.
Words votes() {
    auto random = source(24);
    Words out;
    for (unsigned c = 0; c < 16; c++)
        for (unsigned lane = 0; lane < 32; lane++)
            out.push_back(c == 0 ? 0 : c == 1 ? 1 : c < 6 ? lane == c * 5 : c < 11 ? lane != c * 3 % 32 : random() % 2);
    return out;
}

Words rounds() { return random_words(25, 4 * 128); }

// Each thread's bit its own (bits 0 to 31 by the first warp alone), then bits that many set.
Words bits() {
    auto random = source(26);
    Words out;
    for (unsigned c = 0; c < 4; c++)
        for (unsigned i = 0; i < 64; i++) out.push_back(c < 2 && i < 32 ? 1u << i & (c ? random() : ~0u) : 0);
    return out;
}

// Every sign and exponent with 32 fractions.
Words halves() {
    auto random = source(27);
    Words out;
    for (uint32_t head = 0; head < 64; head++)
        for (unsigned i = 0; i < 32; i++) out.push_back(head << 10 | (i < 8 ? (i < 4 ? i : 0x3ff - i + 4) : random() & 0x3ff));
    return out;
}

// Ties and their neighbours at each exponent of both types, then words at random.
Words floats() {
    auto random = source(28);
    Words out;
    for (uint32_t exponent = 0; exponent < 256; exponent++)
        for (unsigned i = 0; i < 8; i++) {
            static const uint32_t tail[] = {0, 0x1000, 0x1001, 0x3000, 0x8000, 0x8001, 0x18000, 0x7fffff};
            uint32_t sign = random() & 0x80000000u;
            out.push_back(sign | exponent << 23 | (tail[i] ^ (i < 7 && random() % 2 ? 0x400000 : 0)));
        }
    for (unsigned i = 0; i < 1024; i++) out.push_back(random());
    return out;
}

// What exponents and reciprocals are taken of: -150 to 129, near integers too, then words at random.
Words exponents() {
    auto random = source(29);
    Words out;
    for (unsigned i = 0; i < 1024; i++) {
        float v = static_cast<float>(static_cast<int>(random() % 280) - 150);
        out.push_back(as_word(i % 4 == 0 ? v : v + std::ldexp(static_cast<float>(random() % 65536), i % 4 == 1 ? -40 : -16)));
    }
    for (unsigned i = 0; i < 512; i++) out.push_back(random());
    for (uint32_t w : {0x0u, 0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x1u, 0x80000001u, 0x7fffffu}) out.push_back(w);
    while (out.size() % 32) out.push_back(0x3f800000u);
    return out;
}

Words loads() { return random_words(30, 4 * 128); }

// Each case's array at random, then where its box begins.
template <class Place> Words arrays(unsigned seed, unsigned cases, unsigned words, Place place) {
    Words out;
    for (unsigned c = 0; c < cases; c++) {
        Words of = random_words(seed + c, words - 8);
        out.insert(out.end(), of.begin(), of.end());
        Words at = place(c);
        at.resize(8);
        out.insert(out.end(), at.begin(), at.end());
    }
    return out;
}

// All cases' words are one array, of rows of 48 elements with 8 more that no row has: a box may begin before it and end behind it.
constexpr unsigned plane_cases = 6;
const Mapped plane = {{48, plane_cases * 1032 / 28}, {112}, {64, 24}};
Words planes() {
    return arrays(31, plane_cases, 1032, [](unsigned c) -> Words {
        static const int places[plane_cases][2] = {{0, 0}, {8, 30}, {-5, -7}, {3, 215}, {47, 100}, {48, 60}};
        return {static_cast<uint32_t>(places[c][0]), static_cast<uint32_t>(places[c][1])};
    });
}

// Each case is a plane of 72 by 28 elements; the box has three planes of eight rows.
const Mapped block = {{72, 28, 0}, {144, 4128}, {64, 8, 3}};
Words blocks() {
    return arrays(41, 5, 1032, [](unsigned c) -> Words {
        static const int places[5][3] = {{0, 0, 0}, {8, 24, 0}, {64, -3, -1}, {-8, 20, 1}, {16, 5, 0}};
        return {static_cast<uint32_t>(places[c][0]), static_cast<uint32_t>(places[c][1]), static_cast<uint32_t>(places[c][2])};
    });
}

// Each case is a picture of 5 by 4 pixels of 72 channels.
const Mapped same = {{72, 5, 4, 0}, {144, 720, 2912}, {64, 24}, -1, -1, 1};
const Mapped halved = {{72, 5, 4, 0}, {144, 720, 2912}, {64, 24}, -1, 0, 2};
Words pictures(unsigned seed, const unsigned (&places)[8][5]) {
    return arrays(seed, 8, 728, [&](unsigned c) { return Words(places[c], places[c] + 5); });
}
Words same_pictures() {
    constexpr auto before = ~0u;
    return pictures(51, {{0, before, before, 0, 0}, {0, before, before, 1, 1}, {64, before, before, 2, 2}, {8, 2, 1, 0, 1}, {0, 3, 2, 2, 0},
                         {16, 0, 2, 1, 2}, {0, before, 1, 0, 0}, {0, 1, 0, 2, 2}});
}
// Places -1, 1 and 3 across, -1, 1 and 3 down.
Words halved_pictures() {
    constexpr auto before = ~0u;
    return pictures(61, {{0, before, before, 0, 0}, {0, before, before, 1, 1}, {64, 1, before, 2, 2}, {8, 3, 1, 0, 1}, {0, 3, 3, 2, 0},
                         {16, 1, 1, 1, 2}, {0, before, 1, 0, 0}, {0, 1, 3, 2, 2}});
}

Words added() { return random_words(73, 4 * 32); }
Words handed() { return random_words(71, 4 * 64); }
Words kept() { return random_words(72, 2 * 384); }

}  // namespace

// PTX states 2^-22 for ex2.approx and 1 unit for rcp.approx; the emulator's own rounding adds a half.
const std::vector<Probe> all = {
    {"mma_f16", "mma_m16n8k16<half_t>", false, 32, 0, 320, 128, products<false>, summed<from_f16>},
    {"mma_bf16", "mma_m16n8k16<bf16_t>", false, 32, 0, 320, 128, products<true>, summed<from_bf16>},
    {"mma_tf32", "mma_m16n8k8_tf32", false, 32, 0, 320, 128, products_tf32, summed_tf32},
    {"ldmatrix", "ldmatrix_x4 ldmatrix_x2 ldmatrix_x4_trans ldmatrix_x2_trans", false, 32, 0, 160, 384, matrices, equal},
    {"cp_async", "cp_async16 cp_async_commit cp_async_wait", false, 32, 0, 320, 256, copies, equal},
    {"shuffle", "shuffle_xor shuffle_down shuffle", false, 32, 0, 64, 192, shuffles, equal},
    {"vote", "vote_any vote_all", false, 32, 0, 32, 64, votes, equal},
    {"barriers", "sync_block sync_warp", false, 128, 0, 128, 256, rounds, equal},
    {"atomic_or", "atomic_or", false, 64, 0, 64, 65, bits, equal},
    {"atomic_add", "atomic_add fence_device load_device16", false, 32, 0, 32, 36, added, equal},
    {"from_f16", "f16_to_f32", false, 32, 0, 32, 32, halves, equal_or_nan},
    {"rounding", "f32_to_f16 f32x2_to_f16x2 f32_to_bf16 f32x2_to_bf16x2", false, 32, 0, 64, 128, floats, equal},
    {"to_tf32", "f32_to_tf32", false, 32, 0, 32, 32, floats, equal_or_nan},
    {"exp2", "exp2_approx", false, 32, 0, 32, 32, exponents, within<5>},
    {"rcp", "rcp_approx", false, 32, 0, 32, 32, exponents, within<2>},
    {"load_nc", "load_global_nc16", false, 32, 0, 128, 128, loads, equal},
    {"wgmma_n64_f16", "wgmma_m64n64k16<half_t> wgmma_descriptor fence_async_shared wgmma_fence wgmma_commit wgmma_wait", true, 128,
     16384, 4160, 4096, group_products<false>, group_summed<from_f16, Way::slabs>},
    {"wgmma_n64_bf16", "wgmma_m64n64k16<bf16_t>", true, 128, 16384, 4160, 4096, group_products<true>,
     group_summed<from_bf16, Way::slabs>},
    {"wgmma_n128_f16", "wgmma_m64n128k16<half_t>", true, 128, 16384, 4160, 8192, group_products<false>,
     group_summed<from_f16, Way::slabs>},
    {"wgmma_n128_bf16", "wgmma_m64n128k16<bf16_t>", true, 128, 16384, 4160, 8192, group_products<true>,
     group_summed<from_bf16, Way::slabs>},
    {"wgmma_nk_f16", "wgmma_m64n64k16_nk<half_t>", true, 128, 16384, 4160, 4096, group_products<false>,
     group_summed<from_f16, Way::by_columns>},
    {"wgmma_nk_bf16", "wgmma_m64n64k16_nk<bf16_t>", true, 128, 16384, 4160, 4096, group_products<true>,
     group_summed<from_bf16, Way::by_columns>},
    {"wgmma_rs_f16", "wgmma_m64n64k16_rs<half_t>", true, 128, 16384, 4160, 4096, group_products<false>,
     group_summed<from_f16, Way::registers>},
    {"wgmma_rs_bf16", "wgmma_m64n64k16_rs<bf16_t>", true, 128, 16384, 4160, 4096, group_products<true>,
     group_summed<from_bf16, Way::registers>},
    {"tma_2d", "tma_load_2d mbarrier_arrive_expect", true, 32, 3080, 1032, 768, planes, equal, &plane},
    {"tma_3d", "tma_load_3d", true, 32, 3080, 1032, 768, blocks, equal, &block},
    {"tma_im2col", "tma_load_im2col", true, 32, 3080, 728, 768, same_pictures, equal, &same},
    {"tma_im2col_step", "tma_load_im2col", true, 32, 3080, 728, 768, halved_pictures, equal, &halved},
    {"mbarrier", "mbarrier_init mbarrier_init_fence mbarrier_arrive mbarrier_wait", true, 64, 512, 64, 5, handed, equal},
    {"registers", "registers_give registers_take", true, 384, 0, 384, 384, kept, equal},
};

}  // namespace probes
