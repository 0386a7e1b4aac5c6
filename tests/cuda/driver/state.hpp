// What the parts of the mock driver share: one lock, the objects behind the handles, the current context.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "emulator/emulator.hpp"
#include "types.hpp"

namespace mock {

struct Context {
    int device = 0;
    unsigned held = 0;                // retains not yet released
    CUresult sticky = CUDA_SUCCESS;  // what a fault left: every later call gives it
    std::string sticky_text;
};

struct Module {
    std::vector<std::unique_ptr<struct Function>> functions;
};

struct Function {
    const ts_host::Entry* entry;
    unsigned most_dynamic = 48 << 10;
};

// A piece of work in a stream. Kernels keep their parameters by value, as the driver does.
using Work = std::function<CUresult()>;

struct Graph {
    std::vector<Work> nodes;
};

struct Capture {
    Graph* graph;
    bool relaxed;
    bool invalid = false;
    std::thread::id thread;
    struct Stream* origin;
};

struct Stream {
    std::deque<Work> queue;             // not yet run; empty unless TESSERA_MOCK_DEFER is set
    unsigned long long submitted = 0, finished = 0;
    std::shared_ptr<Capture> capture;
    bool hung = false;                  // a kernel that never ends is in it
};

struct Event {
    bool timed = true;
    Stream* stream = nullptr;           // of its last record
    unsigned long long position = 0;    // in that stream
    bool done = true;
    std::shared_ptr<Capture> captured;  // recorded into a capture
    std::chrono::steady_clock::time_point at;
};

struct Driver {
    std::recursive_mutex lock;
    bool initialised = false;
    std::vector<Context> primary;
    std::set<Module*> modules;
    std::set<Function*> functions;
    std::set<Stream*> streams;
    std::set<Event*> events;
    std::set<Graph*> graphs, executables;
    std::set<std::pair<uintptr_t, size_t>> pinned;
    Stream default_stream;
    size_t memory_used = 0;
};
Driver& driver();

// The context of the calling thread; null without one.
Context*& current();

enum class Needs { nothing, init, context };

// Runs the body of an API function: under the lock, after the faults asked for in the environment and the context's own.
CUresult call(const char* name, Needs needs, const std::function<CUresult()>& body);

// Environment (environment.cpp), read anew at each call.
std::string text_setting(const char* name, const char* otherwise);
long long number_setting(const char* name, long long otherwise);
// The fault that TESSERA_MOCK_FAIL asks for in this call of `name`, if any.
CUresult asked_fault(const char* name, bool& sticky);
// Whether TESSERA_MOCK_HANG names this kernel.
bool hangs(const char* kernel);

// Device (device.cpp).
int capability();
unsigned shared_limit();
size_t device_memory();
// A sticky error of the current context, with words for cuGetErrorString.
CUresult poison(CUresult error, const std::string& text);

// Streams (stream.cpp). Null is the default stream; an unknown handle gives null in `found`.
bool find_stream(void* handle, Stream*& found);
// Runs the work, queues it or records it.
CUresult submit(Stream& stream, Work work);
// Runs what is queued up to and with a position.
CUresult drain(Stream& stream, unsigned long long position = ~0ull);
CUresult drain_all();
// For calls that a capture in this thread forbids: invalidates it.
CUresult refuse_in_capture();

// Memory (memory.cpp).
bool is_pinned(const void* p, size_t bytes);

}  // namespace mock
