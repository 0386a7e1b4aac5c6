//! Checkpoints read, checked, renamed and packed.
//!
//! The way of a weight: file -> [`header`] (checked) -> [`checkpoint`] (f32) -> [`names`] (aliases) ->
//! [`recipe`] (packed). [`manifest`] says what the shipped models' files must be; [`write`] writes
//! files of tensors.

pub mod checkpoint;
pub mod header;
pub mod json;
pub mod manifest;
pub mod model;
pub mod names;
pub mod recipe;
pub mod write;

pub use checkpoint::Checkpoint;
pub use model::{Model, Part};
pub use write::TensorWriter;
