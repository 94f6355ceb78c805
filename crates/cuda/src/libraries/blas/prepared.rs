//! A product ready to be enqueued.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tintype_device::Stream;
use tintype_tensor::DType;

use super::Blas;
use super::descriptors::{Algorithm, Matrices, Operation, Pointer, Pointers};
use super::layout::ProductLayout;
use crate::run::{Addresses, Prepared};
use crate::{Error, Place, Product, Result, View};

/// A product with its descriptors and an algorithm.
#[derive(Debug)]
pub(crate) struct PreparedProduct {
    blas: Blas,
    /// For messages.
    step: String,
    layout: ProductLayout,
    operands: [Operand; 3],
    /// What the descriptor points at.
    pointed: Vec<(Pointer, Operand)>,
    matrices: Matrices,
    /// What it points at is set for each run, so one thread enqueues at a time; the library reads all of
    /// it before a call returns.
    operation: Mutex<Operation>,
    algorithm: Algorithm,
}

/// What is said of a product that no call of the library computes.
pub(super) fn inexpressible(product: &Product) -> String {
    format!("cuBLASLt cannot express {}", views(product))
}

/// Where the first element of a view lies.
#[derive(Debug, Clone, Copy)]
struct Operand {
    place: Place,
    offset: usize,
    dtype: DType,
}

impl PreparedProduct {
    /// Makes descriptors and chooses an algorithm, which may time some.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for views or dtypes that cuBLASLt cannot express, and where it has
    /// no algorithm: then perhaps without the epilogue. [`Error::Blas`] if the library fails.
    pub(super) fn new(blas: &Blas, step: &str, product: &Product) -> Result<Self> {
        let layout = blas.shared.layout(product);
        let layout = layout.map_err(|reason| Error::unsupported(step, reason))?;
        let step = describe(step, &layout);
        let library = blas.library();
        library.device.bind()?;
        let matrices = Matrices::new(&layout).map_err(|failure| failure.of(&step))?;
        let mut operation = Operation::new(&layout).map_err(|failure| failure.of(&step))?;
        let algorithm = blas.choose(&step, &layout, &matrices, &mut operation)?;
        let operand = |view: &View| Operand {
            place: view.place,
            offset: view.offset,
            dtype: view.dtype,
        };
        Ok(Self {
            blas: blas.clone(),
            operands: layout.operands(product).map(operand),
            pointed: pointed(product, operand),
            matrices,
            operation: Mutex::new(operation),
            algorithm,
            layout,
            step,
        })
    }

    /// What is asked of the library.
    #[cfg(test)]
    pub(crate) fn layout(&self) -> &ProductLayout {
        &self.layout
    }

    /// What was chosen.
    #[cfg(test)]
    pub(super) fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// The addresses of the operands' first elements, if they are multiples of what was said.
    fn addresses(&self, addresses: &Addresses<'_>) -> Result<[u64; 3]> {
        let mut found = [0; 3];
        for (place, operand) in self.operands.iter().enumerate() {
            found[place] = operand.address(addresses);
            let alignment = self.layout.alignments[place] as u64;
            if !found[place].is_multiple_of(alignment) {
                return Err(Error::Blas {
                    step: self.step.clone(),
                    action: "enqueueing",
                    message: format!(
                        "expected {} at a multiple of {alignment} bytes, found {:#x}",
                        operand.place, found[place]
                    ),
                });
            }
        }
        Ok(found)
    }
}

impl Prepared for PreparedProduct {
    fn save(&self, folder: &Path) -> Result<Vec<String>> {
        self.blas.save(&self.layout, folder)
    }

    fn scratch_bytes(&self) -> usize {
        self.algorithm.workspace
    }

    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()> {
        stream.device().bind()?;
        let library = self.blas.library();
        let first = self.addresses(addresses)?;
        let mut operation = self
            .operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (pointer, operand) in &self.pointed {
            let pointed = operation.point(*pointer, operand.address(addresses));
            pointed.map_err(|failure| failure.of(&self.step))?;
        }
        for call in 0..self.layout.calls() {
            let offsets = self.layout.offsets(call);
            let mut pointers = Pointers {
                operands: first,
                workspace: addresses.scratch,
            };
            for (place, operand) in self.operands.iter().enumerate() {
                let bytes = offsets[place] * operand.dtype.bits() / 8;
                pointers.operands[place] += bytes as u64;
            }
            // SAFETY: the context was made current; the caller promises the memory of all views,
            // within which the layout's calls stay, and the scratch memory.
            let enqueued = unsafe {
                self.matrices
                    .enqueue(library, &operation, &self.algorithm, pointers, stream)
            };
            enqueued.map_err(|failure| failure.of(&self.step))?;
        }
        Ok(())
    }
}

/// What a product's descriptor points at: A is the weight wherever there are codes.
fn pointed(product: &Product, operand: impl Fn(&View) -> Operand) -> Vec<(Pointer, Operand)> {
    let mut pointed = Vec::new();
    if let Some(bias) = &product.bias {
        pointed.push((Pointer::Bias, operand(bias)));
    }
    if let Some(codes) = &product.codes {
        let [input, weight] = &codes.scales;
        pointed.push((Pointer::ScaleA, operand(weight)));
        pointed.push((Pointer::ScaleB, operand(input)));
        if let Some([_, factor]) = &codes.output {
            pointed.push((Pointer::FactorD, operand(factor)));
        }
    }
    pointed
}

impl Operand {
    fn address(&self, addresses: &Addresses<'_>) -> u64 {
        addresses.at(self.place, self.offset, self.dtype.bits())
    }
}

/// `blocks.0.mlp (m 4608, n 12288, k 3072, bf16 · bf16 -> bf16; tn 12288x4608x3072 …)`
fn describe(step: &str, layout: &ProductLayout) -> String {
    let (m, n) = if layout.is_swapped {
        (layout.rows, layout.columns)
    } else {
        (layout.columns, layout.rows)
    };
    let [a, b, d] = layout.matrices.map(|matrix| matrix.dtype);
    let k = layout.inner;
    format!("{step} (m {m}, n {n}, k {k}, {a} · {b} -> {d}; {layout})")
}

fn views(product: &Product) -> String {
    let typed = |view: &View| format!("{} {view}", view.dtype);
    let bias = product.bias.as_ref().map(typed);
    format!(
        "{} · {}{} -> {}",
        typed(&product.input),
        typed(&product.weight),
        bias.map(|bias| format!(" + {bias}")).unwrap_or_default(),
        typed(&product.output)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> Product {
        let whole =
            |place, shape: &[usize]| View::contiguous(Place::Buffer(place), DType::BF16, shape);
        Product {
            input: whole(0, &[1, 64, 32]),
            weight: whole(1, &[96, 32]),
            bias: Some(whole(3, &[96])),
            gelu: false,
            is_linear: true,
            output: whole(2, &[1, 64, 96]),
            codes: None,
        }
    }

    #[test]
    fn messages_have_sizes_and_dtypes_as_the_program_has_them() {
        let layout = ProductLayout::new(&product()).unwrap();
        let text = describe("blocks.0.mlp", &layout);
        assert!(
            text.starts_with("blocks.0.mlp (m 64, n 96, k 32, bf16 · bf16 -> bf16; tn 96x64x32 "),
            "{text}"
        );
        let text = views(&product());
        assert_eq!(
            text,
            "bf16 b0[1, 64, 32] · bf16 b1[96, 32] + bf16 b3[96] -> bf16 b2[1, 64, 96]"
        );
    }

    #[test]
    fn prepared_products_may_be_shared_by_threads() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<PreparedProduct>();
        is_shared::<Blas>();
    }
}
