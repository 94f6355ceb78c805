//! Products of codes of 8 bits on a GPU: whether they are right, and what they take at the sizes of
//! FLUX.1-dev; without a GPU or the library, nothing is run and the tests say so.
//!
//! `cuda_tests libraries::blas::on_device_codes --nocapture` prints the table.

use tintype_device::{DeviceBuffer, Staging, Stream};
use tintype_tensor::{DType, Tensor, TorchGenerator};

use super::on_device::{gpu, options};
use super::reference::{coded, linear};
use super::{Blas, ChoiceFile};
use crate::run::{Addresses, Prepared};
use crate::{Error, Place, Product};

/// The places of a product's views, in the order of [`Product::reads`] and then the output.
fn places(product: &Product) -> Vec<(Place, DType, usize)> {
    let views = product.reads().into_iter().chain([&product.output]);
    let extent = |view: &crate::View| {
        let last = view.axes.iter().map(|axis| (axis.size - 1) * axis.stride);
        view.offset + last.sum::<usize>() + 1
    };
    views
        .map(|view| (view.place, view.dtype, extent(view)))
        .collect()
}

/// Numbers for each place that is read; scales are positive, and the last factor is 1 by the
/// scale before it.
fn memory(product: &Product) -> Vec<Tensor> {
    let mut random = TorchGenerator::new(5);
    let count = product.reads().len();
    let first_scale = 2 + usize::from(product.bias.is_some());
    let mut tensors = Vec::new();
    for (number, (_, dtype, extent)) in places(product).into_iter().enumerate() {
        let mut values = random
            .randn([extent.max(16)])
            .unwrap()
            .to_f32_vec()
            .unwrap();
        values.truncate(extent);
        if (first_scale..count).contains(&number) {
            values = values.iter().map(|x| 0.02 + 0.01 * x.abs()).collect();
        }
        if number == count - 1 && number >= first_scale + 2 {
            let before: &Tensor = &tensors[number - 1];
            values = vec![1.0 / before.to_f32_vec().unwrap()[0]];
        }
        tensors.push(Tensor::from_f32_as(dtype, [extent], values).unwrap());
    }
    tensors
}

fn run(
    blas: &Blas,
    stream: &Stream,
    product: &Product,
    memory: &[Tensor],
) -> crate::Result<Tensor> {
    let prepared = blas.product("test", product)?;
    let mut staging = Staging::new(stream)?;
    let mut buffers = Vec::new();
    for tensor in memory {
        let buffer = DeviceBuffer::allocate(stream, tensor.bytes().len())?;
        staging.upload(tensor.bytes(), &buffer, 0)?;
        buffers.push(buffer);
    }
    let scratch = DeviceBuffer::allocate(stream, prepared.scratch_bytes())?;
    stream.device().synchronize()?;
    let places = places(product);
    let of = |place: Place| {
        let number = places.iter().position(|(known, ..)| *known == place);
        buffers[number.expect("a place of the product")].address()
    };
    let addresses = Addresses {
        of: &of,
        scratch: scratch.address(),
    };
    // SAFETY: each view lies within a buffer of its own, which lives until it was read.
    unsafe { prepared.enqueue(stream, &addresses)? };
    let (_, dtype, extent) = places[places.len() - 1];
    let output = &buffers[buffers.len() - 1];
    let bytes = output.to_host(0..output.len(), stream)?;
    Ok(Tensor::from_bytes(dtype, [extent], bytes)?)
}

fn expected(product: &Product, memory: &[Tensor]) -> Vec<f64> {
    let numbers = |at: usize| -> Vec<f64> {
        let values = memory[at].to_f32_vec().unwrap().into_iter();
        values.map(f64::from).collect()
    };
    let (input, weight, bias) = (numbers(0), numbers(1), numbers(2));
    let (of_input, of_weight) = (numbers(3), numbers(4));
    let divisor = product.codes.as_ref().unwrap().output.as_ref();
    let divisor = divisor.map_or(1.0, |_| numbers(5)[0]);
    let k = product.weight.axes[1].size;
    let mut values = Vec::new();
    for (row, input) in input.chunks(k).enumerate() {
        for (column, weight) in weight.chunks(k).enumerate() {
            let sum: f64 = input.iter().zip(weight).map(|(a, b)| a * b).sum();
            let scale = of_input[row.min(of_input.len() - 1)];
            let x = sum * scale * of_weight[column.min(of_weight.len() - 1)] + bias[column];
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let x = if product.gelu {
                x / 2.0 * (1.0 + inner.tanh())
            } else {
                x
            };
            values.push(x / divisor);
        }
    }
    values
}

