//! A compute engine that upscales pictures by diffusion, at any scale, inside a memory budget.
//!
//! The data's way, which is also the folder order:
//! file -> image -> tile -> system -> graph -> plan -> backend -> blend -> image -> file.
//! `docs/architecture.md` tells more; `run` is where everything meets.

pub mod abi;
pub mod backend;
pub mod error;
pub mod extent;
pub mod fs;
pub mod graph;
pub mod image;
pub mod knobs;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod noise;
pub mod plan;
pub mod run;
pub mod system;
pub mod tile;
pub mod weights;

pub use error::{Error, Kind, Result};
