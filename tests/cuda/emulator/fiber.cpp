#include "fiber.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
// Floating-point control words are the same in all fibers, so they aren't switched.
asm(R"(
    .text
    .p2align 4
    .globl ts_fiber_switch
    .hidden ts_fiber_switch
    .type ts_fiber_switch, @function
ts_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size ts_fiber_switch, . - ts_fiber_switch
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .p2align 4
    .globl ts_fiber_switch
    .hidden ts_fiber_switch
    .type ts_fiber_switch, %function
ts_fiber_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size ts_fiber_switch, . - ts_fiber_switch
)");
#else
#error "fibers are written for x86-64 and aarch64"
#endif

namespace emu {

namespace {
constexpr size_t page = 64 << 10;  // the largest page size in use
constexpr size_t stride = page + Stacks::bytes;
}  // namespace

void Stacks::prepare(Fiber& fiber, unsigned index, void (*run)()) {
    if (base_ == nullptr) {
        // The last stack is followed by as much again, so that what lies close above a frame is never another's memory.
        constexpr int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* p = mmap(nullptr, stride * most + bytes, PROT_READ | PROT_WRITE, kind, -1, 0);
        if (p == MAP_FAILED) abort();
        base_ = static_cast<char*>(p);
        for (unsigned i = 0; i < most; i++) mprotect(base_ + stride * i, page, PROT_NONE);
    }
    if (index >= most) abort();
    auto* top = reinterpret_cast<uintptr_t*>(base_ + stride * (index + 1));
#if defined(__x86_64__)
    // Popped by the switch: six registers, then the address to return to. At a function's first instruction the stack
    // pointer is 8 past a multiple of 16, as after a call.
    top -= 1;
    top[0] = 0;
    top -= 7;
    for (int i = 0; i < 6; i++) top[i] = 0;
    top[6] = reinterpret_cast<uintptr_t>(run);
#else
    top -= 20;
    for (int i = 0; i < 20; i++) top[i] = 0;
    top[11] = reinterpret_cast<uintptr_t>(run);  // x30, where ret goes
#endif
    fiber.stack_pointer = top;
}

bool Stacks::is_guard(const void* address) const {
    auto a = reinterpret_cast<uintptr_t>(address), b = reinterpret_cast<uintptr_t>(base_);
    return base_ != nullptr && a - b < stride * most && (a - b) % stride < page;
}

}  // namespace emu
