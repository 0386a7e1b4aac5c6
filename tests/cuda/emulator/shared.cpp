// Shared memory of the running block, and what is known about each pair of its bytes: who wrote it, who read it, and
// since which barrier. From that follow reads of memory that nobody wrote, accesses that no barrier orders, and
// touches of a copy's target before it has been waited for.
#include <sys/mman.h>

#include <array>
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

// What lies in a cell: nothing of note; the target of a cp.async or of a copy for a barrier that has not come; a barrier.
enum class Holds : unsigned char { plain, async_copy, barrier_copy, barrier };

// 16 bytes, for many are visited. Stamps are those of the accessing thread's warp; those below the block's last barrier
// are history. What was copied for barrier b is written by thread `copies_of` + b.
struct Cell {
    unsigned written = 0, read = 0;
    unsigned short writer = nobody, reader = nobody, reader_warp = nobody;
    Holds holds = Holds::plain;
};
constexpr unsigned short copies_of = 0x8000;
// When each warp's products last read each 16 bytes.
constexpr unsigned operand_bytes = 16, most_warps = 32;
using Readers = std::array<unsigned, most_warps>;

struct Array {
    unsigned start, end;
};

unsigned char* memory = nullptr;
std::vector<Cell> cells;
std::vector<Readers> product_reads;
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
    product_reads.resize(most_bytes / operand_bytes);
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
    else if (t >= copies_of)
        snprintf(text, sizeof text, "a copy");
    else
        snprintf(text, sizeof text, "thread %u", t);
    return text;
}

// Whether an access with `stamp` by another thread lies before the running thread's last common barrier.
bool is_ordered(unsigned stamp, unsigned other_warp, unsigned my_warp) {
    if (stamp < now.barrier_stamp) return true;
    if (other_warp == my_warp && stamp < now.warps[my_warp].stamp) return true;
    return other_warp < agents_of_a_kind && stamp < now.threads[now.current].known[agent_of_warp(other_warp)];
}

// The same of a write, which may be a copy's.
bool is_write_ordered(const Cell& c, unsigned my_warp) {
    if (c.writer < copies_of) return is_ordered(c.written, c.writer / 32u, my_warp);
    return c.written < now.barrier_stamp || c.written < now.threads[now.current].known[agent_of_copies(c.writer - copies_of)];
}

[[noreturn]] void race(const char* mine, const char* theirs, unsigned short other, unsigned at, uintptr_t pc,
                       const Site* where) {
    char text[24];
    fail(Fault::violation, pc, where, "%s byte %u of its block's shared memory that %s %s with no barrier between", mine,
         at, thread_name(other, text), theirs);
}

// Whether the running thread may write what others wrote and read.
void check_write(const Cell& c, unsigned at, uintptr_t pc, const Site* where) {
    auto me = static_cast<unsigned short>(now.current), my_warp = static_cast<unsigned short>(me / 32);
    if (c.written >= first_stamp && c.writer != me && !is_write_ordered(c, my_warp))
        race("writes", "wrote", c.writer, at, pc, where);
    if (c.read >= first_stamp && c.reader != me && !is_ordered(c.read, c.reader_warp, my_warp))
        race("writes", "read", c.reader, at, pc, where);
    const Readers& reads = product_reads[at / operand_bytes];
    for (unsigned w = 0; w < now.warps.size(); w++) {
        if (reads[w] < first_stamp || reads[w] < now.barrier_stamp || (w == my_warp && reads[w] < now.warps[w].products)) continue;
        if (reads[w] >= now.threads[now.current].known[agent_of_products(w)])
            fail(Fault::violation, pc, where,
                 "writes byte %u of its block's shared memory that a product of warp %u reads with no barrier between", at, w);
    }
}

void on_write(Cell& c, unsigned at, uintptr_t pc, const Site* where) {
    auto me = static_cast<unsigned short>(now.current), my_warp = static_cast<unsigned short>(me / 32);
    check_write(c, at, pc, where);
    c.written = now.warps[my_warp].stamp;
    c.writer = me;
    if (now.threads[me].unfenced == 0) now.threads[me].unfenced = c.written;
    c.holds = Holds::plain;  // left by a block that a fault ended
}

