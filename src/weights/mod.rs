//! Checkpoints read, checked, renamed and packed.
//!
//! The way of a weight: file -> [`header`] (checked) -> `layout`, `ldm` and `vision` (diffusers' names) ->
//! [`checkpoint`] (f32) -> [`lora`] (merged) -> `fold` (norms and scales taken in) -> [`recipe`] (packed). [`model`] says which networks a path
//! holds, `infer` what config their shapes imply, [`manifest`] what the shipped models' files must be; [`write`]
//! writes files of tensors.

pub mod checkpoint;
mod fold;
pub mod header;
mod infer;
mod infer_vision;
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
mod vision;
pub mod write;

pub use checkpoint::Checkpoint;
pub(crate) use layout::IS_ADAPTER;
pub use lora::Adapter;
pub use model::{Model, Part};
pub use write::TensorWriter;
