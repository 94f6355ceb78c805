//! Products of codes in parts, where no library takes them whole.
//!
//! | part | where |
//! |---|---|
//! | codes of input and weight become values | there are no products of codes, or not with such scales |
//! | the product of what is there then | |
//! | the result becomes codes | no algorithm does that too |
//!
//! What parts hand on lies in scratch memory. Values are rounded as the graph says, to the dtype
//! of the layer. Parts are steps like any other, which other makers make ready.
//!
//! ```text
//! for parts in ways(&step) { … }
//! ```

use std::path::Path;

use tintype_device::Stream;
use tintype_ir::BinaryOp;
use tintype_tensor::DType;

use super::{Addresses, Prepared};
use crate::{
    ALIGNMENT, Codes, Expression, Instruction, Place, Product, Result, Step, Store, View, Work,
};

/// Steps that compute a product together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts {
    /// In order.
    pub(super) steps: Vec<Step>,
    /// What they hand on: places with their offsets in scratch memory.
    places: Vec<(Place, usize)>,
    /// The bytes of that.
    bytes: usize,
}

/// The ways in which a product of codes can be computed in parts, the fastest first; none for
/// other steps.
pub(super) fn ways(step: &Step) -> Vec<Parts> {
    let Work::Product(product) = &step.work else {
        return Vec::new();
    };
    let Some(codes) = &product.codes else {
        return Vec::new();
    };
    let mut ways = Vec::new();
    if codes.output.is_some() {
        let narrow = Product {
            codes: Some(Codes {
                output: None,
                ..codes.clone()
            }),
            ..product.clone()
        };
        ways.push(Assembly::new(step).rounded(narrow, codes));
    }
    ways.push(Assembly::new(step).widened(product, codes));
    ways
}

/// Parts that are put together.
struct Assembly<'a> {
    step: &'a Step,
    parts: Parts,
    /// The number of the next place.
    next: usize,
}

impl<'a> Assembly<'a> {
    fn new(step: &'a Step) -> Self {
        let views = step.work.reads().into_iter().chain(step.work.writes());
        let numbers = views.map(|view| match view.place {
            Place::Buffer(number) => number + 1,
            _ => 0,
        });
        Self {
            step,
            parts: Parts {
                steps: Vec::new(),
                places: Vec::new(),
                bytes: 0,
            },
            next: numbers.max().unwrap_or(0),
        }
    }

    /// Scratch memory for a value.
    fn scratch(&mut self, dtype: DType, shape: &[usize]) -> View {
        let view = View::contiguous(Place::Buffer(self.next), dtype, shape);
        self.next += 1;
        self.parts.places.push((view.place, self.parts.bytes));
        self.parts.bytes += view.bytes().next_multiple_of(ALIGNMENT);
        view
    }

    fn push(&mut self, name: &str, work: Work) {
        self.parts.steps.push(Step {
            label: self.step.label.clone(),
            name: name.to_owned(),
            work,
        });
    }

    /// One of two numbers for each element.
    fn combined(&mut self, name: &str, op: BinaryOp, [left, right]: [View; 2], to: View) {
        let expression = Expression {
            domain: to.shape(),
            row_axes: 0,
            instructions: vec![
                Instruction::Load(0),
                Instruction::Load(1),
                Instruction::Binary(op, 0, 1),
            ],
            loads: vec![left, right],
            stores: vec![Store {
                value: 2,
                view: to,
                scale: None,
            }],
        };
        self.push(name, Work::Kernel(expression));
    }

    /// A product whose result becomes codes after it.
    fn rounded(mut self, product: Product, codes: &Codes) -> Parts {
        let name = self.step.name.trim_end_matches("_quantize").to_owned();
        let Some([scale, _]) = &codes.output else {
            self.push(&name, Work::Product(product));
            return self.parts;
        };
        let shape = product.output.shape();
        let whole = self.scratch(codes.dtype, &shape);
        let output = product.output.clone();
        let product = Product {
            output: whole.clone(),
            ..product
        };
        self.push(&name, Work::Product(product));
        let scale = scale.broadcast(&shape);
        self.combined("quantize", BinaryOp::Div, [whole, scale], output);
        self.parts
    }

