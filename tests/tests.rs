//! The integration tests: one binary, a module per file.

mod plan;
mod tile;
mod toys;
mod upscale;
