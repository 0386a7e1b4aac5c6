// What the parts of the emulator share: the running launch, its block, warps and threads.
#pragma once

#include <array>
#include <vector>

#include "emulator.hpp"
#include "fiber.hpp"

#include "shared/tma.cuh"

namespace emu {

using ts_host::Dim;
using ts_host::Site;

// One copy begun by cp.async and not yet carried out.
struct Copy {
    void* target;
    const void* source;  // null: zeros
    Site where;
};

enum class State { ready, at_barrier, in_collective, at_mbarrier, done };

// Whose accesses to shared memory a thread may know of by way of an mbarrier: each warp's own, those of its products, and the
// copies for each barrier; of each, those with stamps below the one kept.
constexpr unsigned agents_of_a_kind = 32;
using Known = std::array<unsigned, 3 * agents_of_a_kind>;
inline unsigned agent_of_warp(unsigned warp) { return warp; }
inline unsigned agent_of_products(unsigned warp) { return agents_of_a_kind + warp; }
inline unsigned agent_of_copies(unsigned barrier) { return 2 * agents_of_a_kind + barrier; }

struct Thread {
    Fiber fiber;
    State state = State::ready;
    Site where;              // of the barrier or collective it waits in
    void* operands = nullptr;  // of that collective, on its own stack
    std::vector<Copy> uncommitted;
    std::vector<std::vector<Copy>> groups;  // committed, oldest first; those before `finished` are done with
    size_t finished = 0;
    unsigned unfenced = 0;  // stamp of its first write to shared memory since its last fence_async_shared; 0 for none
    Known known{};          // by the mbarriers it has waited for
};

struct Warp {
    unsigned arrived = 0;  // lanes in the collective
    const char* collective = nullptr;
    unsigned stamp = 0;  // of its last sync_warp or of the block's last barrier
    unsigned products = 0;  // of its last wgmma_wait
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
// The target of a copy for a barrier, by offset: in flight until it lands. The 8 bytes of a barrier.
void begin_cells(unsigned offset, unsigned bytes, unsigned barrier, const Site& where);
void land_cells(unsigned offset, unsigned bytes);
void make_barrier_cells(const void* p, const Site& where);
// Where the 16 bytes at `offset` stand with the swizzle of 128 bytes: bits 4 to 6 are exchanged by bits 7 to 9.
inline unsigned swizzled_place(unsigned offset) { return offset ^ (offset >> 3 & 0x70); }

// Global memory (memory.cpp).
void check_global(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where);
// Either, by address; addresses of neither kind are the thread's own.
void check_access(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where);

// cp.async (async.cpp) and products (wgmma.cpp): what a thread may not leave behind.
void check_no_copies_pending(Thread& thread);
void check_no_products_pending();
// 16 bytes of shared memory at `offset` that a product reads: written, ordered and fenced by whoever wrote them.
const unsigned char* async_operand(unsigned offset, const Site& where);

// Barriers in shared memory (barrier.cpp), by their index in the block.
void begin_barriers();
bool has_barriers();
unsigned barrier_at(const Barrier* p, const Site& where);
void check_fenced(unsigned barrier, const Site& where);
void land(unsigned barrier, unsigned bytes);  // so many bytes of a copy
std::string awaited(unsigned thread);         // by one that waits
// Copies of the tensor memory accelerator (tma.cpp). False where none is under way.
void begin_transfers();
bool carry_out_one();
// Empty, or what a block may not leave behind.
std::string left_by_block();

}  // namespace emu
