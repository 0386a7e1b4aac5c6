//! Where everything meets: the executor of plans, the only interpreter of programs, and the jobs built
//! from them.

pub mod budget;
pub mod canvas;
mod chain;
mod clean;
mod clock;
pub mod component;
mod delivery;
pub mod devices;
pub mod engine;
pub mod eval;
pub mod executor;
pub mod executors;
mod folder;
pub mod inspect;
pub mod interpreter;
mod kept;
mod key;
pub mod loader;
mod manifest;
mod naming;
pub mod options;
mod points;
mod port;
mod recover;
mod resume;
mod rows;
mod shipped;
mod sinks;
pub mod statistics;
mod streamed;
pub mod upscale;
mod window_phase;
mod work;

pub use crate::image::{Format, is_pipe};
pub use clean::{Fate, Left, clean};
pub use component::{Component, ComponentOptions, ComponentReport, component};
pub use delivery::unfinished_spool;
pub use devices::{DeviceInfo, devices};
pub use engine::Engine;
pub use folder::{FolderOptions, Outcome, Picture, folder};
pub use inspect::{AdapterInfo, InspectOptions, Inspection, NetworkInfo, SystemInfo, inspect};
pub use manifest::MANIFEST;
pub use options::{Cancel, Observer, Progress, Report, Resume, Silent, Size, TileOrder, UpscaleOptions, VaeMode};
pub use shipped::shipped_model;
pub use upscale::{upscale, upscale_with};
