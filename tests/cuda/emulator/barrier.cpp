// Barriers in shared memory (mbarrier): arrivals and bytes awaited, and what those who wait for a phase come to know. Who waits is
// woken when the phase ends; a copy's bytes land when nothing else can go on (tma.cpp).
#include <algorithm>

#include "state.hpp"

#include "shared/tma.cuh"
#include "shared/wgmma.cuh"

namespace emu {

namespace {

struct MBarrier {
    unsigned offset, arrivals;  // where it is; of a phase
    unsigned maker, stamp;      // the thread that made it, and its warp's stamp then
    bool fenced = false;
    unsigned pending;           // arrivals still awaited
    long long bytes = 0;        // expected and not landed
    unsigned phase = 0;
    Known gathered{}, ended{};  // by arrivals and copies so far; by those of the phase that ended last
};

std::vector<MBarrier> barriers;  // of the block
std::vector<unsigned> waited_for;  // by thread: index of the barrier it waits for

MBarrier& at(unsigned index) { return barriers[index]; }

void maybe_end(MBarrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    b.phase++;
    b.pending = b.arrivals;
    b.ended = b.gathered;
    unsigned index = static_cast<unsigned>(&b - barriers.data());
    for (unsigned t = 0; t < now.thread_count; t++)
        if (now.threads[t].state == State::at_mbarrier && waited_for[t] == index) now.threads[t].state = State::ready;
}

void arrive_at(MBarrier& b, const Site& where) {
    if (b.pending == 0) fail(Fault::violation, 0, &where, "arrives once more than the barrier's phase was made for");
    const unsigned warp = now.current / 32;
    const Known& mine = now.threads[now.current].known;
    for (unsigned i = 0; i < mine.size(); i++) b.gathered[i] = std::max(b.gathered[i], mine[i]);
    // Of this warp: what lies before its last sync_warp, and the products it has waited for.
    unsigned& accesses = b.gathered[agent_of_warp(warp)];
    unsigned& products = b.gathered[agent_of_products(warp)];
    accesses = std::max(accesses, now.warps[warp].stamp);
    products = std::max(products, now.warps[warp].products);
    b.pending--;
    maybe_end(b);
}

}  // namespace

void begin_barriers() {
    for (auto& t : now.threads) t.known.fill(0);
    barriers.clear();
}

bool has_barriers() { return !barriers.empty(); }

unsigned barrier_at(const Barrier* p, const Site& where) {
    unsigned offset = is_shared_address(p) ? ts_host::shared_offset(p, where) : ~0u;
    for (unsigned i = 0; i < barriers.size(); i++) {
        const MBarrier& b = barriers[i];
        if (b.offset != offset) continue;
        if (b.maker != now.current && b.stamp >= now.barrier_stamp)
            fail(Fault::violation, 0, &where, "uses a barrier that thread %u made with no sync_block since", b.maker);
        return i;
    }
    fail(Fault::violation, 0, &where, "uses a barrier at %p that nobody made", static_cast<const void*>(p));
}

void check_fenced(unsigned barrier, const Site& where) {
    if (!at(barrier).fenced) fail(Fault::violation, 0, &where, "copies for a barrier that was made without mbarrier_init_fence");
}

void land(unsigned barrier, unsigned bytes) {
    MBarrier& b = at(barrier);
    unsigned& known = b.gathered[agent_of_copies(barrier)];
    known = std::max(known, ++now.stamp);
    b.bytes -= bytes;
    maybe_end(b);
}

std::string awaited(unsigned thread) {
    const MBarrier& b = at(waited_for[thread]);
    return std::to_string(b.pending) + " arrivals and " + std::to_string(b.bytes) + " bytes";
}

}  // namespace emu

void mbarrier_init(Barrier* p, unsigned arrivals, ts_host::Site where) {
    using namespace emu;
    if (!is_shared_address(p)) fail(Fault::address, 0, &where, "a barrier at %p, which is not shared memory", static_cast<void*>(p));
    make_barrier_cells(p, where);
    unsigned offset = ts_host::shared_offset(p, where);
    for (const auto& b : barriers)
        if (b.offset == offset) fail(Fault::violation, 0, &where, "makes a barrier that thread %u has made", b.maker);
    waited_for.resize(now.thread_count);
    if (arrivals == 0 || barriers.size() == agents_of_a_kind)
        fail(Fault::violation, 0, &where, "a barrier for %u arrivals, the block's %zu.", arrivals, barriers.size() + 1);
    MBarrier b{};
    b.offset = offset;
    b.arrivals = b.pending = arrivals;
    b.maker = now.current;
    b.stamp = now.warps[now.current / 32].stamp;
    barriers.push_back(b);
}

void mbarrier_init_fence(ts_host::Site) {
    for (auto& b : emu::barriers) b.fenced = b.fenced || b.maker == emu::now.current;
}

void mbarrier_arrive(Barrier* p, ts_host::Site where) { emu::arrive_at(emu::at(emu::barrier_at(p, where)), where); }

void mbarrier_arrive_expect(Barrier* p, unsigned bytes, ts_host::Site where) {
    emu::MBarrier& b = emu::at(emu::barrier_at(p, where));
    b.bytes += bytes;
    emu::arrive_at(b, where);
}

void mbarrier_wait(Barrier* p, unsigned parity, ts_host::Site where) {
    using namespace emu;
    unsigned index = barrier_at(p, where);
    if (parity > 1) fail(Fault::violation, 0, &where, "waits for a phase of parity %u", parity);
    Thread& me = now.threads[now.current];
    if ((at(index).phase & 1) == parity) {
        waited_for[now.current] = index;
        me.where = where;
        me.state = State::at_mbarrier;
        yield_thread();
    }
    const Known& ended = at(index).ended;
    for (unsigned i = 0; i < ended.size(); i++) me.known[i] = std::max(me.known[i], ended[i]);
}
