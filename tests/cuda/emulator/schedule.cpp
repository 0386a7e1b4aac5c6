// Runs a launch: blocks one after another, the threads of a block as fibers, barriers as meeting points.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.hpp"

namespace ts_host {
Dim thread_index, block_index, block_dim, grid_dim;
namespace {
const Entry* entries = nullptr;
}
void register_entry(Entry& entry) {
    entry.next = entries;
    entries = &entry;
}
}  // namespace ts_host

namespace emu {

Launch now;

const ts_host::Entry* first_entry() { return ts_host::entries; }

const ts_host::Entry* find_entry(const char* name) {
    for (const auto* e = ts_host::entries; e != nullptr; e = e->next)
        if (strcmp(e->name, name) == 0) return e;
    return nullptr;
}

namespace {

Stacks stacks;

void switch_to_scheduler() {
    ts_fiber_switch(&now.threads[now.current].fiber.stack_pointer, now.scheduler.stack_pointer);
}

void thread_main() {
    now.entry->call(now.entry->body, now.parameters);
    Thread& t = now.threads[now.current];
    check_no_copies_pending(t);
    check_no_products_pending();
    t.state = State::done;
    switch_to_scheduler();
    abort();
}

void run_thread(unsigned index) {
    now.current = index;
    ts_host::thread_index = {index, 0, 0};
    ts_fiber_switch(&now.scheduler.stack_pointer, now.threads[index].fiber.stack_pointer);
}

const char* place(const Site& s, char (&text)[200]) {
    const char* file = strrchr(s.file_name(), '/');
    snprintf(text, sizeof text, "%s:%u", file == nullptr ? s.file_name() : file + 1, unsigned(s.line()));
    return text;
}

// Where a thread is, for messages.
std::string whereabouts(unsigned index) {
    const Thread& t = now.threads[index];
    char at[200], text[300];
    const char* what = t.state == State::at_barrier    ? "sync_block"
                       : t.state == State::at_mbarrier ? "mbarrier_wait"
                                                       : now.warps[index / 32].collective;
    if (t.state == State::done)
        snprintf(text, sizeof text, "thread %u has ended", index);
    else
        snprintf(text, sizeof text, "thread %u waits in %s at %s", index, what, place(t.where, at));
    return text;
}

// The source line of an instruction of this library, from the debug information the kernels are built with.
std::string source_line(uintptr_t pc) {
    Dl_info info;
    if (pc == 0 || dladdr(reinterpret_cast<void*>(pc), &info) == 0) return {};
    // The return address is past the access.
    char command[600];
    snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
             size_t(pc - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase)));
    FILE* pipe = popen(command, "r");
    if (pipe == nullptr) return {};
    char line[400] = "";
    const char* got = fgets(line, sizeof line, pipe);
    pclose(pipe);
    if (got == nullptr || line[0] == '?') return {};
    line[strcspn(line, " \n")] = 0;
    const char* file = strrchr(line, '/');
    return std::string(" at ") + (file == nullptr ? line : file + 1);
}

void set_fault(Fault fault, uintptr_t pc, const Site* where, const char* format, va_list arguments) {
    if (now.fault != Fault::none) return;
    char text[900], head[300], at[200];
    vsnprintf(text, sizeof text, format, arguments);
    snprintf(head, sizeof head, "kernel %s, block (%u, %u, %u), thread %u: ", now.entry->name, ts_host::block_index.x,
             ts_host::block_index.y, ts_host::block_index.z, now.current);
    now.fault = fault;
    now.fault_pc = pc;
    now.fault_text = std::string(head) + text;
    if (where != nullptr) now.fault_text += std::string(" at ") + place(*where, at);
}

// Fault found by the scheduler, on no thread's stack.
void note(Fault fault, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    set_fault(fault, 0, nullptr, format, arguments);
    va_end(arguments);
}

// The k-th of `count` in the block's order.
unsigned ordered(unsigned k, unsigned count, Order order, unsigned salt) {
    if (order == Order::reverse) return count - 1 - k;
    if (order == Order::forward) return k;
    // An odd multiplier permutes a power of two; what falls outside is followed until it comes back in.
    unsigned size = 1;
    while (size < count) size *= 2;
    unsigned v = k;
    do v = (v * (4 * salt + 5) + 2 * salt + 1) & (size - 1);
    while (v >= count);
    return v;
}

