//! Checkpoints read, checked, renamed and packed.
//!
//! The way of a weight: file -> [`header`] (checked) -> `layout` and `ldm` (diffusers' names) ->
//! [`checkpoint`] (f32) -> [`lora`] (merged) -> [`recipe`] (packed). [`model`] says which networks a path
//! holds, `infer` what config their shapes imply, [`manifest`] what the shipped models' files must be; [`write`]
//! writes files of tensors.

pub mod checkpoint;
pub mod header;
mod infer;
pub mod json;
mod layout;
mod ldm;
pub mod lora;
mod lora_names;
pub mod manifest;
pub mod model;
pub mod names;
pub mod recipe;
mod reorder;
pub mod write;

pub use checkpoint::Checkpoint;
pub(crate) use layout::IS_ADAPTER;
pub use lora::Adapter;
pub use model::{Model, Part};
pub use write::TensorWriter;
