//! The one integration test binary. One line per module, in alphabetical order.

// Test modules share items by `pub`; nothing is reachable from outside a test binary.
#![allow(unreachable_pub)]

mod abi;
mod adapters;
mod arrows;
mod bad_input;
mod bench;
mod budget;
mod casarbi;
mod casr;
mod cli;
mod clip;
mod cuda;
mod eval;
mod folders;
mod formats;
mod house;
mod images;
mod interpreter;
mod job;
mod kills;
mod layouts;
mod malformed;
mod multidiffusion;
mod onestep;
mod ops;
mod parts;
mod plan;
mod probes;
mod problem;
mod program;
mod published;
mod recover;
mod reference;
mod resume;
mod run;
mod schedules;
mod shaders;
mod sifid;
mod sizes;
mod source;
mod tile;
mod tokenizer;
mod tolerance;
mod toys;
mod twin;
mod upscale;
mod vae_auto;
mod vae_modes;
mod vision;
mod weights;