#[test]
fn products_of_codes_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let Some((blas, stream)) = gpu(options(&folder, false)) else {
        return;
    };
    for (are_vectors, has_output) in [(false, false), (false, true), (true, false)] {
        for (gelu, [m, n, k]) in [(false, [48, 96, 64]), (true, [130, 256, 512])] {
            let mut product = coded(linear(m, n, k, 0, n), are_vectors, has_output);
            product.gelu = gelu;
            let memory = memory(&product);
            let form = format!("gelu {gelu}, rows {are_vectors}, codes {has_output}");
            let found = match run(&blas, &stream, &product, &memory) {
                Ok(found) => found.to_f32_vec().unwrap(),
                Err(Error::Unsupported { message, .. }) => {
                    println!("{form}: {message}");
                    continue;
                }
                Err(error) => panic!("{form}: {error}"),
            };
            let (mut difference, mut size) = (0.0, 0.0);
            for (found, expected) in found.iter().zip(expected(&product, &memory)) {
                let expected = if has_output {
                    expected.clamp(-448.0, 448.0)
                } else {
                    expected
                };
                difference += (f64::from(*found) - expected).powi(2);
                size += expected.powi(2);
            }
            let error = (difference / size).sqrt();
            println!("{form}: {error:.2e}");
            assert!(
                error < if has_output { 4e-2 } else { 1e-2 },
                "{form}: {error}"
            );
        }
    }
}

#[test]
fn what_products_of_flux_take_in_eight_bits() {
    let folder = tempfile::tempdir().unwrap();
    let Some((blas, _stream)) = gpu(options(&folder, true)) else {
        return;
    };
    // Rows, columns, sums; where results begin in how wide rows.
    let shapes = [
        (4096, 9216, 3072, 0, 9216),
        (4096, 3072, 3072, 0, 3072),
        (4096, 12288, 3072, 0, 12288),
        (4096, 3072, 12288, 0, 3072),
        (512, 9216, 3072, 0, 9216),
        (512, 3072, 3072, 0, 3072),
        (512, 12288, 3072, 0, 12288),
        (512, 3072, 12288, 0, 3072),
        (4608, 9216, 3072, 0, 9216),
        (4608, 12288, 3072, 3072, 15360),
        (4608, 3072, 15360, 0, 3072),
    ];
    println!("m × n × k: ms (TFLOP/s)");
    for (m, n, k, start, width) in shapes {
        let with = |gelu| Product {
            gelu,
            ..linear(m, n, k, start, width)
        };
        let forms = [
            ("bf16", with(false)),
            ("bf16 gelu", with(true)),
            ("fp8", coded(with(false), false, false)),
            ("fp8 gelu", coded(with(true), false, false)),
            ("fp8 to codes", coded(with(false), false, true)),
            ("fp8 gelu to codes", coded(with(true), false, true)),
            ("fp8 rows", coded(with(false), true, false)),
        ];
        for (name, product) in forms {
            let took = match blas.product(name, &product) {
                Ok(prepared) => {
                    let choices = ChoiceFile::new(folder.path().join("choices.json")).read();
                    let key = format!("| {}", prepared.layout());
                    let entry = choices.iter().find(|(name, _)| name.ends_with(&key));
                    match entry {
                        Some((_, entry)) => {
                            let nanoseconds = entry.nanoseconds as f64;
                            let tera = prepared.layout().operations() as f64 / nanoseconds / 1e3;
                            format!("{:.4} ({tera:.0})", nanoseconds / 1e6)
                        }
                        None => "one algorithm, not timed".to_owned(),
                    }
                }
                Err(error) => error.to_string(),
            };
            println!("{m} × {n} × {k}, {name}: {took}");
        }
    }
}
