// Products of a warpgroup: the right one against the sums themselves, and what must be reported of the wrong ones.
#include <cmath>
#include <random>

#include "check.hpp"

namespace selftest {

namespace {

constexpr unsigned shared_bytes = 64 * 64 * 2 + 64 * 128 * 2;

// a 64 x 64 by b 64 x `columns`, added to what was in d or to zeros.
void right_sums(const char* kernel, unsigned columns, bool adds, emu::Options options) {
    std::mt19937 random(9);
    // Small integers: every sum is exact, so any other place of an element shows.
    std::vector<float> a(64 * 64), b(64 * columns), d(64 * columns);
    for (auto* m : {&a, &b, &d})
        for (auto& v : *m) v = static_cast<float>(static_cast<int>(random() % 15) - 7);
    Buffer<float> da(a), db(b), dd(d);
    auto r = launch(kernel, {1, 1, 1}, shared_bytes, options, da.get(), db.get(), dd.get());
    CHECK(r.text == "");
    unsigned wrong = 0;
    for (unsigned row = 0; row < 64; row++)
        for (unsigned c = 0; c < columns; c++) {
            double sum = adds ? d[row * columns + c] : 0;
            for (unsigned k = 0; k < 64; k++) sum += double(a[row * 64 + k]) * double(b[k * columns + c]);
            wrong += double(dd[row * columns + c]) != sum;
        }
    if (wrong > 0) printf("%s: %u sums are wrong\n", kernel, wrong);
    CHECK(wrong == 0);
}

struct Mistake {
    const char* kernel;
    const char* words;
};

constexpr Mistake mistakes[] = {
    {"product_of_what_is_not_fenced", "without fence_async_shared"},
    {"product_before_the_barrier", "of its block's shared memory"},
    {"product_without_its_fence", "without wgmma_fence"},
    {"product_after_a_wait_without_a_fence", "without wgmma_fence"},
    {"product_left_behind", "without having waited for its product"},
    {"product_not_committed", "without having waited for its product"},
    {"product_over_what_is_written", "with no barrier between"},
    {"product_of_two_groups", "name different operands"},
    {"product_past_the_end", "outside the arrays"},
    {"product_of_some_warps", "different numbers of products"},
};

}  // namespace

void warpgroups() {
    for (auto order : orders) {
        emu::Options options;
        options.order = order;
        right_sums("warpgroup_product", 128, true, options);
        right_sums("warpgroup_product_nk", 64, false, options);
        right_sums("warpgroup_product_rs", 64, false, options);
        Buffer<float> a(std::vector<float>(64 * 64, 1.0f)), b(std::vector<float>(64 * 64, 1.0f)), d(128);
        for (const auto& m : mistakes) {
            auto r = launch(m.kernel, {1, 1, 1}, 64 * 64 * 4, options, a.get(), b.get(), d.get());
            bool held = r.text.find(m.kernel) != std::string::npos && r.text.find(m.words) != std::string::npos;
            if (!held) printf("%s: got \"%s\", want \"%s\"\n", m.kernel, r.text.c_str(), m.words);
            CHECK(held);
        }
        auto r = launch("sums_before_the_wait", {1, 1, 1}, 64 * 64 * 4, options, a.get(), b.get(), d.get());
        CHECK(r.text == "" && std::isnan(d[0]) && std::isnan(d[127]));
    }
}

}  // namespace selftest
