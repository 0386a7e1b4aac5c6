//! From a graph and a device's [`Caps`](crate::abi::Caps) to a plan: order, lifetimes, arena offsets,
//! kernel variants, commands, cost. Nothing here touches a device.

pub mod command;
