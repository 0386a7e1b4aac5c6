//! Joins the graphs of several networks into one, so that a window crosses the host boundary once.

use crate::error::{Error, Kind, Result};
use crate::graph::op::{Graph, Node, Op, Value, ValueId, WeightDecl, WeightId};
use crate::graph::{Lifetime, shape};

/// A graph under construction from whole graphs and single ops.
#[derive(Debug)]
pub struct Linker {
    graph: Graph,
}

impl Linker {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Linker {
        Linker { graph: Graph { name: name.into(), ..Graph::default() } }
    }

    /// The value behind `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        self.graph.value(id)
    }

    /// Declares an input.
    pub fn input(&mut self, value: Value) -> ValueId {
        let op = Op::Input(value.lifetime);
        let output = self.add(value);
        self.graph.nodes.push(Node { op, inputs: Vec::new(), output });
        output
    }

    /// Adds one op without weights; its value is called `name` and stored as `dtype`.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[ValueId], dtype: crate::graph::DType) -> Result<ValueId> {
        let out = shape::infer(&op, &shape::of(&self.graph, inputs)).map_err(|e| e.at(name))?;
        let lifetime = inputs.iter().map(|&v| self.value(v).lifetime).max().unwrap_or(Lifetime::Weight);
        let output = self.add(Value { name: name.to_owned(), shape: out, dtype, lifetime });
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// Adds all of `part`, its tensors and values prefixed by `prefix.`. Inputs named in `bind` become those
    /// values (which must have the input's extents and type); the others stay inputs, prefixed. Returns
    /// the part's outputs in order.
    pub fn part(&mut self, prefix: &str, part: &Graph, bind: &[(&str, ValueId)]) -> Result<Vec<ValueId>> {
        let weights = self.graph.weights.len() as u32;
        self.graph
            .weights
            .extend(part.weights.iter().map(|w| WeightDecl { name: format!("{prefix}.{}", w.name), ..w.clone() }));
        let mut map: Vec<ValueId> = Vec::with_capacity(part.values.len());
        let mut taken: Vec<bool> = Vec::with_capacity(part.values.len());
        // Values are renumbered in their own order; a bound input takes no new number.
        for value in &part.values {
            let bound = bind.iter().find(|(name, _)| *name == value.name).map(|b| b.1);
            taken.push(bound.is_some());
            let id = match bound {
                Some(id) => {
                    let have = self.value(id);
                    if have.shape != value.shape || have.dtype != value.dtype {
                        return Err(Error::new(
                            Kind::Internal,
                            "system",
                            format!(
                                "{prefix}.{} is {} {}, not {} {}",
                                value.name,
                                value.shape,
                                value.dtype.name(),
                                have.shape,
                                have.dtype.name()
                            ),
                        ));
                    }
                    id
                }
                None => self.add(Value { name: format!("{prefix}.{}", value.name), ..value.clone() }),
            };
            map.push(id);
        }
        let to = |id: &ValueId| map[id.0 as usize];
        let own = part.constants.iter().filter(|(v, _)| !taken[v.0 as usize]);
        self.graph.constants.extend(own.map(|(v, values)| (to(v), values.clone())));
        for node in &part.nodes {
            if matches!(node.op, Op::Input(_)) && taken[node.output.0 as usize] {
                continue;
            }
            self.graph.nodes.push(Node {
                op: node.op.with_weights(&mut |w| WeightId(w.0 + weights)),
                inputs: node.inputs.iter().map(to).collect(),
                output: to(&node.output),
            });
        }
        Ok(part.outputs.iter().map(|(_, id)| to(id)).collect())
    }

    /// Names an output of the whole.
    pub fn output(&mut self, name: &str, id: ValueId) {
        self.graph.outputs.push((name.to_owned(), id));
    }

    /// Ends linking.
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn add(&mut self, value: Value) -> ValueId {
        self.graph.values.push(value);
        ValueId(self.graph.values.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::Padding;
    use crate::graph::{Builder, DType, Shape};

    fn conv(name: &str, channels: u32, out: u32) -> Graph {
        let mut b = Builder::new(name, DType::F32);
        let x = b.input("x", Shape::new(1, 4, 4, channels), DType::F32, Lifetime::Window);
        let y = b.conv("conv", x, out, 3, 1, Padding::all(1)).expect("conv");
        b.output("y", y);
        b.finish()
    }

    #[test]
    fn parts_are_joined_and_prefixed() {
        let mut l = Linker::new("both");
        let first = l.part("a", &conv("a", 3, 5), &[]).expect("links")[0];
        let second = l.part("b", &conv("b", 5, 2), &[("x", first)]).expect("links")[0];
        l.output("out", second);
        let g = l.finish();
        let names: Vec<&str> = g.weights.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names, ["a.conv.weight", "a.conv.bias", "b.conv.weight", "b.conv.bias"]);
        assert_eq!(g.nodes.iter().filter(|n| matches!(n.op, Op::Input(_))).count(), 1);
        assert_eq!(g.value(g.nodes[0].output).name, "a.x");
        let Op::Conv2d(p) = &g.nodes[2].op else { panic!("a convolution") };
        assert_eq!((p.weight, p.bias), (WeightId(2), Some(WeightId(3))));
        assert_eq!(g.nodes[2].inputs, [g.nodes[1].output]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut l = Linker::new("both");
        let first = l.part("a", &conv("a", 3, 5), &[]).expect("links")[0];
        let e = l.part("b", &conv("b", 6, 2), &[("x", first)]).expect_err("5 channels, not 6");
        assert!(e.message().contains("b.x"), "{e}");
    }
}
