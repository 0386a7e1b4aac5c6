// cp.async in a ring, memory that comes and goes, and the same bytes in every order of threads.
#include "check.hpp"

namespace selftest {

void copies() {
    for (unsigned n : {1u, 31u, 32u, 33u, 64u, 100u, 257u}) {
        std::vector<uint4> values(n);
        for (unsigned i = 0; i < n; i++) values[i] = {i, i * i, ~i, 7 * i};
        unsigned rows = (n + 31) / 32 * 32;
        std::vector<std::vector<uint4>> results;
        for (auto order : orders) {
            emu::Options options;
            options.order = order;
            Buffer<uint4> in(values), out(rows);
            auto r = launch("ring", {1, 1, 1}, 0, options, in.get(), out.get(), n);
            CHECK(r.text == "");
            bool same = true;
            for (unsigned i = 0; i < rows; i++) {
                uint4 want = (i ^ 1) < n ? values[i ^ 1] : uint4{0, 0, 0, 0};
                same = same && memcmp(&out[i], &want, 16) == 0;
            }
            CHECK(same);
            results.push_back(out.values());
        }
        for (auto& other : results) CHECK(memcmp(other.data(), results[0].data(), rows * 16) == 0);
    }

    // A run in the opposite order tells what hangs on the order.
    {
        std::vector<uint4> values(100, uint4{1, 2, 3, 4});
        Buffer<uint4> in(values), out(128);
        Buffer<unsigned> word(std::vector<unsigned>{0}), order(4);
        auto twice = [](const char* name, unsigned blocks, std::vector<void*> parameters) {
            return emu::launch_twice(*emu::find_entry(name), {blocks, 1, 1}, {32, 1, 1}, 0, parameters.data(), {});
        };
        void *i = in.get(), *o = out.get(), *w = word.get(), *d = order.get();
        unsigned n = 100;
        auto r = twice("ring", 1, {&i, &o, &n});
        CHECK(r.text == "" && memcmp(&out[99], &in[98], 16) == 0);
        r = twice("depends_on_order", 4, {&w, &d});
        CHECK(r.fault == emu::Fault::violation && r.text.find("depends_on_order") != std::string::npos);
        r = twice("depends_on_order", 1, {&w, &d});
        CHECK(r.text == "");
    }

    // Memory: 256-byte aligned, NaN until written, apart, gone when freed.
    size_t before = emu::allocated_bytes();
    auto* a = static_cast<float*>(emu::allocate(100));
    auto* b = static_cast<float*>(emu::allocate(1000));
    CHECK(a != nullptr && b != nullptr && reinterpret_cast<uintptr_t>(a) % 256 == 0 && a[0] != a[0] && b[249] != b[249]);
    CHECK(emu::allocated_bytes() == before + 1100);
    CHECK(emu::inside_allocation(reinterpret_cast<char*>(a) + 99, 1) && !emu::inside_allocation(a, 101));
    CHECK(!emu::inside_allocation(reinterpret_cast<char*>(a) - 1, 1) && emu::is_device_address(a));
    CHECK(emu::damaged_guards().empty());
    reinterpret_cast<char*>(a)[100] = 1;
    CHECK(emu::damaged_guards().find("0 bytes past the end of an allocation of 100") != std::string::npos);
    CHECK(!emu::release(a + 1) && emu::release(a) && !emu::release(a));
    CHECK(!emu::inside_allocation(a, 4) && emu::damaged_guards().empty());
    reinterpret_cast<char*>(b)[-1] = 1;
    CHECK(emu::damaged_guards().find("1 bytes before") != std::string::npos);
    CHECK(emu::release(b) && emu::allocated_bytes() == before);
    CHECK(emu::allocate(0) == nullptr && emu::allocate(~size_t(0) / 4) == nullptr);
}

}  // namespace selftest
