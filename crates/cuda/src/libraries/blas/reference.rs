//! Layouts computed on the host as cuBLASLt defines them, against products by their views.

use proptest::prelude::*;
use tintype_tensor::DType;

use super::layout::{Matrix, ProductLayout};
use crate::{Axis, Codes, Place, Product, View};

/// Numbers from a seed, as many as are asked for.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        let mut value = || (self.below(17) as f32 - 8.0) / 4.0;
        (0..count).map(|_| value()).collect()
    }

    /// A view of this shape whose axes lie in any order, with gaps, from any offset.
    fn view(&mut self, place: usize, shape: &[usize]) -> View {
        let mut order: Vec<usize> = (0..shape.len()).collect();
        // Most often as the plan has them: only axes before the last two in another order.
        let from = if self.below(3) == 0 {
            0
        } else {
            shape.len().saturating_sub(2)
        };
        for place in from..shape.len() {
            let other = from + self.below(shape.len() - from);
            order.swap(place, other);
        }
        let mut view = View::contiguous(Place::Buffer(place), DType::F32, shape);
        let mut stride = 1;
        for axis in order.into_iter().rev() {
            view.axes[axis].stride = stride;
            stride *= shape[axis] + self.below(3) % 2;
        }
        view.offset = self.below(5);
        view
    }

    /// A product with batch axes that either operand may lack, have once, or repeat.
    pub(super) fn product(&mut self) -> Product {
        let [m, n, k] = [0; 3].map(|_| 1 + self.below(4));
        let is_linear = self.below(2) == 0;
        let batch: Vec<usize> = (0..self.below(4)).map(|_| 1 + self.below(3)).collect();
        let whole = |last: [usize; 2]| [&batch[..], &last].concat();
        let output = self.view(2, &whole([m, n]));
        if is_linear {
            let bias = self.below(2) == 0;
            return Product {
                input: self.view(0, &whole([m, k])),
                weight: self.view(1, &[n, k]),
                bias: bias.then(|| View::contiguous(Place::Buffer(3), DType::F32, &[n])),
                gelu: self.below(2) == 0,
                is_linear,
                output,
                codes: None,
            };
        }
        Product {
            input: self.outer(0, &batch, [m, k]),
            weight: self.outer(1, &batch, [k, n]),
            bias: None,
            gelu: false,
            is_linear,
            output,
            codes: None,
        }
    }

    fn outer(&mut self, place: usize, batch: &[usize], last: [usize; 2]) -> View {
        let own = &batch[self.below(batch.len() + 1)..];
        let mut own: Vec<usize> = own.to_vec();
        for size in &mut own {
            if self.below(3) == 0 {
                *size = 1;
            }
        }
        let view = self.view(place, &[&own[..], &last].concat());
        if self.below(2) == 0 {
            view.broadcast(&[batch, &last].concat())
        } else {
            view
        }
    }
}

