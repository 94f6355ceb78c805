//! A plan as text, for people and for tests.
//!
//! One step a line: its name, what it reads, what it writes, and the module that it computes.
//!
//! ```text
//! plan "mlp": 2 steps (2 product), workspace 16384 bytes (lower bound 16384)
//!   0  linear_gelu  i0[1, 16, 32] w0[128, 32] w1[128] -> b0[1, 16, 128]  # ff.net.0.proj
//!   …
//!   output y = b1[1, 16, 32]
//! ```
//!
//! Branches are set off: `fork` stands before the first, `beside` before the second, `join` behind
//! both.

use std::fmt;

use super::{Plan, Work};

const KINDS: [&str; 5] = ["product", "attention", "convolution", "kernel", "special"];

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = KINDS.map(|kind| (self.count_of(kind), kind));
        let present = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = present
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        writeln!(
            f,
            "plan \"{}\": {} steps ({}), workspace {} bytes (lower bound {})",
            self.graph.name(),
            self.steps.len(),
            counts.join(", "),
            self.workspace.bytes,
            self.workspace.lower_bound
        )?;
        for (index, step) in self.steps.iter().enumerate() {
            self.fork_before(index, f)?;
            write!(f, "  {index}  {}", step.name)?;
            for view in step.work.reads() {
                write!(f, " {view}")?;
            }
            f.write_str(" ->")?;
            for view in step.work.writes() {
                write!(f, " {view}")?;
            }
            if let Work::Attention(call) = &step.work {
                let causal = if call.attributes.causal {
                    ", causal"
                } else {
                    ""
                };
                write!(f, " {{scale = {:?}{causal}", call.attributes.scale)?;
                if call.scales != [1.0; 3] {
                    let [query, key, value] = call.scales;
                    write!(f, ", codes by {query:?}, {key:?}, {value:?}")?;
                }
                f.write_str("}")?;
            }
            if step.label.is_empty() {
                writeln!(f)?;
            } else {
                writeln!(f, "  # {}", step.label)?;
            }
        }
        self.fork_before(self.steps.len(), f)?;
        for (buffer, &memory) in self.memory_of.iter().enumerate() {
            if memory != buffer {
                writeln!(f, "  b{buffer} over b{memory}")?;
            }
        }
        for (name, view) in &self.outputs {
            writeln!(f, "  output {name} = {view}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// Where branches begin and end before a step.
    fn fork_before(&self, step: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fork in &self.forks {
            let places = [
                (fork.second.end, "join"),
                (fork.first.start, "fork"),
                (fork.second.start, "beside"),
            ];
            for (_, name) in places.iter().filter(|(place, _)| *place == step) {
                writeln!(f, "  {name}")?;
            }
        }
        Ok(())
    }
}
