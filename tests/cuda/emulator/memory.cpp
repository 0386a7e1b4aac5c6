// Device memory of the emulator: one range of addresses set aside at first use, in which allocations lie with untouchable
// pages around them. Freed addresses are not handed out again before the range has been used up, so that a stale
// pointer is found.
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "state.hpp"

namespace emu {

namespace {

constexpr size_t page = 64 << 10;
constexpr unsigned char guard_byte = 0xa5;
// Larger allocations are left as the system gives them, zeros: filling them costs time and memory.
constexpr size_t most_poisoned = 64 << 20;

struct Allocation {
    size_t bytes;
    uintptr_t pages;  // first byte that can be touched
    uintptr_t pages_end;
};

uintptr_t range_start = 0;
size_t range_bytes = 0;
uintptr_t cursor = 0;
size_t live_bytes = 0;
std::map<uintptr_t, Allocation> live;  // by start
// The allocation of the last access: kernels stay within one for long.
uintptr_t last_start = 1, last_end = 0;

bool set_aside() {
    if (range_bytes != 0) return true;
    for (size_t bytes = size_t(1) << 40; bytes >= size_t(1) << 32; bytes /= 2) {
        void* p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) continue;
        range_start = (reinterpret_cast<uintptr_t>(p) + page - 1) / page * page;
        range_bytes = bytes - page;
        cursor = range_start;
        return true;
    }
    return false;
}

// A gap of `bytes` at or after `from`; zero if none.
uintptr_t gap_from(uintptr_t from, size_t bytes) {
    uintptr_t at = from;
    for (const auto& [start, a] : live) {
        if (a.pages_end + page <= at) continue;
        if (a.pages >= at + bytes) break;
        at = a.pages_end + page;
    }
    return at + bytes <= range_start + range_bytes ? at : 0;
}

}  // namespace

void* allocate(size_t bytes) {
    if (bytes == 0 || !set_aside() || bytes > range_bytes / 2) return nullptr;
    size_t rounded = (bytes + 255) / 256 * 256, pages = (rounded + page - 1) / page * page;
    uintptr_t at = gap_from(cursor, pages + page);
    if (at == 0) at = gap_from(range_start, pages + page);
    if (at == 0) return nullptr;
    uintptr_t first = at + page, end = first + pages;
    if (mprotect(reinterpret_cast<void*>(first), pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
    // Against the upper guard page: running past the end is the commoner mistake.
    uintptr_t start = end - rounded;
    memset(reinterpret_cast<void*>(first), guard_byte, start - first);
    memset(reinterpret_cast<void*>(start + bytes), guard_byte, rounded - bytes);
    if (bytes <= most_poisoned) memset(reinterpret_cast<void*>(start), 0xff, bytes);
    live[start] = {bytes, first, end};
    live_bytes += bytes;
    cursor = end;
    return reinterpret_cast<void*>(start);
}

bool release(void* start) {
    auto it = live.find(reinterpret_cast<uintptr_t>(start));
    if (it == live.end()) return false;
    auto* pages = reinterpret_cast<void*>(it->second.pages);
    size_t bytes = it->second.pages_end - it->second.pages;
    madvise(pages, bytes, MADV_DONTNEED);
    mprotect(pages, bytes, PROT_NONE);
    live_bytes -= it->second.bytes;
    live.erase(it);
    last_start = 1, last_end = 0;
    return true;
}

void release_all() {
    while (!live.empty()) release(reinterpret_cast<void*>(live.begin()->first));
}

bool is_device_address(const void* p) { return reinterpret_cast<uintptr_t>(p) - range_start < range_bytes; }

size_t allocated_bytes() { return live_bytes; }

bool inside_allocation(const void* p, size_t bytes, void** start, size_t* size) {
    auto a = reinterpret_cast<uintptr_t>(p);
    if (a < last_start || a + bytes > last_end || a + bytes < a) {
        auto it = live.upper_bound(a);
        if (it == live.begin()) return false;
        --it;
        if (a + bytes < a || a + bytes > it->first + it->second.bytes) return false;
        last_start = it->first;
        last_end = it->first + it->second.bytes;
    }
    if (start != nullptr) *start = reinterpret_cast<void*>(last_start);
    if (size != nullptr) *size = last_end - last_start;
    return true;
}

std::vector<unsigned char> saved_memory() {
    std::vector<unsigned char> all;
    all.reserve(live_bytes);
    for (const auto& [start, a] : live) {
        auto* p = reinterpret_cast<unsigned char*>(start);
        all.insert(all.end(), p, p + a.bytes);
    }
    return all;
}

void restore_memory(const std::vector<unsigned char>& saved) {
    size_t at = 0;
    for (const auto& [start, a] : live) {
        memcpy(reinterpret_cast<void*>(start), saved.data() + at, a.bytes);
        at += a.bytes;
    }
}

std::string damaged_guards() {
    for (const auto& [start, a] : live) {
        auto damaged = [&](uintptr_t from, uintptr_t to) {
            for (uintptr_t at = from; at < to; at++)
                if (*reinterpret_cast<unsigned char*>(at) != guard_byte) return at;
            return uintptr_t(0);
        };
        uintptr_t before = damaged(a.pages, start), after = damaged(start + a.bytes, a.pages_end);
        if (before == 0 && after == 0) continue;
        char text[160];
        if (before != 0)
            snprintf(text, sizeof text, "something wrote %zu bytes before an allocation of %zu bytes",
                     size_t(start - before), a.bytes);
        else
            snprintf(text, sizeof text, "something wrote %zu bytes past the end of an allocation of %zu bytes",
                     size_t(after - (start + a.bytes)), a.bytes);
        return text;
    }
    return {};
}

void check_global(const void* p, unsigned bytes, bool write, bool aligned, uintptr_t pc, const Site* where) {
    auto a = reinterpret_cast<uintptr_t>(p);
    if (!inside_allocation(p, bytes)) {
        void* start = nullptr;
        size_t size = 0;
        char near[120] = "no allocation is below it";
        auto it = live.upper_bound(a);
        if (it != live.begin()) {
            --it;
            start = reinterpret_cast<void*>(it->first), size = it->second.bytes;
            snprintf(near, sizeof near, "%zu bytes from the start of an allocation of %zu bytes",
                     size_t(a - reinterpret_cast<uintptr_t>(start)), size);
        }
        fail(Fault::address, pc, where, "%s %u bytes of global memory at %p, outside every allocation (%s)",
             write ? "writes" : "reads", bytes, p, near);
    }
    if (aligned && a % bytes != 0)
        fail(Fault::alignment, pc, where, "%s %u bytes of global memory at %p, which is not aligned to them",
             write ? "writes" : "reads", bytes, p);
}

}  // namespace emu
