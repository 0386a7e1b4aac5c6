//! Static, single-assignment graphs of networks: the closed op set, shape inference, the builder,
//! verification, a printable dump, and the fusion passes.

pub mod builder;
pub mod change;
pub mod cut;
pub mod dtype;
pub mod dump;
pub mod layout;
pub mod op;
pub mod passes;
pub mod shape;
pub mod taps;
pub mod verify;

pub use builder::Builder;
pub use dtype::DType;
pub use op::{Act, Graph, Lifetime, Node, Op, ValueId, WeightId};
pub use shape::Shape;
