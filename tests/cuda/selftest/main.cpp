// Self tests of the emulator: right kernels against formulas of their own, wrong ones against what must be reported.
#include "check.hpp"

int main() {
    selftest::collectives();
    selftest::copies();
    selftest::numbers();
    selftest::faults();
    selftest::warpgroups();
    selftest::transfers();
    printf("emulator: %d checks, %d failed\n", selftest::checks, selftest::failures);
    return selftest::failures == 0 ? 0 : 1;
}
