//! The integration tests, one binary: a module per file.

mod abi;
mod shaders;
