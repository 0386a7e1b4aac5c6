// Conversions against the definition of rounding, approximations against libm in f64.
#include <cmath>
#include <random>

#include "check.hpp"

namespace selftest {

namespace {

// A format of `exponent_bits` and `fraction_bits`: the value of a finite pattern.
double value_of(unsigned pattern, int exponent_bits, int fraction_bits) {
    int bias = (1 << (exponent_bits - 1)) - 1;
    unsigned sign = pattern >> 15, exponent = pattern >> fraction_bits & ((1u << exponent_bits) - 1);
    double fraction = pattern & ((1u << fraction_bits) - 1);
    double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                     : std::ldexp(fraction + (1u << fraction_bits), int(exponent) - bias - fraction_bits);
    return sign != 0 ? -magnitude : magnitude;
}

// Whether `pattern` is the nearest to v, of two as near the even one. Infinity counts as the value after the largest.
bool is_nearest(double v, unsigned pattern, int exponent_bits, int fraction_bits) {
    unsigned infinity = ((1u << exponent_bits) - 1) << fraction_bits, magnitude = pattern & 0x7fffu;
    if (magnitude > infinity || (pattern >> 15 != 0) != std::signbit(v)) return false;
    double target = std::fabs(v), here = std::fabs(value_of(magnitude, exponent_bits, fraction_bits));
    double error = std::fabs(here - target);
    if (std::isinf(target)) return magnitude == infinity;
    for (int step : {-1, 1}) {
        if ((step < 0 && magnitude == 0) || (step > 0 && magnitude == infinity)) continue;
        double other = std::fabs(value_of(magnitude + unsigned(step), exponent_bits, fraction_bits) - target);
        if (other < error || (other == error && magnitude % 2 != 0)) return false;
    }
    return true;
}

void conversions() {
    bool exact = true;
    for (unsigned p = 0; p < 65536; p++) {
        if ((p & 0x7c00u) == 0x7c00u) continue;
        float f = f16_to_f32(static_cast<unsigned short>(p));
        exact = exact && double(f) == value_of(p, 5, 10) && std::signbit(f) == (p >> 15 != 0) && f32_to_f16(f) == p;
    }
    CHECK(exact);
    CHECK(std::isinf(f16_to_f32(0x7c00)) && f16_to_f32(0xfc00) < 0 && std::isnan(f16_to_f32(0x7e00)));

    std::vector<float> in = {0.0f, -0.0f, 65504.0f, 65519.99f, 65520.0f, -65536.0f, 1e30f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f,
                             0x1.000002p-25f, 0x1p-14f, 0x1.ffcp-15f, 0x1.ffep-15f, 0x1p-133f, INFINITY, 3.4e38f,
                             0x1p-140f};
    for (unsigned p = 0; p < 0x7c00; p++) {  // every tie of f16 and its neighbours
        auto tie = static_cast<float>((value_of(p, 5, 10) + value_of(p + 1, 5, 10)) / 2);
        for (float v : {std::nextafterf(tie, 0.0f), tie, std::nextafterf(tie, 1e9f)}) in.push_back(p % 2 != 0 ? v : -v);
    }
    std::mt19937 random(3);
    while (in.size() < 150000) {
        unsigned bits = static_cast<unsigned>(random());
        float f;
        memcpy(&f, &bits, 4);
        if (std::isfinite(f)) in.push_back(f);
    }
    auto n = static_cast<unsigned>(in.size());
    Buffer<float> di(in);
    Buffer<half_t> f16(n);
    Buffer<bf16_t> bf16(n);
    Buffer<unsigned> packed(2 * n), control(std::vector<unsigned>{0});
    auto r = launch("rounding", {1, 1, 1}, 0, {}, di.get(), f16.get(), bf16.get(), packed.get(), control.get(), n);
    CHECK(r.text == "" && control[0] == TS_NARROW);
    bool nearest = true, paired = true;
    for (unsigned i = 0; i < n; i++) {
        nearest = nearest && is_nearest(in[i], f16[i].bits, 5, 10) && is_nearest(in[i], bf16[i].bits, 8, 7);
        paired = paired && packed[2 * i] == (unsigned(f16[i].bits) | (unsigned(f16[i].bits) ^ 0x8000u) << 16) &&
                 packed[2 * i + 1] == bf16[i].bits;
    }
    CHECK(nearest);
    CHECK(paired);
    // The status is set by what f16 can't hold, and by nothing less.
    for (auto [v, want] : {std::pair{65504.0f, 0u}, {65504.01f, TS_NARROW}, {-65505.0f, TS_NARROW}, {NAN, TS_NARROW},
                           {INFINITY, TS_NARROW}, {0.0f, 0u}}) {
        di[0] = v, control[0] = 0;
        r = launch("rounding", {1, 1, 1}, 0, {}, di.get(), f16.get(), bf16.get(), packed.get(), control.get(), 1u);
        CHECK(r.text == "" && control[0] == want);
    }
}

// Lane 4 g holds the one element of row g that is multiplied, by 1.
void tf32() {
    std::vector<float> in = {1.0f, 0x1.002p0f, 0x1.001ffep0f, -0x1.002p0f, 0x1.006p0f, 0x1.ffdffep127f, 0x1.ffep127f, INFINITY,
                             -0.0f, 0x1p-130f, 0x1.3ffp-3f, 65504.0f};
    std::vector<float> want = {1.0f, 0x1.004p0f, 1.0f, -0x1.004p0f, 0x1.008p0f, 0x1.ffcp127f, INFINITY, INFINITY,
                               -0.0f, 0x1p-130f, 0x1.4p-3f, 65504.0f};
    std::mt19937 random(5);
    for (; in.size() < 31; want.push_back(NAN)) in.push_back(static_cast<float>(random()) / 7.0f);
    in.push_back(NAN);
    Buffer<float> di(in), product(32);
    Buffer<unsigned> rounded(32);
    auto r = launch("tf32_cut", {1, 1, 1}, 0, {}, di.get(), rounded.get(), product.get());
    CHECK(r.text == "");
    bool nearest = true, cut = true;
    for (unsigned i = 0; i < 31; i++) {
        float got = bits_to_f32(rounded[i]);
        if (i < 12) nearest = nearest && memcmp(&got, &want[i], 4) == 0;
        // Eleven bits, off by at most half of the last one.
        else nearest = nearest && std::fabs(double(got) - double(in[i])) <= std::ldexp(std::fabs(double(in[i])), -11);
        nearest = nearest && (rounded[i] & 0x1fffu) == 0;
    }
    CHECK(nearest && std::isnan(bits_to_f32(rounded[31])));
    for (unsigned g = 0; g < 8; g++) {
        float kept = bits_to_f32(f32_to_bits(in[4 * g]) & ~0x1fffu);
        cut = cut && product[4 * g] == kept;
    }
    CHECK(cut);
}

void approximations() {
    std::vector<float> in;
    for (int i = -3000; i <= 3000; i++) in.push_back(float(i) * 0.01f);
    for (float v : {88.0f, -88.0f, 126.0f, -126.0f, 1e-20f, -1e-20f, 200.0f, -200.0f}) in.push_back(v);
    auto n = static_cast<unsigned>(in.size());
    Buffer<float> di(in), out(6 * n);
    auto r = launch("approximations", {1, 1, 1}, 0, {}, di.get(), out.get(), n);
    CHECK(r.text == "");
    bool close = true;
    for (unsigned i = 0; i < n; i++) {
        double x = in[i], erf = std::erf(x / std::sqrt(2.0));
        double want[6] = {std::exp2(x), 1 / x, std::erf(x), x / (1 + std::exp(-x)), 0.5 * x * (1 + erf),
                          x / (1 + std::exp(-double(1.702f * in[i])))};
        for (int k = 0; k < 6; k++) {
            float got = out[i * 6 + k];
            // exp2 over- and underflows as f32 does; the activations lose relative precision in their far left tail.
            if (k == 0 && x >= 128) close = close && std::isinf(got);
            else if (k == 0 && x < -126) close = close && got == 0.0f;
            else if (k == 1 && x == 0) close = close && std::isinf(got);
            else close = close && std::fabs(got - want[k]) <= 2e-6 * std::fabs(want[k]) + (k < 3 ? 0.0 : 4e-6);
        }
    }
    CHECK(close);
}

}  // namespace

void numbers() {
    conversions();
    tf32();
    approximations();
}

}  // namespace selftest
