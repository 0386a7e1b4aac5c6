// What the parts of the emulator share: the running launch, its block, warps and threads.
#pragma once

#include <vector>

#include "emulator.hpp"
#include "fiber.hpp"

namespace emu {

using ts_host::Dim;
using ts_host::Site;

// One copy begun by cp.async and not yet carried out.
struct Copy {
    void* target;
    const void* source;  // null: zeros
    Site where;
};

enum class State { ready, at_barrier, in_collective, done };

struct Thread {
    Fiber fiber;
    State state = State::ready;
    Site where;              // of the barrier or collective it waits in
    void* operands = nullptr;  // of that collective, on its own stack
    std::vector<Copy> uncommitted;
    std::vector<std::vector<Copy>> groups;  // committed, oldest first; those before `finished` are done with
    size_t finished = 0;
    unsigned unfenced = 0;  // stamp of its first write to shared memory since its last fence_async_shared; 0 for none
};

struct Warp {
    unsigned arrived = 0;  // lanes in the collective
    const char* collective = nullptr;
    unsigned stamp = 0;  // of its last sync_warp or of the block's last barrier
};

struct Launch {
    bool running = false;
    const ts_host::Entry* entry = nullptr;
    void** parameters = nullptr;
    Options options;
    unsigned thread_count = 0;
    unsigned current = 0;  // the thread that runs
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Fiber scheduler;
    unsigned long long number = 0;  // of this block among all blocks ever run
    unsigned stamp = 0;             // rises with every barrier, so that stamps tell before from after
    unsigned barrier_stamp = 0;     // of the block's last barrier
    unsigned dynamic_bytes = 0;
    Fault fault = Fault::none;
    std::string fault_text;
    uintptr_t fault_pc = 0;
};
extern Launch now;

// Ends the launch with this fault of the running thread; `pc` or `where` tell the place. Does not return.
[[noreturn]] void fail(Fault fault, uintptr_t pc, const Site* where, const char* format, ...)
    __attribute__((format(printf, 4, 5)));
// Leaves the running thread until the scheduler comes back to it.
void yield_thread();
// Waits until all lanes of the warp are here with their operands; the last to come runs `execute` on them, by lane.
void warp_collective(const char* name, const Site& where, void* operands, void (*execute)(void** lanes));

// Shared memory of the block (shared.cpp). A launch's limit is static and dynamic bytes together.
void begin_shared(unsigned dynamic_bytes);
bool is_shared_address(const void* p);
void check_shared(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where);
// A cp.async target: in flight until finished; from then on written by the running thread.
void begin_copy(void* target, const Site& where);
void finish_copy(void* target, const Site& where);

// Global memory (memory.cpp).
void check_global(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where);
// Either, by address; addresses of neither kind are the thread's own.
void check_access(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where);

// cp.async (async.cpp) and products (wgmma.cpp): what a thread may not leave behind.
void check_no_copies_pending(Thread& thread);
void check_no_products_pending();
// 16 bytes of shared memory at `offset` that a product reads: written, ordered and fenced by whoever wrote them.
const unsigned char* async_operand(unsigned offset, const Site& where);

}  // namespace emu
