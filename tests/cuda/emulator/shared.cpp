// Shared memory of the running block, and what is known about each pair of its bytes: who wrote it, who read it, and
// since which barrier. From that follow reads of memory that nobody wrote, accesses that no barrier orders, and
// touches of a copy's target before it has been waited for.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.hpp"

namespace emu {

namespace {

constexpr size_t most_bytes = 256 << 10;
constexpr size_t guard_bytes = 64 << 10;
constexpr unsigned gap = 64;  // between arrays, so that running off one is seen
constexpr unsigned granule = 2;
constexpr unsigned short nobody = 0xffff, several = 0xfffe;

// 16 bytes, for many are visited. Stamps are those of the accessing thread's warp; those below the block's last barrier
// are history.
struct Cell {
    unsigned written = 0, read = 0;
    unsigned short writer = nobody, reader = nobody, reader_warp = nobody;
    bool in_flight = false;
};

struct Array {
    unsigned start, end;
};

unsigned char* memory = nullptr;
std::vector<Cell> cells;
std::vector<Array> arrays;  // of this block; the first is the dynamic one
unsigned used = 0;          // bytes from the start, gaps included
unsigned counted = 0;       // bytes without gaps, as the hardware would count
unsigned first_stamp = 0;   // of this block

void set_up() {
    void* p = mmap(nullptr, most_bytes * 2 + 2 * guard_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    memory = static_cast<unsigned char*>(p) + guard_bytes;
    if (mprotect(memory, most_bytes, PROT_READ | PROT_WRITE) != 0) abort();
    cells.resize(most_bytes / granule);
}

void add_array(unsigned bytes) {
    unsigned start = (used + 127) / 128 * 128;
    arrays.push_back({start, start + bytes});
    used = start + bytes + gap;
    counted = (counted + 15) / 16 * 16 + bytes;
    memset(memory + start, 0xff, bytes);
}

const char* thread_name(unsigned short t, char (&text)[24]) {
    if (t == several)
        snprintf(text, sizeof text, "several threads");
    else
        snprintf(text, sizeof text, "thread %u", t);
    return text;
}

// Whether an access with `stamp` by another thread lies before the running thread's last common barrier.
bool is_ordered(unsigned stamp, unsigned other_warp, unsigned my_warp) {
    if (stamp < now.barrier_stamp) return true;
    return other_warp == my_warp && stamp < now.warps[my_warp].stamp;
}

[[noreturn]] void race(const char* mine, const char* theirs, unsigned short other, unsigned at, uintptr_t pc,
                       const Site* where) {
    char text[24];
    fail(Fault::violation, pc, where, "%s byte %u of its block's shared memory that %s %s with no barrier between", mine,
         at, thread_name(other, text), theirs);
}

void on_write(Cell& c, unsigned at, uintptr_t pc, const Site* where) {
    auto me = static_cast<unsigned short>(now.current), my_warp = static_cast<unsigned short>(me / 32);
    if (c.written >= first_stamp && c.writer != me && !is_ordered(c.written, c.writer / 32u, my_warp))
        race("writes", "wrote", c.writer, at, pc, where);
    if (c.read >= first_stamp && c.reader != me && !is_ordered(c.read, c.reader_warp, my_warp))
        race("writes", "read", c.reader, at, pc, where);
    c.written = now.warps[my_warp].stamp;
    c.writer = me;
    if (now.threads[me].unfenced == 0) now.threads[me].unfenced = c.written;
    c.in_flight = false;  // left by a block that a fault ended
}

void on_read(Cell& c, unsigned at, uintptr_t pc, const Site* where) {
    auto me = static_cast<unsigned short>(now.current), my_warp = static_cast<unsigned short>(me / 32);
    if (c.written < first_stamp)
        fail(Fault::violation, pc, where, "reads byte %u of its block's shared memory, which nobody in the block wrote",
             at);
    if (c.writer != me && !is_ordered(c.written, c.writer / 32u, my_warp))
        race("reads", "wrote", c.writer, at, pc, where);
    unsigned stamp = now.warps[my_warp].stamp;
    if (c.read < now.barrier_stamp) {
        c.reader = me;
        c.reader_warp = my_warp;
    } else if (c.reader_warp != my_warp) {
        c.reader = c.reader_warp = several;
    } else if (c.read < stamp) {
        c.reader = me;
    } else if (c.reader != me) {
        c.reader = several;
    }
    c.read = stamp;
}

// Offset of an access that lies within one array.
unsigned checked_offset(const void* p, unsigned bytes, bool write, uintptr_t pc, const Site* where) {
    auto at = static_cast<unsigned>(static_cast<const unsigned char*>(p) - memory);
    for (const Array& a : arrays)
        if (at >= a.start && at + bytes <= a.end) return at;
    fail(Fault::address, pc, where, "%s %u bytes outside the arrays of its block's shared memory",
         write ? "writes" : "reads", bytes);
}

}  // namespace

void begin_shared(unsigned dynamic_bytes) {
    if (memory == nullptr) set_up();
    arrays.clear();
    used = counted = 0;
    first_stamp = now.barrier_stamp;
    add_array(dynamic_bytes);
}

bool is_shared_address(const void* p) {
    return memory != nullptr &&
           reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(memory) < most_bytes;
}

void check_shared(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where) {
    unsigned at = checked_offset(p, bytes, write, pc, where);
    if (aligned && at % bytes != 0)
        fail(Fault::alignment, pc, where, "%s %u bytes at byte %u of its block's shared memory, which is not aligned",
             write ? "writes" : "reads", bytes, at);
    for (unsigned i = at / granule; i <= (at + bytes - 1) / granule; i++) {
        Cell& c = cells[i];
        if (c.in_flight && c.written >= first_stamp)
            fail(Fault::violation, pc, where,
                 "%s byte %u of its block's shared memory, the target of a cp_async16 of thread %u that has not been "
                 "waited for",
                 write ? "writes" : "reads", i * granule, c.writer);
        if (write)
            on_write(c, i * granule, pc, where);
        else
            on_read(c, i * granule, pc, where);
    }
}

void begin_copy(void* target, const Site& where) {
    check_shared(target, 16, true, true, 0, &where);
    auto at = static_cast<unsigned>(static_cast<unsigned char*>(target) - memory);
    for (unsigned i = at / granule; i < (at + 16) / granule; i++) cells[i].in_flight = true;
    memset(target, 0xff, 16);
}

void finish_copy(void* target, const Site& where) {
    auto at = static_cast<unsigned>(static_cast<unsigned char*>(target) - memory);
    for (unsigned i = at / granule; i < (at + 16) / granule; i++) cells[i].in_flight = false;
    check_shared(target, 16, true, true, 0, &where);
}

const unsigned char* async_operand(unsigned offset, const Site& where) {
    const unsigned char* p = memory + offset;
    check_shared(p, 16, false, true, 0, &where);
    for (unsigned i = offset / granule; i < (offset + 16) / granule; i++) {
        unsigned unfenced = now.threads[cells[i].writer].unfenced;
        if (unfenced != 0 && cells[i].written >= unfenced)
            fail(Fault::violation, 0, &where,
                 "a product reads byte %u of its block's shared memory, which thread %u wrote without fence_async_shared",
                 i * granule, cells[i].writer);
    }
    return p;
}

void check_access(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where) {
    if (is_shared_address(p)) return check_shared(p, bytes, write, aligned, pc, where);
    if (is_device_address(p)) return check_global(p, bytes, write, aligned, pc, where);
    if (reinterpret_cast<uintptr_t>(p) < 65536)
        fail(Fault::address, pc, where, "%s %u bytes at %p, a null pointer", write ? "writes" : "reads", bytes, p);
}

}  // namespace emu

namespace ts_host {

unsigned shared_offset(const void* p, Site where) {
    if (!emu::is_shared_address(p))
        emu::fail(emu::Fault::address, 0, &where, "a descriptor of %p, which is not shared memory", p);
    return static_cast<unsigned>(static_cast<const unsigned char*>(p) - emu::memory);
}

void* dynamic_shared_memory() { return emu::memory; }

void* shared_array(SharedSite& site, unsigned bytes) {
    using namespace emu;
    if (site.launch == now.number) return site.start;
    unsigned long long room = most_bytes - used;
    if (bytes + 128ull > room || counted + bytes > now.options.shared_limit)
        fail(Fault::launch, 0, nullptr, "its shared arrays take more than the %u bytes a block may have",
             now.options.shared_limit);
    add_array(bytes);
    site.launch = now.number;
    site.start = memory + arrays.back().start;
    return site.start;
}

}  // namespace ts_host
