//! Checkpoints read, checked, renamed and packed.
//!
//! The way of a weight: file -> [`checkpoint`] (checked, f32) -> [`names`] (aliases) -> [`recipe`] (packed).

pub mod json;