    /// A product of the values that codes mean.
    fn widened(mut self, product: &Product, codes: &Codes) -> Parts {
        let operands = [&product.input, &product.weight];
        let mut values = Vec::with_capacity(2);
        for (operand, scale) in operands.into_iter().zip(&codes.scales) {
            let shape = operand.shape();
            let to = self.scratch(codes.dtype, &shape);
            let of_rows = of_rows(scale, &shape);
            let loads = [operand.clone(), of_rows];
            self.combined("dequantize", BinaryOp::Mul, loads, to.clone());
            values.push(to);
        }
        let weight = values.remove(1);
        let wide = Product {
            input: values.remove(0),
            weight,
            codes: None,
            ..product.clone()
        };
        self.rounded(wide, codes)
    }
}

/// A scale, or one for each row, for each element.
fn of_rows(scale: &View, shape: &[usize]) -> View {
    let mut rows = shape.to_vec();
    if let (Some(last), true) = (rows.last_mut(), scale.count() > 1) {
        *last = 1;
        let apart = scale.reshape(&rows);
        let apart = apart.expect("a vector has as many elements as there are rows");
        return apart.broadcast(shape);
    }
    scale.broadcast(shape)
}

/// Parts that are ready.
#[derive(Debug)]
pub(super) struct PreparedParts {
    parts: Vec<Box<dyn Prepared>>,
    places: Vec<(Place, usize)>,
    bytes: usize,
}

impl PreparedParts {
    /// These, made ready one by one.
    pub(super) fn new(of: &Parts, parts: Vec<Box<dyn Prepared>>) -> Self {
        Self {
            parts,
            places: of.places.clone(),
            bytes: of.bytes,
        }
    }
}

impl Prepared for PreparedParts {
    fn scratch_bytes(&self) -> usize {
        let own = self.parts.iter().map(|part| part.scratch_bytes());
        self.bytes + own.max().unwrap_or(0)
    }

    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()> {
        let of = |place: Place| {
            let own = self.places.iter().find(|(known, _)| *known == place);
            match own {
                Some((_, offset)) => addresses.scratch + *offset as u64,
                None => (addresses.of)(place),
            }
        };
        let inner = Addresses {
            of: &of,
            scratch: addresses.scratch + self.bytes as u64,
        };
        for part in &self.parts {
            // SAFETY: the caller promises the memory of the step's places and as much scratch
            // memory as is asked for above, in which what parts hand on has places of its own.
            unsafe { part.enqueue(stream, &inner)? };
        }
        Ok(())
    }

