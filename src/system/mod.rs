//! Systems: programs as data. A system says which graphs run over which windows, what feeds them and
//! where their results go; `run` is the only thing that interprets it.

pub mod casarbi;
mod casarbi_program;
mod casarbi_stage;
pub mod cascade;
pub mod casr;
mod casr_latent;
mod casr_program;
mod casr_settings;
mod casr_stage;
pub mod chain;
mod check;
mod check_windows;
pub mod footprint;
pub mod job;
pub mod laid;
pub mod latent;
pub mod link;
pub mod multidiffusion;
pub mod needs;
pub mod onestep;
mod onestep_index;
pub mod onestep_latent;
mod onestep_program;
pub mod phase;
pub mod program;
pub mod registry;
pub mod schedule;
pub mod state;
pub mod superpixels;
pub mod vae_modes;

pub use job::{Job, System};
pub use program::Program;
