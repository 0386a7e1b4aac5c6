//! The one integration binary. One line per module, in alphabetical order.

mod interpreter;
mod plan;
mod reference;
mod tolerance;
