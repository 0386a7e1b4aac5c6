//! The integration tests, one binary: a module per file.

mod abi;
mod shaders;
//! The one integration test binary; a module per file.

// Test modules share items by `pub`; nothing is reachable from outside a test binary.
#![allow(unreachable_pub)]

mod problem;
mod tolerance;
mod twin;
