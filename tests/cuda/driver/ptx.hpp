// What the mock reads in a PTX image: enough to find the host's entries and to tell a stale image.
#pragma once

#include <string>
#include <vector>

namespace mock {

struct PtxEntry {
    std::string name;
    std::vector<unsigned> parameter_bytes;
    unsigned threads = 0;  // .maxntid or .reqntid; 0 where neither is given
};

struct Ptx {
    unsigned version = 0;  // 10 times the major plus the minor number
    unsigned target = 0;   // 80 of sm_80, sm_80a
    bool exact = false;    // sm_..a: for that device alone
    std::vector<PtxEntry> entries;
    std::string problem;   // empty, or why it isn't PTX
};

Ptx parse_ptx(const std::string& text);

}  // namespace mock