void run_block(unsigned index) {
    Order order = now.options.order;
    if (order == Order::mixed) order = static_cast<Order>(index % 3);
    unsigned salt = now.options.seed * 2654435761u + index * 40503u;
    now.number++;
    now.barrier_stamp = ++now.stamp;
    for (auto& w : now.warps) w = {0, nullptr, now.stamp, 0};
    for (unsigned i = 0; i < now.thread_count; i++) {
        Thread& t = now.threads[i];
        t.state = State::ready;
        t.uncommitted.clear();
        t.groups.clear();
        t.finished = 0;
        t.unfenced = 0;
        stacks.prepare(t.fiber, i, thread_main);
    }
    begin_shared(now.dynamic_bytes);
    if (has_barriers()) begin_barriers();
    begin_transfers();
    unsigned warp_count = now.thread_count / 32;
    for (;;) {
        unsigned at_barrier = 0, waiting = 0;
        for (unsigned k = 0; k < warp_count; k++) {
            unsigned w = ordered(k, warp_count, order, salt);
            for (bool ran = true; ran;) {
                ran = false;
                for (unsigned l = 0; l < 32; l++) {
                    unsigned t = w * 32 + ordered(l, 32, order, salt);
                    if (now.threads[t].state != State::ready) continue;
                    run_thread(t);
                    if (now.fault != Fault::none) return;
                    ran = true;
                }
            }
        }
        // A thread that waits at an mbarrier may have been woken by a warp that came after its own.
        bool woken = false;
        for (unsigned t = 0; t < now.thread_count; t++) {
            woken = woken || now.threads[t].state == State::ready;
            waiting += now.threads[t].state == State::at_mbarrier;
            at_barrier += now.threads[t].state == State::at_barrier;
        }
        if (woken || (waiting != 0 && carry_out_one())) continue;
        for (unsigned t = 0; t < now.thread_count; t++) {
            if (now.threads[t].state != State::in_collective) continue;
            unsigned other = t / 32 * 32;
            while (now.threads[other].state == State::in_collective) other++;
            now.current = t;
            return note(Fault::violation, "the warp diverged at a collective: %s while %s", whereabouts(t).c_str(),
                        whereabouts(other).c_str());
        }
        for (unsigned t = 0; t < now.thread_count; t++) {
            if (now.threads[t].state != State::at_mbarrier) continue;
            now.current = t;
            return note(Fault::violation, "%s for %s, which nobody will bring", whereabouts(t).c_str(), awaited(t).c_str());
        }
        if (at_barrier == 0) {
            std::string left = left_by_block();
            if (!left.empty()) note(Fault::violation, "%s", left.c_str());
            return;
        }
        unsigned first = 0;
        while (now.threads[first].state == State::done) first++;
        for (unsigned t = 0; t < now.thread_count; t++) {
            const Site &a = now.threads[first].where, &b = now.threads[t].where;
            if (now.threads[t].state == State::at_barrier && a.line() == b.line() &&
                strcmp(a.file_name(), b.file_name()) == 0)
                continue;
            now.current = first;
            return note(Fault::violation, "the block diverged at a barrier: %s while %s", whereabouts(first).c_str(),
                        whereabouts(t).c_str());
        }
        now.barrier_stamp = ++now.stamp;
        for (auto& w : now.warps) w.stamp = now.stamp;
        for (auto& t : now.threads) t.state = State::ready;
    }
}

// Signals of the thread that runs the launch are the kernel's own; others' go where they went before.
pthread_t launching_thread;
struct sigaction before[2];
constexpr int signals[2] = {SIGSEGV, SIGBUS};

void on_signal(int number, siginfo_t* info, void*) {
    if (!now.running || !pthread_equal(pthread_self(), launching_thread)) {
        for (int i = 0; i < 2; i++)
            if (signals[i] == number) sigaction(number, &before[i], nullptr);
        return;  // the access is made again, and met by the one before
    }
    const char* what = stacks.is_guard(info->si_addr) ? "its local arrays overflow its stack of 128 KiB; address"
                       : is_device_address(info->si_addr) ? "touches global memory outside every allocation, at"
                                                          : "touches memory that isn't there, at";
    note(Fault::address, "%s %p", what, info->si_addr);
    switch_to_scheduler();  // never back: the fiber is given up
}

