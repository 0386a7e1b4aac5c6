//! The one integration binary. One line per module, in alphabetical order.

mod arrows;
mod bad_input;
mod cli;
mod house;
mod interpreter;
mod plan;
mod program;
mod reference;
mod source;
mod tile;
mod tolerance;
