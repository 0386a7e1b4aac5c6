//! Benches of host code.

fn main() {}
