// What the self tests share: counting checks, and memory and launches in few words.
#pragma once

#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "emulator/emulator.hpp"

namespace selftest {

inline int checks = 0, failures = 0;

inline void report(bool held, const char* what, const char* file, int line) {
    checks++;
    if (held) return;
    failures++;
    printf("%s:%d: %s\n", file, line, what);
}
#define CHECK(condition) selftest::report((condition), #condition, __FILE__, __LINE__)

// Device memory that is freed with its scope.
template <class T> class Buffer {
  public:
    explicit Buffer(size_t count) : count_(count), start_(static_cast<T*>(emu::allocate(count * sizeof(T)))) {}
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
        memcpy(start_, values.data(), count_ * sizeof(T));
    }
    ~Buffer() { emu::release(start_); }
    Buffer(const Buffer&) = delete;
    T* get() const { return start_; }
    T& operator[](size_t i) const { return start_[i]; }
    std::vector<T> values() const { return {start_, start_ + count_}; }

  private:
    size_t count_;
    T* start_;
};

// Launches by name with values as parameters.
template <class... P>
emu::Result launch(const char* name, ts_host::Dim grid, unsigned dynamic_bytes, emu::Options options, P... values) {
    const auto* entry = emu::find_entry(name);
    if (entry == nullptr) return {emu::Fault::launch, "no such entry"};
    void* parameters[sizeof...(P)] = {&values...};
    return emu::launch(*entry, grid, {entry->threads, 1, 1}, dynamic_bytes, parameters, options);
}

constexpr emu::Order orders[] = {emu::Order::forward, emu::Order::reverse, emu::Order::shuffled, emu::Order::mixed};

void collectives();
void copies();
void numbers();
void faults();
void warpgroups();
void transfers();

}  // namespace selftest
