// Every mistake of mistakes.cu must be reported, in its class and in words that lead to it, whatever the order of threads;
// and a launch after it must be as good as if it had not been.
#include "check.hpp"

namespace selftest {

namespace {

using emu::Fault;

void must_report(const char* kernel, const emu::Result& r, Fault fault, const char* words) {
    bool named = r.text.find(kernel) != std::string::npos;
    bool held = r.fault == fault && named && r.text.find(words) != std::string::npos;
    if (!held) printf("%s: got (%d) \"%s\", want \"%s\"\n", kernel, int(r.fault), r.text.c_str(), words);
    CHECK(held);
}

struct Mistake {
    const char* kernel;
    Fault fault;
    const char* words;
};

// Kernels that take `out` alone.
constexpr Mistake with_output[] = {
    {"no_barrier_before_reading", Fault::violation, "of its block's shared memory"},
    {"no_barrier_before_overwriting", Fault::violation, "with no barrier between"},
    {"two_write_the_same", Fault::violation, "wrote with no barrier between"},
    {"warp_barrier_between_warps", Fault::violation, "of its block's shared memory"},
    {"warp_barrier_after_writing", Fault::violation, "with no barrier between"},
    {"no_warp_barrier", Fault::violation, "of its block's shared memory"},
    {"barrier_in_a_branch", Fault::violation, "diverged at a barrier: thread"},
    {"two_barriers", Fault::violation, "diverged at a barrier: thread"},
    {"shuffle_in_a_branch", Fault::violation, "diverged at a collective: thread"},
    {"two_collectives", Fault::violation, "diverged at a collective: thread"},
    {"same_collective_elsewhere", Fault::violation, "diverged at a collective: thread"},
    {"writes_before_the_start", Fault::address, "writes 4 bytes of global memory"},
    {"shared_past_the_end", Fault::address, "outside the arrays of its block's shared memory"},
    {"dynamic_past_the_end", Fault::address, "outside the arrays of its block's shared memory"},
    {"shared_unwritten", Fault::violation, "which nobody in the block wrote"},
    {"too_much_shared", Fault::launch, "more than the 101376 bytes"},
    {"stack_overflow", Fault::address, "overflow its stack"},
};
// Kernels that take `in` and `out`, each of 32 rows of 16 bytes.
constexpr Mistake with_both[] = {
    {"copy_read_before_wait", Fault::violation, "has not been waited for"},
    {"copy_waited_for_too_few", Fault::violation, "has not been waited for"},
    {"copy_not_committed", Fault::violation, "has not been waited for"},
    {"copy_without_barrier", Fault::violation, "of its block's shared memory"},
    {"copy_over_what_is_read", Fault::violation, "with no barrier between"},
    {"copy_left_behind", Fault::violation, "without having waited for its cp_async16"},
    {"copy_misaligned", Fault::alignment, "not aligned"},
    {"matrix_of_copies_in_flight", Fault::violation, "has not been waited for"},
    {"matrix_past_the_end", Fault::address, "reads 16 bytes outside the arrays of its block's shared memory"},
    {"matrix_of_global_memory", Fault::address, "ldmatrix from"},
    {"reads_misaligned", Fault::alignment, "not aligned"},
    {"loads_misaligned", Fault::alignment, "not aligned"},
    {"reads_far_away", Fault::address, ""},
};

}  // namespace

void faults() {
    for (auto order : orders) {
        emu::Options options;
        options.order = order;
        Buffer<unsigned> out(64);
        for (const auto& m : with_output)
            must_report(m.kernel, launch(m.kernel, {2, 1, 1}, 0, options, out.get()), m.fault, m.words);
        std::vector<uint4> rows(32, uint4{1, 2, 3, 4});
        Buffer<uint4> in(rows), both(32);
        for (const auto& m : with_both)
            must_report(m.kernel, launch(m.kernel, {2, 1, 1}, 0, options, in.get(), both.get()), m.fault, m.words);

        Buffer<unsigned> narrow(32);
        must_report("reads_past_the_end", launch("reads_past_the_end", {1, 1, 1}, 0, options, narrow.get(), out.get()),
                    Fault::address, "128 bytes from the start of an allocation of 128 bytes");
        unsigned* null = nullptr;
        must_report("writes_to_null", launch("writes_to_null", {1, 1, 1}, 0, options, null), Fault::address,
                    "null pointer");
        auto* freed = static_cast<unsigned*>(emu::allocate(128));
        emu::release(freed);
        must_report("writes_to_null", launch("writes_to_null", {1, 1, 1}, 0, options, freed), Fault::address,
                    "outside every allocation");

        // The line of a plain access comes from the debug information, that of a wrapper from its call.
        auto r = launch("copy_left_behind", {1, 1, 1}, 0, options, in.get(), both.get());
        CHECK(r.text.find("at mistakes.cu:") != std::string::npos && r.text.find("block (0, 0, 0)") != std::string::npos);

        // And after all that: a good launch.
        std::vector<unsigned> ones(96, 1);
        Buffer<unsigned> values(ones), sum(1), control(std::vector<unsigned>{0});
        r = launch("block_sums", {1, 1, 1}, 96 * 4, options, values.get(), sum.get(), control.get(), 96u);
        CHECK(r.text == "" && sum[0] == 96);
    }

    // What is refused before it runs.
    Buffer<unsigned> out(64);
    unsigned* o = out.get();
    void* parameters[] = {&o};
    const auto& entry = *emu::find_entry("two_barriers");
    CHECK(emu::launch(entry, {1, 1, 1}, {32, 1, 1}, 0, parameters, {}).fault == Fault::launch);
    CHECK(emu::launch(entry, {1, 1, 1}, {64, 2, 1}, 0, parameters, {}).fault == Fault::launch);
    CHECK(emu::launch(entry, {0, 1, 1}, {64, 1, 1}, 0, parameters, {}).fault == Fault::launch);
    CHECK(emu::launch(entry, {1, 1, 1}, {64, 1, 1}, 200000, parameters, {}).fault == Fault::launch);
    CHECK(emu::find_entry("no_such_kernel") == nullptr);
}

}  // namespace selftest
