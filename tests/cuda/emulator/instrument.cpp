// The compiler's thread sanitizer calls a function before each load and store; the kernels are compiled with it and meet
// these functions here in place of its own runtime, so that plain accesses are checked as those through wrappers are.
#include "state.hpp"

namespace {

void check(const void* p, unsigned long bytes, bool write, bool aligned, void* pc) {
    // The thread's own arrays, which is most of all accesses: what lies above this frame on the same stack.
    auto above = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    if (above >= emu::Stacks::bytes && emu::now.running)
        emu::check_access(p, static_cast<unsigned>(bytes), write, aligned, reinterpret_cast<uintptr_t>(pc), nullptr);
}

}  // namespace

#define ACCESS(bytes)                                                                                              \
    extern "C" void __tsan_read##bytes(void* p) { check(p, bytes, false, true, __builtin_return_address(0)); }     \
    extern "C" void __tsan_write##bytes(void* p) { check(p, bytes, true, true, __builtin_return_address(0)); }     \
    extern "C" void __tsan_unaligned_read##bytes(void* p) {                                                        \
        check(p, bytes, false, false, __builtin_return_address(0));                                                \
    }                                                                                                              \
    extern "C" void __tsan_unaligned_write##bytes(void* p) { check(p, bytes, true, false, __builtin_return_address(0)); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

extern "C" {
void __tsan_read_range(void* p, unsigned long n) { check(p, n, false, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, unsigned long n) { check(p, n, true, false, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
