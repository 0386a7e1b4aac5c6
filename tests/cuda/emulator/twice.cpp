// Whether a launch's result hangs on the order in which blocks and threads come.
#include <cstring>

#include "emulator.hpp"

namespace emu {

Result launch_twice(const ts_host::Entry& entry, ts_host::Dim grid, ts_host::Dim block, unsigned dynamic_bytes,
                    void** parameters, Options options) {
    auto before = saved_memory();
    options.order = Order::forward;
    Result r = launch(entry, grid, block, dynamic_bytes, parameters, options);
    if (r.fault != Fault::none) return r;
    auto first = saved_memory();
    restore_memory(before);
    options.order = Order::reverse;
    r = launch(entry, grid, block, dynamic_bytes, parameters, options);
    if (r.fault != Fault::none) return r;
    auto second = saved_memory();
    size_t at = 0;
    while (at < first.size() && first[at] == second[at]) at++;
    if (at == first.size()) return r;
    return {Fault::violation, std::string("kernel ") + entry.name + ": byte " + std::to_string(at) +
                                  " of device memory differs between a run in one order of blocks and threads and a run in "
                                  "the opposite order"};
}

}  // namespace emu