class SignalGuard {
  public:
    SignalGuard() {
        launching_thread = pthread_self();
        static char* stack = static_cast<char*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        stack_t mine{};
        mine.ss_sp = stack;
        mine.ss_size = bytes;
        sigaltstack(&mine, &stack_before_);
        struct sigaction action {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 2; i++) sigaction(signals[i], &action, &before[i]);
    }
    ~SignalGuard() {
        for (int i = 0; i < 2; i++) sigaction(signals[i], &before[i], nullptr);
        sigaltstack(&stack_before_, nullptr);
    }

  private:
    static constexpr size_t bytes = 64 << 10;
    stack_t stack_before_{};
};

Result refused(const std::string& text) { return {Fault::launch, text}; }

}  // namespace

void yield_thread() { switch_to_scheduler(); }

void fail(Fault fault, uintptr_t pc, const Site* where, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    set_fault(fault, pc, where, format, arguments);
    va_end(arguments);
    switch_to_scheduler();
    abort();
}

void warp_collective(const char* name, const Site& where, void* operands, void (*execute)(void** lanes)) {
    unsigned first = now.current / 32 * 32;
    Warp& warp = now.warps[now.current / 32];
    Thread& me = now.threads[now.current];
    if (warp.arrived != 0) {
        unsigned other = first;
        while (now.threads[other].state != State::in_collective) other++;
        const Site& there = now.threads[other].where;
        if (strcmp(warp.collective, name) != 0 || there.line() != where.line() ||
            strcmp(there.file_name(), where.file_name()) != 0)
            fail(Fault::violation, 0, &where, "the warp diverged at a collective: %s while thread %u is in %s",
                 whereabouts(other).c_str(), now.current, name);
    }
    warp.collective = name;
    me.operands = operands;
    me.where = where;
    me.state = State::in_collective;
    if (++warp.arrived < 32) return yield_thread();
    void* lanes[32];
    for (unsigned l = 0; l < 32; l++) lanes[l] = now.threads[first + l].operands;
    execute(lanes);
    for (unsigned l = 0; l < 32; l++) now.threads[first + l].state = State::ready;
    warp.arrived = 0;
}

Result launch(const ts_host::Entry& entry, Dim grid, Dim block, unsigned dynamic_bytes, void** parameters,
              const Options& options) {
    std::string name = std::string("kernel ") + entry.name + ": ";
    if (block.y != 1 || block.z != 1 || block.x != entry.threads)
        return refused(name + "launched with blocks of " + std::to_string(block.x) + " x " + std::to_string(block.y) +
                       " x " + std::to_string(block.z) + " threads, its bound is " + std::to_string(entry.threads));
    if (block.x % 32 != 0 || block.x == 0 || block.x > 1024)
        return refused(name + "blocks of " + std::to_string(block.x) + " threads; it takes a multiple of 32 up to 1024");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return refused(name + "an empty grid");
    unsigned long long blocks = 1ull * grid.x * grid.y;
    if (blocks > 1u << 30 || blocks * grid.z > 1u << 30) return refused(name + "a grid of more than 2^30 blocks");
    blocks *= grid.z;
    if (dynamic_bytes > options.shared_limit)
        return refused(name + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory, a block may have " +
                       std::to_string(options.shared_limit));
    now.entry = &entry;
    now.parameters = parameters;
    now.options = options;
    now.dynamic_bytes = dynamic_bytes;
    now.fault = Fault::none;
    now.fault_text.clear();
    now.fault_pc = 0;
    if (now.thread_count != block.x) {
        now.thread_count = block.x;
        now.threads = std::vector<Thread>(block.x);
        now.warps = std::vector<Warp>(block.x / 32);
    }
    ts_host::block_dim = block;
    ts_host::grid_dim = grid;
    {
        SignalGuard guard;
        now.running = true;
        auto count = static_cast<unsigned>(blocks);
        for (unsigned k = 0; k < count && now.fault == Fault::none; k++) {
            unsigned b = ordered(k, count, options.order, options.seed);
            ts_host::block_index = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
            run_block(b);
        }
        now.running = false;
    }
    if (now.fault == Fault::none) {
        std::string damage = damaged_guards();
        return damage.empty() ? Result{} : Result{Fault::address, name + damage};
    }
    return {now.fault, now.fault_text + source_line(now.fault_pc)};
}

}  // namespace emu

// ---- barriers ----

void sync_block(ts_host::Site where) {
    using namespace emu;
    Thread& t = now.threads[now.current];
    t.where = where;
    t.state = State::at_barrier;
    yield_thread();
}
