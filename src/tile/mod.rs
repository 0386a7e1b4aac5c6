//! Windows over a picture: THE tile maths, THE blend weights, and the bands of rows that keep host memory
//! at O(width x tile height).

pub mod band;
pub mod geometry;
pub mod window;

pub use band::{BandBlend, RowRing};
pub use geometry::{Axis, Grid, Placement, Window};
pub use window::{BlendWeights, Ramp};
