// Copies by the tensor memory accelerator: right ones against formulas of their own, and what must be reported of the wrong ones.
#include <functional>
#include <random>

#include "check.hpp"
#include "emulator/tensor_map.hpp"
#include "shared/tma.cuh"

namespace selftest {

namespace {

using Half = unsigned short;

// An array with a value of its own in each element, and its map.
struct Array {
    std::vector<uint32_t> sides;
    Buffer<Half> values;
    emu::MapWords words{};

    explicit Array(std::vector<uint32_t> of) : sides(std::move(of)), values(count()) {
        for (size_t i = 0; i < count(); i++) values[i] = static_cast<Half>(1 + i);
        words.address = reinterpret_cast<uint64_t>(values.get());
        words.magic = emu::MapWords::kind;
        words.rank = static_cast<uint16_t>(sides.size());
        uint64_t pitch = 2;
        for (size_t i = 0; i < sides.size(); i++) {
            words.side[i] = sides[i];
            pitch *= sides[i];
            if (i + 1 < sides.size()) words.pitch[i] = pitch;
        }
    }

    size_t count() const {
        size_t all = 1;
        for (uint32_t s : sides) all *= s;
        return all;
    }

    // The element at these coordinates, 0 outside.
    Half at(std::vector<long> where) const {
        size_t index = 0;
        for (size_t i = sides.size(); i-- > 0;) {
            if (where[i] < 0 || where[i] >= static_cast<long>(sides[i])) return 0;
            index = index * sides[i] + static_cast<size_t>(where[i]);
        }
        return values[index];
    }

