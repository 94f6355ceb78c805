//! What a [`GraphDescription`] means, element by element: the tests' stand-in for cuDNN.
//!
//! Everything is computed in f64 and nothing is rounded, so that only mistakes in sizes, strides
//! and the order of operations make a difference.

use std::collections::HashMap;

use super::graph::{Function, GraphDescription, Operation, Reduction, Store, Tensor, TensorId};
use crate::{Place, View};

/// Elements by place.
pub(super) type Memory = HashMap<Place, Vec<f64>>;

/// Runs a graph.
pub(super) fn run(description: &GraphDescription, memory: &mut Memory) {
    let mut machine = Machine {
        description,
        memory,
        passing: HashMap::new(),
    };
    for operation in &description.operations {
        machine.operation(operation);
    }
}

/// All elements of a view, row-major.
pub(super) fn elements(view: &View, memory: &Memory) -> Vec<f64> {
    let dims: Vec<i64> = view.axes.iter().map(|axis| axis.size as i64).collect();
    let at = |index: &[usize]| {
        let axes = view.axes.iter().zip(index);
        let offset: usize = axes.map(|(axis, position)| axis.stride * position).sum();
        memory[&view.place][view.offset + offset]
    };
    indices(&dims).map(|index| at(&index)).collect()
}

/// Every index of these sizes, row-major.
fn indices(dims: &[i64]) -> impl Iterator<Item = Vec<usize>> {
    let dims: Vec<usize> = dims.iter().map(|&size| size as usize).collect();
    (0..dims.iter().product()).map(move |mut number: usize| {
        let mut index = vec![0; dims.len()];
        for (place, size) in dims.iter().enumerate().rev() {
            index[place] = number % size;
            number /= size;
        }
        index
    })
}

struct Machine<'a> {
    description: &'a GraphDescription,
    memory: &'a mut Memory,
    passing: HashMap<usize, Vec<f64>>,
}

