//! The one integration test binary. One line per module, in alphabetical order.

// Test modules share items by `pub`; nothing is reachable from outside a test binary.
#![allow(unreachable_pub)]

mod images;
mod interpreter;
mod problem;
mod reference;
mod tolerance;
mod twin;
mod plan;
mod tile;
