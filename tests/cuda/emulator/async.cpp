// cp.async: a copy is only noted when it is issued, its target filled with NaN, and carried out when its thread waits for
// its group, the latest moment the manual allows. A wait that is missing or counts wrongly is so seen in the values as
// well as by the checks of shared memory.
#include <cstring>

#include "state.hpp"

namespace emu {

namespace {

void finish(const Copy& c) {
    finish_copy(c.target, c.where);
    if (c.source != nullptr)
        memcpy(c.target, c.source, 16);
    else
        memset(c.target, 0, 16);
}

}  // namespace

void check_no_copies_pending(Thread& thread) {
    const Copy* pending = thread.uncommitted.empty() ? nullptr : &thread.uncommitted[0];
    for (size_t g = thread.finished; g < thread.groups.size() && pending == nullptr; g++)
        if (!thread.groups[g].empty()) pending = &thread.groups[g][0];
    if (pending != nullptr)
        fail(Fault::violation, 0, &pending->where, "ends without having waited for its cp_async16");
}

}  // namespace emu

void cp_async16(void* shared_dst, const void* global_src, bool valid, ts_host::Site where) {
    using namespace emu;
    if (!is_shared_address(shared_dst))
        fail(Fault::address, 0, &where, "cp_async16 to %p, which is not shared memory", shared_dst);
    if (valid) {
        if (!is_device_address(global_src))
            fail(Fault::address, 0, &where, "cp_async16 from %p, which is not global memory", global_src);
        check_global(global_src, 16, false, true, 0, &where);
    }
    begin_copy(shared_dst, where);
    now.threads[now.current].uncommitted.push_back({shared_dst, valid ? global_src : nullptr, where});
}

void cp_async_commit(ts_host::Site) {
    using namespace emu;
    Thread& t = now.threads[now.current];
    t.groups.push_back(std::move(t.uncommitted));
    t.uncommitted.clear();
}

void ts_host::cp_async_wait_group(unsigned pending, Site) {
    using namespace emu;
    Thread& t = now.threads[now.current];
    while (t.groups.size() - t.finished > pending) {
        for (const Copy& c : t.groups[t.finished]) finish(c);
        t.groups[t.finished++].clear();
    }
}