impl Machine<'_> {
    fn tensor(&self, id: TensorId) -> &Tensor {
        self.description.of(id)
    }

    /// Where an element lies; positions of axes of size 1 do not count, and missing outer axes
    /// are not there.
    fn offset(&self, id: TensorId, index: &[usize]) -> usize {
        let tensor = self.tensor(id);
        let index = &index[index.len() - tensor.dims.len()..];
        let axes = tensor.dims.iter().zip(&tensor.strides).zip(index);
        axes.map(|((&size, &stride), &position)| {
            if size == 1 {
                return 0;
            }
            assert!(position < size as usize, "{index:?} of {tensor}");
            position * stride as usize
        })
        .sum()
    }

    fn get(&self, id: TensorId, index: &[usize]) -> f64 {
        match self.tensor(id).store {
            Store::Scalar(value) | Store::Number(value) => f64::from(value),
            Store::Virtual | Store::Spare(_) => self.passing[&id.0][self.offset(id, index)],
            Store::Memory { place, offset, .. } => {
                self.memory[&place][offset + self.offset(id, index)]
            }
        }
    }

    fn set(&mut self, id: TensorId, index: &[usize], value: f64) {
        let at = self.offset(id, index);
        let tensor = &self.description.of(id);
        let elements = match tensor.store {
            Store::Scalar(_) | Store::Number(_) => panic!("a scalar is not written"),
            Store::Virtual | Store::Spare(_) => {
                let empty = || vec![f64::NAN; tensor.span()];
                &mut self.passing.entry(id.0).or_insert_with(empty)[at]
            }
            Store::Memory { place, offset, .. } => {
                let elements = self.memory.get_mut(&place).expect("a place that is known");
                &mut elements[offset + at]
            }
        };
        *elements = value;
    }

    /// Computes each element of the output.
    fn fill(&mut self, output: TensorId, element: impl Fn(&Self, &[usize]) -> f64) {
        for index in indices(&self.tensor(output).dims.clone()) {
            let value = element(self, &index);
            self.set(output, &index, value);
        }
    }

    fn operation(&mut self, operation: &Operation) {
        match operation {
            Operation::Product {
                left,
                right,
                output,
            } => self.product(*left, *right, *output),
            Operation::Pointwise {
                function,
                operands,
                output,
                ..
            } => self.fill(*output, |machine, index| {
                let x = |place: usize| machine.get(operands[place], index);
                match function {
                    Function::Add => x(0) + x(1),
                    Function::Subtract => x(0) - x(1),
                    Function::Multiply => x(0) * x(1),
                    Function::Divide => x(0) / x(1),
                    Function::Exp => x(0).exp(),
                    Function::Log => x(0).ln(),
                    Function::Position(axis) => index[*axis] as f64,
                    Function::AtLeast => f64::from(u8::from(x(0) >= x(1))),
                    Function::Select if x(2) == 1.0 => x(0),
                    Function::Select => x(1),
                }
            }),
            Operation::Reduce {
                reduction,
                input,
                output,
            } => self.reduce(*reduction, *input, *output),
            Operation::Convolution {
                input,
                weight,
                output,
                stride,
                before,
                ..
            } => self.convolution([*input, *weight, *output], *stride, *before),
            Operation::Attention {
                query,
                key,
                value,
                scale,
                output,
            } => self.attention([*query, *key, *value], *scale, *output),
        }
    }

    fn product(&mut self, left: TensorId, right: TensorId, output: TensorId) {
        let inner = *self.tensor(left).dims.last().expect("a matrix") as usize;
        self.fill(output, |machine, index| {
            let [outer @ .., row, column] = index else {
                panic!("a matrix has two axes")
            };
            let at = |a: usize, b: usize| [outer, &[a, b]].concat();
            let terms = (0..inner)
                .map(|k| machine.get(left, &at(*row, k)) * machine.get(right, &at(k, *column)));
            terms.sum()
        });
    }

    /// Over the axes that have size 1 in the output and not in the input.
    fn reduce(&mut self, reduction: Reduction, input: TensorId, output: TensorId) {
        let whole = self.tensor(input).dims.clone();
        let kept = self.tensor(output).dims.clone();
        self.fill(output, |machine, index| {
            let along = whole.iter().zip(&kept);
            let along: Vec<i64> = along
                .map(|(&whole, &kept)| if kept == 1 { whole } else { 1 })
                .collect();
            let values = indices(&along).map(|offset| {
                let at: Vec<usize> = index.iter().zip(&offset).map(|(a, b)| a + b).collect();
                machine.get(input, &at)
            });
            match reduction {
                Reduction::Max => values.fold(f64::NEG_INFINITY, f64::max),
                Reduction::Sum => values.sum(),
                Reduction::GreatestMagnitude => values.map(f64::abs).fold(0.0, f64::max),
            }
        });
    }

    fn convolution(
        &mut self,
        [input, weight, output]: [TensorId; 3],
        stride: [i64; 2],
        before: [i64; 2],
    ) {
        let x = self.tensor(input).dims.clone();
        let w = self.tensor(weight).dims.clone();
        let groups = x[1] / w[1];
        self.fill(output, |machine, index| {
            let group = index[1] as i64 / (w[0] / groups);
            let mut sum = 0.0;
            for tap in indices(&w[1..]) {
                let row = index[2] as i64 * stride[0] + tap[1] as i64 - before[0];
                let column = index[3] as i64 * stride[1] + tap[2] as i64 - before[1];
                if (0..x[2]).contains(&row) && (0..x[3]).contains(&column) {
                    let channel = group as usize * w[1] as usize + tap[0];
                    let at = [index[0], channel, row as usize, column as usize];
                    let of_weight = [index[1], tap[0], tap[1], tap[2]];
                    sum += machine.get(input, &at) * machine.get(weight, &of_weight);
                }
            }
            sum
        });
    }

    fn attention(&mut self, [q, k, v]: [TensorId; 3], scale: TensorId, output: TensorId) {
        let width = self.tensor(q).dims[3] as usize;
        let keys = self.tensor(k).dims[2] as usize;
        self.fill(output, |machine, index| {
            let &[b, h, row, column] = index else {
                panic!("attention has four axes")
            };
            let dot = |key: usize| -> f64 {
                let terms = (0..width)
                    .map(|c| machine.get(q, &[b, h, row, c]) * machine.get(k, &[b, h, key, c]));
                terms.sum()
            };
            let factor = machine.get(scale, &[0, 0, 0, 0]);
            let powers: Vec<f64> = (0..keys).map(|key| (factor * dot(key)).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let values = (0..keys).map(|key| powers[key] * machine.get(v, &[b, h, key, column]));
            values.sum::<f64>() / sum
        });
    }
}
