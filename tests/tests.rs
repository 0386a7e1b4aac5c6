//! The one integration binary. One line per module, in alphabetical order.

mod interpreter;
mod reference;
mod tolerance;
//! The one integration test binary; a module per file.

// Test modules share items by `pub`; nothing is reachable from outside a test binary.
#![allow(unreachable_pub)]

mod problem;
mod tolerance;
mod twin;
