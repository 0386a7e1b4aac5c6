//! Windows over a picture: THE tile maths, THE blend weights, and the bands of rows that keep host memory
//! at O(width x tile height); the spool and its journal keep what is finished.

pub mod band;
pub mod geometry;
pub mod journal;
pub mod spool;
pub mod window;

pub use band::{BandBlend, RowRing};
pub use geometry::{Axis, Grid, Placement, Window};
pub use journal::Key;
pub use spool::Spool;
pub use window::{BlendWeights, Ramp};
