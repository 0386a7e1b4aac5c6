// Fibers: stacks that one host thread switches between. A kernel's threads are fibers, so that a barrier inside a loop
// inside a function is simply a switch, and the order of threads is ours to choose.
#pragma once

#include <cstddef>

namespace emu {

// A suspended stack: where its registers lie.
struct Fiber {
    void* stack_pointer = nullptr;
};

// Stacks of one size with a page that can't be touched below each, kept between launches.
class Stacks {
  public:
    static constexpr size_t bytes = 128 << 10;
    // Makes `fiber` start `run` on stack `index` when first switched to; `run` must never return.
    void prepare(Fiber& fiber, unsigned index, void (*run)());
    // Whether the address lies in some stack's guard page: an overflow.
    bool is_guard(const void* address) const;

  private:
    static constexpr unsigned most = 1024;
    char* base_ = nullptr;
};

}  // namespace emu

// Saves the callee-saved registers of the running fiber and goes on with the other.
extern "C" void ts_fiber_switch(void** save_stack_pointer, void* stack_pointer);
