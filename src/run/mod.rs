//! Where everything meets: the executor of plans, the only interpreter of programs, and the jobs built
//! from them.

pub mod devices;
pub mod executor;
pub mod inspect;
pub mod options;
pub mod upscale;

pub use devices::{DeviceInfo, devices};
pub use inspect::inspect;
pub use options::{Cancel, Observer, Progress, Report, Silent, Size, TileOrder, UpscaleOptions};
pub use upscale::upscale;