    TensorMap map() const {
        TensorMap m{};
        memcpy(&m, &words, sizeof words);
        return m;
    }
};

void compare(const char* what, const emu::Result& r, const Buffer<Half>& got, unsigned rows,
             const std::function<Half(unsigned, unsigned)>& want) {
    CHECK(r.text == "");
    unsigned wrong = 0;
    for (unsigned row = 0; row < rows; row++)
        for (unsigned i = 0; i < 64; i++) wrong += got[row * 64 + i] != want(row, i);
    if (wrong > 0) printf("%s: %u elements are wrong\n", what, wrong);
    CHECK(wrong == 0);
}

void planes(emu::Options options) {
    Array a({80, 50});
    a.words.box[0] = 64, a.words.box[1] = 24;
    for (auto [x, y] : {std::pair{0, 0}, {16, 20}, {64, 40}, {-3, -5}, {80, 0}}) {
        Buffer<Half> got(24 * 64);
        auto r = launch("copies_of_a_plane", {1, 1, 1}, 24 * 128 + 8, options, a.map(), x, y, 24u, got.get());
        compare("a plane", r, got, 24, [&, x = x, y = y](unsigned row, unsigned i) { return a.at({x + long(i), y + long(row)}); });
    }
    Array b({72, 9, 5});
    b.words.box[0] = 64, b.words.box[1] = 8, b.words.box[2] = 3;
    Buffer<Half> got(24 * 64);
    auto r = launch("copies_of_a_block", {1, 1, 1}, 24 * 128 + 8, options, b.map(), 8, 4, 3, 24u, got.get());
    compare("a block", r, got, 24, [&](unsigned row, unsigned i) { return b.at({8 + long(i), 4 + row % 8, 3 + row / 8}); });
}

// Output pixels `first` and on of a convolution of `pictures` of w x h by `stride`, `lower` being where the first of a picture
// reads: by the formula that a convolution has, not by places of a box.
void pixels(emu::Options options, uint32_t w, uint32_t h, int lower, int upper, unsigned stride, unsigned first) {
    constexpr unsigned rows = 40;
    Array a({72, w, h, 3});
    a.words.im2col = true;
    a.words.box[0] = 64, a.words.box[1] = rows;
    for (unsigned i = 0; i < 2; i++) {
        a.words.lower[i] = static_cast<int8_t>(lower), a.words.upper[i] = static_cast<int8_t>(upper);
        a.words.step[i] = static_cast<uint8_t>(stride);
    }
    long across = (long(w) - 1 + upper - lower) / stride + 1, down = (long(h) - 1 + upper - lower) / stride + 1;
    auto place = [&](long pixel) {
        return std::vector<long>{0, lower + pixel % across * stride, lower + pixel / across % down * stride, pixel / across / down};
    };
    for (unsigned tap = 0; tap < 9; tap += 4) {
        unsigned dx = tap % 3, dy = tap / 3, c = tap == 4 ? 64 : 0;
        auto start = place(first);
        Buffer<Half> got(rows * 64);
        auto r = launch("copies_of_pixels", {1, 1, 1}, rows * 128 + 8, options, a.map(), c, int(start[1]), int(start[2]),
                        unsigned(start[3]), dx, dy, rows, got.get());
        compare("pixels", r, got, rows, [&](unsigned row, unsigned i) {
            auto at = place(long(first) + row);
            return a.at({long(c + i), at[1] + long(dx), at[2] + long(dy), at[3]});
        });
    }
}

struct Mistake {
    const char* kernel;
    const char* words;
};

constexpr Mistake mistakes[] = {
    {"copy_read_before_its_wait", "whose barrier has not been waited for"},
    {"copy_multiplied_before_its_wait", "reads byte"},
    {"copy_that_others_waited_for", "of its block's shared memory"},
    {"copy_for_a_barrier_unknown_to_it", "without mbarrier_init_fence"},
    {"barrier_before_the_block_meets", "barrier"},
    {"copy_over_a_product_that_did_not_arrive", "of its block's shared memory"},
    {"copy_under_a_product", "that a product of warp"},
    {"copy_under_a_younger_product", "that a product of warp"},
    {"copy_over_what_is_not_fenced", "a copy overwrites"},
    {"copy_over_a_copy", "whose barrier has not been waited for"},
    {"copy_of_too_little", "for 0 arrivals and 8192 bytes, which nobody will bring"},
    {"arrival_too_many", "once more than"},
    {"wait_for_nobody", "for 4 arrivals and 0 bytes, which nobody will bring"},
    {"box_left_behind", "while a copy to its shared memory is under way"},
    {"copy_to_an_odd_place", "no multiple of 1024"},
    {"copy_past_the_end", "outside the arrays"},
    {"copy_by_no_map", "by what is not a map"},
    {"copy_by_another_map", "by a map of 2 sides"},
    {"barrier_written_to", "a barrier"},
    {"registers_of_some_warps", "different numbers of registers"},
    {"registers_of_nobody", "takes 256 registers, and had 512"},
    {"registers_given_that_are_not_there", "gives all but 64 registers, and had 40"},
};

void expect(const char* kernel, const char* words, const emu::Result& r) {
    bool held = r.text.find(kernel) != std::string::npos && r.text.find(words) != std::string::npos;
    if (!held) printf("%s: got \"%s\", want \"%s\"\n", kernel, r.text.c_str(), words);
    CHECK(held);
}

}  // namespace

void transfers() {
    for (auto order : orders) {
        emu::Options options;
        options.order = order;
        options.shared_limit = 227 << 10;
        planes(options);
        pixels(options, 7, 5, -1, -1, 1, 0);
        pixels(options, 7, 5, -1, -1, 1, 33);
        pixels(options, 8, 6, 0, -1, 2, 5);
        pixels(options, 9, 7, -1, -1, 2, 21);
        pixels(options, 3, 2, 0, 0, 1, 11);
        Array a({64, 64});
        a.words.box[0] = a.words.box[1] = 64;
        Buffer<float> d(384);
        CHECK(launch("copy_after_copy", {1, 1, 1}, 16384 + 16, options, a.map(), d.get()).text == "");
        for (const auto& m : mistakes) expect(m.kernel, m.words, launch(m.kernel, {1, 1, 1}, 16384 + 16, options, a.map(), d.get()));
        expect("registers_that_others_keep", "more registers than others give",
               launch("registers_that_others_keep", {1, 1, 1}, 0, options, d.get()));
    }
}

}  // namespace selftest
