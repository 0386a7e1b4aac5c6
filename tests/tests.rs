//! The one integration binary. One line per module, in alphabetical order.

mod arrows;
mod house;
mod source;