void on_read(Cell& c, unsigned at, uintptr_t pc, const Site* where) {
    auto me = static_cast<unsigned short>(now.current), my_warp = static_cast<unsigned short>(me / 32);
    if (c.written < first_stamp)
        fail(Fault::violation, pc, where, "reads byte %u of its block's shared memory, which nobody in the block wrote",
             at);
    if (c.writer != me && !is_write_ordered(c, my_warp)) race("reads", "wrote", c.writer, at, pc, where);
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

// A touch of what is not there yet, or not to be touched.
void check_holds(const Cell& c, unsigned at, bool write, uintptr_t pc, const Site* where) {
    if (c.holds == Holds::plain || c.written < first_stamp) return;
    const char* verb = write ? "writes" : "reads";
    if (c.holds == Holds::barrier) fail(Fault::violation, pc, where, "%s byte %u of its block's shared memory, a barrier", verb, at);
    if (c.holds == Holds::barrier_copy)
        fail(Fault::violation, pc, where,
             "%s byte %u of its block's shared memory, the target of a copy whose barrier has not been waited for", verb, at);
    fail(Fault::violation, pc, where,
         "%s byte %u of its block's shared memory, the target of a cp_async16 of thread %u that has not been waited for", verb,
         at, c.writer);
}

// A write's stamp is found stale where products' are: by the thread's last fence_async_shared.
void check_write_fenced(const Cell& c, const char* who, unsigned at, const Site& where) {
    if (c.writer >= copies_of || c.written < first_stamp) return;
    unsigned unfenced = now.threads[c.writer].unfenced;
    if (unfenced != 0 && c.written >= unfenced)
        fail(Fault::violation, 0, &where, "%s byte %u of its block's shared memory, which thread %u wrote without fence_async_shared",
             who, at, c.writer);
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
        check_holds(c, i * granule, write, pc, where);
        if (write)
            on_write(c, i * granule, pc, where);
        else
            on_read(c, i * granule, pc, where);
    }
}

void begin_copy(void* target, const Site& where) {
    check_shared(target, 16, true, true, 0, &where);
    auto at = static_cast<unsigned>(static_cast<unsigned char*>(target) - memory);
    for (unsigned i = at / granule; i < (at + 16) / granule; i++) cells[i].holds = Holds::async_copy;
    memset(target, 0xff, 16);
}

void finish_copy(void* target, const Site& where) {
    auto at = static_cast<unsigned>(static_cast<unsigned char*>(target) - memory);
    for (unsigned i = at / granule; i < (at + 16) / granule; i++) cells[i].holds = Holds::plain;
    check_shared(target, 16, true, true, 0, &where);
}

const unsigned char* async_operand(unsigned offset, const Site& where) {
    const unsigned char* p = memory + offset;
    checked_offset(p, 16, false, 0, &where);
    const auto warp = static_cast<unsigned short>(now.current / 32);
    for (unsigned i = offset / granule; i < (offset + 16) / granule; i++) {
        const Cell& c = cells[i];
        check_holds(c, i * granule, false, 0, &where);
        if (c.written < first_stamp)
            fail(Fault::violation, 0, &where, "reads byte %u of its block's shared memory, which nobody in the block wrote", i * granule);
        if (!is_write_ordered(c, warp)) race("reads", "wrote", c.writer, i * granule, 0, &where);
        check_write_fenced(c, "a product reads", i * granule, where);
    }
    product_reads[offset / operand_bytes][warp] = now.stamp;
    return p;
}

void begin_cells(unsigned offset, unsigned bytes, unsigned barrier, const Site& where) {
    checked_offset(memory + offset, bytes, true, 0, &where);
    for (unsigned i = offset / granule; i < (offset + bytes) / granule; i++) {
        Cell& c = cells[i];
        check_holds(c, i * granule, true, 0, &where);
        check_write(c, i * granule, 0, &where);
        check_write_fenced(c, "a copy overwrites", i * granule, where);
        c = Cell{};
        c.written = now.stamp;
        c.writer = static_cast<unsigned short>(copies_of + barrier);
        c.holds = Holds::barrier_copy;
    }
    memset(memory + offset, 0xff, bytes);
}

void land_cells(unsigned offset, unsigned bytes) {
    for (unsigned i = offset / granule; i < (offset + bytes) / granule; i++) {
        cells[i].written = now.stamp;
        cells[i].holds = Holds::plain;
    }
}

void make_barrier_cells(const void* p, const Site& where) {
    check_shared(p, 8, true, true, 0, &where);
    unsigned offset = static_cast<unsigned>(static_cast<const unsigned char*>(p) - memory);
    for (unsigned i = offset / granule; i < (offset + 8) / granule; i++) cells[i].holds = Holds::barrier;
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
