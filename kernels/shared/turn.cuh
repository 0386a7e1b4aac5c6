// Where a ring of stages in shared memory stands, for those who fill it and those who empty it.
#pragma once

// The stage at hand and the parity of its phase.
template <unsigned STAGES> struct Turn {
    unsigned stage = 0;
    unsigned parity = 0;

    TS_D void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};
