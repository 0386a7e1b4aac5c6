//! The one integration test binary. One line per module, in alphabetical order.
//! The one integration binary. One line per module, in alphabetical order.

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
mod arrows;
mod bad_input;
mod cli;
mod house;
mod interpreter;
mod plan;
mod problem;
mod program;
mod reference;
mod source;
mod tile;
mod tolerance;
mod twin;
mod images;
mod tolerance;