fn extent(view: &View) -> usize {
    let last = |axis: &Axis| (axis.size - 1) * axis.stride;
    view.offset + view.axes.iter().map(last).sum::<usize>() + 1
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

/// The place of an element of a view whose shape is `shape` after broadcasting.
fn at(view: &View, index: &[usize]) -> usize {
    let missing = index.len() - view.axes.len();
    let own = view.axes.iter().zip(&index[missing..]);
    view.offset
        + own
            .map(|(axis, &index)| {
                if axis.size == 1 {
                    0
                } else {
                    axis.stride * index
                }
            })
            .sum::<usize>()
}

/// The product by its views, row-major.
pub(super) fn expected(product: &Product, memory: &[Vec<f32>; 4]) -> Vec<f32> {
    let shape = product.output.shape();
    let rank = shape.len();
    let inner = product.input.shape()[rank_of(&product.input) - 1];
    let mut output = memory[2].clone();
    for flat in 0..product.output.count() {
        let mut index = vec![0; rank];
        let mut left = flat;
        for axis in (0..rank).rev() {
            index[axis] = left % shape[axis];
            left /= shape[axis];
        }
        let column = index[rank - 1];
        let mut sum = 0.0;
        for k in 0..inner {
            let (mut left, mut right) = (index.clone(), index.clone());
            left[rank - 1] = k;
            right[rank - 2] = k;
            let right = if product.is_linear {
                vec![column, k]
            } else {
                right
            };
            sum += memory[0][at(&product.input, &left)] * memory[1][at(&product.weight, &right)];
        }
        if let Some(bias) = &product.bias {
            sum += memory[3][at(bias, &[column])];
        }
        output[at(&product.output, &index)] = if product.gelu { gelu(sum) } else { sum };
    }
    output
}

fn rank_of(view: &View) -> usize {
    view.axes.len()
}

/// What cublasLtMatmul does with column-major matrices.
fn computed(layout: &ProductLayout, product: &Product, memory: &[Vec<f32>; 4]) -> Vec<f32> {
    let views = layout.operands(product);
    let buffer = |view: &View| match view.place {
        Place::Buffer(place) => place,
        _ => unreachable!("tests have buffers alone"),
    };
    let mut output = memory[2].clone();
    for call in 0..layout.calls() {
        let offsets = layout.offsets(call);
        for batch in 0..layout.batch {
            let start = [0, 1, 2].map(|operand: usize| {
                let stride = layout.matrices[operand].batch_stride;
                views[operand].offset + offsets[operand] + batch * stride
            });
            let element = |operand: usize, [row, column]: [usize; 2]| {
                let is_transposed = operand < 2 && layout.transposed[operand];
                let (row, column) = if is_transposed {
                    (column, row)
                } else {
                    (row, column)
                };
                start[operand] + place(&layout.matrices[operand], row, column)
            };
            for row in 0..layout.rows {
                for column in 0..layout.columns {
                    let mut sum = 0.0;
                    for k in 0..layout.inner {
                        sum += memory[buffer(views[0])][element(0, [row, k])]
                            * memory[buffer(views[1])][element(1, [k, column])];
                    }
                    if let Some(bias) = layout.bias.and(product.bias.as_ref()) {
                        sum += memory[3][bias.offset + row];
                    }
                    output[element(2, [row, column])] = if layout.gelu { gelu(sum) } else { sum };
                }
            }
        }
    }
    output
}

fn place(matrix: &Matrix, row: usize, column: usize) -> usize {
    assert!(
        row < matrix.rows && column < matrix.columns,
        "{row}, {column} of {matrix:?}"
    );
    assert!(matrix.leading >= matrix.rows, "{matrix:?}");
    row + column * matrix.leading
}

pub(super) fn memory(product: &Product, numbers: &mut Numbers) -> [Vec<f32>; 4] {
    [
        numbers.values(extent(&product.input)),
        numbers.values(extent(&product.weight)),
        vec![-77.0; extent(&product.output)],
        numbers.values(product.bias.as_ref().map_or(0, extent)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn layouts_mean_the_product_of_the_views(seed: u64) {
        let mut numbers = Numbers(seed);
        let product = numbers.product();
        if let Some(layout) = ProductLayout::new(&product) {
            let memory = memory(&product, &mut numbers);
            let found = computed(&layout, &product, &memory);
            let wanted = expected(&product, &memory);
            prop_assert_eq!(found, wanted, "{} of {:#?}", layout, product);
            let views = layout.operands(&product);
            for (view, bytes) in views.into_iter().zip(layout.extents()) {
                prop_assert_eq!((extent(view) - view.offset) * 4, bytes);
            }
        }
    }

    #[test]
    fn rows_with_gaps_are_always_expressed(seed: u64) {
        let mut numbers = Numbers(seed);
        let mut product = numbers.product();
        let contiguous = |view: &View| View::contiguous(view.place, view.dtype, &view.shape());
        product.input = contiguous(&product.input);
        product.weight = contiguous(&product.weight);
        let mut wide = product.output.shape();
        let columns = wide.len() - 1;
        let end = wide[columns];
        wide[columns] += 3;
        let wide = View::contiguous(Place::Buffer(2), DType::F32, &wide);
        product.output = wide.slice(columns, 0, end);
        prop_assert!(ProductLayout::new(&product).is_some(), "{product:#?}");
    }
}

#[test]
fn random_products_have_layouts_of_every_kind() {
    let layouts = (0..2000).filter_map(|seed| ProductLayout::new(&Numbers(seed).product()));
    let layouts: Vec<ProductLayout> = layouts.collect();
    let count = |is: &dyn Fn(&ProductLayout) -> bool| layouts.iter().filter(|one| is(one)).count();
    assert!(layouts.len() > 600, "{}", layouts.len());
    assert!(count(&|layout| layout.batch > 1) > 100);
    assert!(count(&|layout| layout.calls() > 1) > 20);
    assert!(count(&|layout| layout.is_swapped) > 20);
    for transposed in [[true, false], [false, false], [false, true], [true, true]] {
        assert!(
            count(&|layout| layout.transposed == transposed) > 10,
            "{transposed:?}"
        );
    }
}

#[test]
fn axes_of_a_batch_that_one_operand_repeats_are_calls() {
    let whole = |place, shape: &[usize]| View::contiguous(Place::Buffer(place), DType::BF16, shape);
    let product = Product {
        input: whole(0, &[2, 3, 4, 8]),
        weight: whole(1, &[3, 8, 16]),
        bias: None,
        gelu: false,
        is_linear: false,
        output: whole(2, &[2, 3, 4, 16]),
        codes: None,
    };
    let layout = ProductLayout::new(&product).unwrap();
    assert_eq!((layout.batch, layout.calls()), (3, 2));
    assert_eq!(layout.transposed, [false, false]);
    assert_eq!(layout.offsets(1), [0, 3 * 4 * 8, 3 * 4 * 16]);
}

/// `[rows, k] · [n, k]ᵀ` in bf16, as a part of rows of `width` elements from `start`.
pub(super) fn linear(rows: usize, n: usize, k: usize, start: usize, width: usize) -> Product {
    let whole = |place, shape: &[usize]| View::contiguous(Place::Buffer(place), DType::BF16, shape);
    Product {
        input: whole(0, &[1, rows, k]),
        weight: View::contiguous(Place::Parameter(0), DType::BF16, &[n, k]),
        bias: Some(View::contiguous(Place::Parameter(1), DType::BF16, &[n])),
        gelu: true,
        is_linear: true,
        output: whole(2, &[1, rows, width]).slice(2, start, start + n),
        codes: None,
    }
}

#[test]
fn a_linear_layer_into_a_part_of_wider_rows_has_their_leading_dimension() {
    let layout = ProductLayout::new(&linear(4608, 12288, 3072, 3072, 15360)).unwrap();
    let text = "tn 12288x4608x3072 a=bf16:3072@16 b=bf16:3072@256 d=bf16:15360@16 bias=bf16 gelu";
    assert_eq!(layout.to_string(), text);
    assert_eq!(layout.operations(), 2 * 4608 * 12288 * 3072);
}

#[test]
fn a_slice_of_the_rows_of_two_pictures_is_a_batch() {
    let mut product = linear(8, 16, 32, 0, 16);
    let joined = |place, columns| {
        let view = View::contiguous(Place::Buffer(place), DType::BF16, &[2, 12, columns]);
        view.slice(1, 4, 12)
    };
    product.input = joined(0, 32);
    product.output = joined(2, 16);
    product.bias = None;
    let layout = ProductLayout::new(&product).unwrap();
    assert_eq!((layout.rows, layout.columns, layout.batch), (16, 8, 2));
    let strides = layout.matrices.map(|matrix| matrix.batch_stride);
    assert_eq!(strides, [0, 12 * 32, 12 * 16]);
}

#[test]
fn offsets_and_strides_lower_the_alignment() {
    let mut product = linear(8, 16, 32, 0, 16);
    assert_eq!(
        ProductLayout::new(&product).unwrap().alignments,
        [16, 256, 16]
    );
    product.input.offset = 4;
    product.weight.offset = 1;
    product.bias = None;
    assert_eq!(
        ProductLayout::new(&product).unwrap().alignments,
        [2, 8, 256]
    );
}

/// The same on codes with a scale each, or one for each row.
pub(super) fn coded(mut product: Product, are_vectors: bool, has_output: bool) -> Product {
    let scale = |place, count: usize| {
        let shape = [count];
        let shape: &[usize] = if are_vectors { &shape } else { &[] };
        View::contiguous(Place::Parameter(place), DType::F32, shape)
    };
    let rows = product.input.count() / product.input.axes[2].size;
    let factor = View::contiguous(Place::Buffer(9), DType::F32, &[]);
    product.codes = Some(Codes {
        scales: [scale(2, rows), scale(3, product.weight.axes[0].size)],
        output: has_output.then(|| [scale(4, 1), factor]),
        dtype: product.output.dtype,
    });
    (product.input.dtype, product.weight.dtype) = (DType::F8E4M3, DType::F8E4M3);
    if has_output {
        product.output.dtype = DType::F8E4M3;
    }
    product
}

#[test]
fn codes_are_multiplied_where_rows_are_16_bytes_apart() {
    let text = |product: &Product| ProductLayout::new(product).map(|layout| layout.to_string());
    let wide = linear(4608, 12288, 3072, 3072, 15360);
    assert_eq!(
        text(&coded(wide.clone(), false, false)).unwrap(),
        "tn 12288x4608x3072 a=f8e4m3:3072@16 b=f8e4m3:3072@256 d=bf16:15360@16 scales=one fast \
         bias=bf16 gelu"
    );
    assert_eq!(
        text(&coded(wide.clone(), false, true)).unwrap(),
        "tn 12288x4608x3072 a=f8e4m3:3072@16 b=f8e4m3:3072@256 d=f8e4m3:15360@16 scales=one fast \
         codes c=bf16 bias=bf16 gelu"
    );
    assert!(
        text(&coded(wide.clone(), true, false))
            .unwrap()
            .contains("scales=rows fast")
    );
    // Codes come of one scale alone.
    assert_eq!(text(&coded(wide.clone(), true, true)), None);
    // Lengths and places that are no multiples of 16 bytes.
    for (m, n, k, start, width) in [(8, 24, 32, 0, 24), (8, 32, 24, 0, 32), (8, 32, 32, 4, 64)] {
        assert_eq!(
            text(&coded(linear(m, n, k, start, width), false, false)),
            None
        );
    }
    // A bias of f32, and a scale for one operand's rows alone.
    let mut single = coded(linear(8, 32, 32, 0, 32), false, false);
    single.output.dtype = DType::F32;
    assert!(text(&single).is_some(), "a bias in bf16");
    single.bias.as_mut().unwrap().dtype = DType::F32;
    assert_eq!(text(&single), None);
    let mut mixed = coded(linear(8, 32, 32, 0, 32), true, false);
    let [_, weight] = &mut mixed.codes.as_mut().unwrap().scales;
    weight.axes.clear();
    assert_eq!(text(&mixed), None);
}

#[test]
fn what_cannot_be_expressed_is_none() {
    let product = linear(8, 16, 32, 0, 16);
    let with = |change: &dyn Fn(&mut Product)| {
        let mut product = product.clone();
        change(&mut product);
        ProductLayout::new(&product)
    };
    assert!(with(&|_| {}).is_some());
    assert!(with(&|product| product.output.dtype = DType::F16).is_none());
    assert!(with(&|product| product.weight.dtype = DType::F32).is_none());
    assert!(with(&|product| product.input.axes[2].stride = 2).is_none());
    assert!(with(&|product| product.input.axes[1].stride = 0).is_none());
    assert!(with(&|product| product.bias.as_mut().unwrap().axes[0].stride = 0).is_none());
    assert!(with(&|product| product.input.axes[1].size = 0).is_none());
    let wide = with(&|product| {
        product.output.dtype = DType::F32;
        product.bias = None;
    });
    assert_eq!(wide.unwrap().matrices[2].dtype, DType::F32);
    let index = View::contiguous(Place::Input(0), DType::I64, &[8]);
    let gathered = View::contiguous(Place::Buffer(0), DType::BF16, &[1, 64, 32]);
    let gathered = gathered.gather(1, &index).unwrap();
    assert!(with(&|product| product.input = gathered.clone()).is_none());
}
