//! The one integration binary. One line per module, in alphabetical order.

mod interpreter;
mod reference;
mod tolerance;
