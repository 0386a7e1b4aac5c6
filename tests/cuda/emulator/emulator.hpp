// The emulator: runs an entry of kernels/*.cu, compiled for the host, over a grid, and finds the mistakes that a GPU
// would pass over in silence. One launch at a time in a process; callers hold a lock of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "shared/device.cuh"

namespace emu {

// What went wrong, in the classes of the driver's errors.
enum class Fault {
    none,
    address,     // outside every allocation
    alignment,   // not a multiple of the access's size
    launch,      // refused before it ran: sizes
    violation,   // a rule of kernels broken: divergence, races, unwritten or unwaited shared memory
};

// Which block, and which thread of those that can go on, runs first; a missing barrier shows under some orders and not
// under others. Mixed: blocks shuffled, each one's threads in one of the three orders by its index.
enum class Order { forward, reverse, shuffled, mixed };

struct Options {
    Order order = Order::mixed;
    unsigned seed = 1;
    unsigned shared_limit = 99 << 10;  // static and dynamic bytes of one block
};

struct Result {
    Fault fault = Fault::none;
    std::string text;  // names kernel, block and thread
};

// Entries of the kernels linked in; null where there is none of that name.
const ts_host::Entry* find_entry(const char* name);
const ts_host::Entry* first_entry();

Result launch(const ts_host::Entry& entry, ts_host::Dim grid, ts_host::Dim block, unsigned dynamic_bytes,
              void** parameters, const Options& options);

// As launch, twice from the same memory, in opposite orders: a difference in any byte of device memory is a violation.
Result launch_twice(const ts_host::Entry& entry, ts_host::Dim grid, ts_host::Dim block, unsigned dynamic_bytes,
                    void** parameters, Options options);

// Device memory: addresses apart from all others, 256-byte aligned, filled with NaN, with memory that can't be touched
// on both sides. Null when there is no room.
void* allocate(size_t bytes);
// False for an address that allocate didn't return.
bool release(void* start);
void release_all();
// Whether all the bytes lie in one allocation; gives its start and size where wanted.
bool inside_allocation(const void* p, size_t bytes, void** start = nullptr, size_t* size = nullptr);
// Whether the address is one that allocate could have returned, allocated or not.
bool is_device_address(const void* p);
// Bytes of live allocations, as asked for.
size_t allocated_bytes();
// The bytes of all live allocations, by address; and those bytes put back where nothing was allocated or freed since.
std::vector<unsigned char> saved_memory();
void restore_memory(const std::vector<unsigned char>& saved);
// Empty, or which allocation's surroundings were written to.
std::string damaged_guards();

}  // namespace emu
