//! The only reader of environment variables. Each knob is a row of [`KNOBS`]; the README's table
//! is checked against it.

/// One environment variable.
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// What it does, one sentence.
    pub meaning: &'static str,
}

/// Every environment variable the program reads.
pub const KNOBS: [Knob; 11] = [
    Knob {
        name: "TESSERA_WEIGHTS",
        meaning: "folder that holds the shipped models (default: beside the program, then the source tree)",
    },
    Knob { name: "TESSERA_PRINT_PLAN", meaning: "1 prints each plan once, as it is made" },
    Knob {
        name: "TESSERA_REQUIRE_WGPU",
        meaning: "1 makes tests fail, instead of skip, where no wgpu adapter is found",
    },
    Knob {
        name: "TESSERA_REQUIRE_MOCK",
        meaning: "1 makes tests fail, instead of skip, where the mock CUDA driver cannot be built",
    },
    Knob {
        name: "TESSERA_CUDA_SYNC",
        meaning: "1 starts CUDA kernels one by one and waits for each, so that an error names the kernel",
    },
    Knob {
        name: "TESSERA_CUDA_WGMMA",
        meaning: "1 runs convolutions, GEMMs and attention by Hopper's `wgmma` where the card has it, tma also lets its tensor memory accelerator bring their operands; no card has run these kernels yet",
    },
    Knob {
        name: "TESSERA_CUDA_TF32",
        meaning: "1 lets CUDA's tensor cores multiply where all is f32, factors rounded to 11 bits (tf32); the device's name then says so",
    },
    Knob {
        name: "TESSERA_CUDA_STATISTICS",
        meaning: "apart lets norms read their input for its statistics on CUDA, instead of the convolution that made it; the device's name then says so",
    },
    Knob {
        name: "TESSERA_CUDA_PROCESSORS",
        meaning: "at most so many of a CUDA device's processors for the kernels that stay on theirs, so that small shapes take the ways of large ones, to check them; the device's name then says so",
    },
    Knob {
        name: "TESSERA_REFERENCES",
        meaning: "folder of references at the published sizes, for tests/parts.rs: tools/reference/make_casarbi.py, make_casr.py",
    },
    Knob {
        name: "TESSERA_RESTARTS",
        meaning: "how often the program has started itself again after it lost a CUDA device; it sets this itself",
    },
];

/// The value of the knob `name`, when it is set and not empty.
///
/// # Panics
/// Debug builds panic when `name` is not a row of [`KNOBS`].
pub fn get(name: &str) -> Option<String> {
    debug_assert!(KNOBS.iter().any(|k| k.name == name), "unknown knob {name}");
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Whether the knob `name` is set to `1`.
pub fn is_on(name: &str) -> bool {
    get(name).as_deref() == Some("1")
}