    fn save(&self, folder: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for part in &self.parts {
            names.extend(part.save(folder)?);
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tintype_tensor::{Shape, Tensor, TorchGenerator};

    use super::*;
    use crate::libraries::blas::layout::ProductLayout;
    use crate::run::host::Host;
    use crate::run::machine::{Call, Machine};

    fn view(place: usize, dtype: DType, shape: &[usize]) -> View {
        View::contiguous(Place::Buffer(place), dtype, shape)
    }

    /// A layer whose rows may have scales of their own, into a part of wider rows.
    fn layer(are_vectors: bool, is_rounded: bool, dtype: DType) -> Step {
        let scale = |place, count: usize| {
            let shape = [count];
            view(place, DType::F32, if are_vectors { &shape } else { &[] })
        };
        let one = |place| view(place, DType::F32, &[]);
        let output = if is_rounded { DType::F8E4M3 } else { dtype };
        Step {
            label: "block.linear".to_owned(),
            name: "fp8_linear_gelu_quantize".to_owned(),
            work: Work::Product(Product {
                input: view(0, DType::F8E4M3, &[2, 24, 32]),
                weight: view(1, DType::F8E4M3, &[48, 32]),
                bias: Some(view(2, dtype, &[48])),
                gelu: true,
                is_linear: true,
                output: view(3, output, &[2, 24, 96]).slice(2, 16, 64),
                codes: Some(Codes {
                    scales: [scale(4, 48), scale(5, 48)],
                    output: is_rounded.then(|| [one(6), one(7)]),
                    dtype,
                }),
            }),
        }
    }

    /// The output after these steps, on numbers of a seed.
    fn computed(steps: &[Step], whole: &Step, seed: u64) -> Vec<f32> {
        let host = Host::new(1 << 24);
        let mut memory = HashMap::new();
        let views = |step: &Step| -> Vec<View> {
            let views = step.work.reads().into_iter().chain(step.work.writes());
            views.cloned().collect()
        };
        for view in steps.iter().chain([whole]).flat_map(views) {
            let known: usize = match view.place {
                Place::Buffer(0) => 2 * 24 * 32,
                Place::Buffer(3) => 2 * 24 * 96,
                _ => view.count().max(1),
            };
            let Place::Buffer(number) = view.place else {
                unreachable!("buffers alone")
            };
            // Of the place alone, whatever the order of the steps.
            let mut random = TorchGenerator::new(100 * seed + number as u64);
            let values = random.randn(vec![known.max(16)]).unwrap().to_f32_vec();
            let mut values = values.unwrap();
            values.truncate(known);
            let is_scale = matches!(view.place, Place::Buffer(4..=7));
            let values = values.into_iter();
            let values = values.map(|x| if is_scale { 0.25 + x.abs() } else { x });
            memory.entry(view.place).or_insert_with(|| {
                let tensor =
                    Tensor::from_f32_as(view.dtype, Shape::from([known]), values.collect());
                let tensor = tensor.unwrap();
                let memory = host.allocate(&(), tensor.bytes().len()).unwrap();
                host.write(&mut (), &tensor.into(), &memory, 0).unwrap();
                memory
            });
        }
        let scratch = host.allocate(&(), 4096).unwrap();
        let of = |place: Place| Host::address(&memory[&place]);
        let addresses = Addresses {
            of: &of,
            scratch: Host::address(&scratch),
        };
        for step in steps {
            let call = Call {
                step,
                prepared: step,
                branch: 0,
            };
            // SAFETY: all places have memory of the host.
            unsafe { host.enqueue(call, &(), &addresses) }.unwrap();
        }
        let output = whole.work.writes()[0];
        let ty = (output.dtype, Shape::from([2 * 24 * 96]));
        // SAFETY: as above.
        let found = unsafe { host.copy_out(&(), ty, of(output.place), None) }.unwrap();
        let found = tintype_backend::DeviceTensor::from(found)
            .to_host()
            .unwrap();
        found.to_f32_vec().unwrap()
    }

    #[test]
    fn parts_compute_the_whole() {
        for (seed, are_vectors, is_rounded, dtype) in [
            (1, false, false, DType::F32),
            (2, false, true, DType::F32),
            (3, true, false, DType::F32),
            (4, true, true, DType::F32),
            (5, false, true, DType::BF16),
        ] {
            let whole = layer(are_vectors, is_rounded, dtype);
            let expected = computed(std::slice::from_ref(&whole), &whole, seed);
            let ways = ways(&whole);
            assert_eq!(ways.len(), 1 + usize::from(is_rounded));
            for parts in ways {
                let found = computed(&parts.steps, &whole, seed);
                let (mut difference, mut size) = (0.0, 0.0);
                for (found, expected) in found.iter().zip(&expected) {
                    difference += f64::from(found - expected).powi(2);
                    size += f64::from(*expected).powi(2);
                }
                let error = (difference / size).sqrt();
                // A number between two codes may fall to the other side in bf16.
                let limit = if dtype == DType::F32 { 1e-3 } else { 2e-2 };
                assert!(error < limit, "{seed}: {error}");
            }
        }
    }

    #[test]
    fn products_of_parts_are_what_the_library_has() {
        let is_product = |step: &Step| match &step.work {
            Work::Product(product) => Some(product.clone()),
            _ => None,
        };
        for are_vectors in [false, true] {
            for parts in ways(&layer(are_vectors, true, DType::BF16)) {
                let product = parts.steps.iter().find_map(is_product).unwrap();
                assert!(ProductLayout::new(&product).is_some(), "{product:#?}");
                assert!(parts.bytes.is_multiple_of(ALIGNMENT));
            }
        }
        let plain = layer(false, false, DType::BF16);
        assert_eq!(ways(&plain).len(), 1);
        assert_eq!(ways(&ways(&plain)[0].steps[2]), []);
    }
}
