//! t
mod tile;
