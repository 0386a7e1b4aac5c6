//! The splits and scales of the papers, by name.

/// What a paper evaluates on: which pictures of a data set, at which scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Protocol {
    /// Its name on the command line.
    pub name: &'static str,
    /// Where it comes from, in words.
    pub about: &'static str,
    /// Factors.
    pub scales: &'static [f64],
    /// The last pictures by name that count; 0 for all.
    pub last: usize,
    /// Pictures are inputs without originals.
    pub inputs_only: bool,
}

/// The protocols of CASR (arXiv 2602.22159) and CasArbi (arXiv 2506.07813).
pub const PROTOCOLS: [Protocol; 5] = [
    Protocol {
        name: "casr-div8k",
        about: "CASR, DIV8K: the last 100 pictures, bicubic reduction",
        scales: &[8.0, 12.0, 18.0, 24.0, 30.0],
        last: 100,
        inputs_only: false,
    },
    Protocol {
        name: "casr-realsr",
        about: "CASR, RealSR: the small pictures of two cameras, no originals",
        scales: &[8.0, 12.0, 18.0, 24.0, 30.0],
        last: 0,
        inputs_only: true,
    },
    Protocol {
        name: "casr-celeba",
        about: "CASR, CelebA-HQ: 100 faces of 128 x 128 as inputs, no originals",
        scales: &[4.0, 6.0, 8.0, 12.0],
        last: 100,
        inputs_only: true,
    },
    Protocol {
        name: "casarbi-celeba",
        about: "CasArbi, CelebA-HQ: in and out of the trained range",
        scales: &[5.3, 7.0, 10.0, 10.7, 12.0],
        last: 0,
        inputs_only: false,
    },
    Protocol {
        name: "casarbi-div2k",
        about: "CasArbi, the DIV2K validation pictures",
        scales: &[2.0, 4.0, 8.0, 12.0],
        last: 0,
        inputs_only: false,
    },
];

/// The protocol of that name.
pub fn protocol(name: &str) -> Option<&'static Protocol> {
    PROTOCOLS.iter().find(|p| p.name == name)
}
