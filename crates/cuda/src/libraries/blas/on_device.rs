//! Products on a GPU against products by their views; without a GPU or the library, nothing is run
//! and the tests say so.

use tintype_device::{Device, DeviceBuffer, Staging, Stream};
use tintype_tensor::DType;

use super::descriptors::{Matrices, Operation, Pointer, Preference};
use super::layout::ProductLayout;
use super::library::is_present;
use super::reference::{Numbers, coded, expected, linear, memory};
use super::{Blas, BlasOptions};
use crate::run::{Addresses, Prepared};
use crate::{Error, Place, Product, View};

/// A GPU with the library; says what is missing.
pub(super) fn gpu(options: BlasOptions) -> Option<(Blas, Stream)> {
    let opened = Device::open(0).map_err(Error::from).and_then(|device| {
        let stream = device.new_stream()?;
        Ok((Blas::with(&device, options)?, stream))
    });
    opened.map_err(|error| println!("not run: {error}")).ok()
}

pub(super) fn options(folder: &tempfile::TempDir, tunes: bool) -> BlasOptions {
    BlasOptions {
        tunes,
        choices: Some(folder.path().join("choices.json")),
        ..BlasOptions::default()
    }
}

fn with_dtype(product: &Product, dtype: DType) -> Product {
    let turned = |view: &View| View {
        dtype,
        ..view.clone()
    };
    Product {
        input: turned(&product.input),
        weight: turned(&product.weight),
        bias: product.bias.as_ref().map(turned),
        output: turned(&product.output),
        ..product.clone()
    }
}

fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    let half = |value: f32| -> u16 {
        let bits = dtype.round(value).to_bits();
        match dtype {
            DType::BF16 => (bits >> 16) as u16,
            _ if value == 0.0 => 0,
            // These tests have no subnormal numbers.
            _ => {
                ((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | bits >> 13 & 1023)
                    as u16
            }
        }
    };
    match dtype {
        DType::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        _ => values
            .iter()
            .flat_map(|&value| half(value).to_le_bytes())
            .collect(),
    }
}

fn values_of(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let half = |bytes: &[u8]| {
        let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        if dtype == DType::BF16 {
            return f32::from_bits(bits << 16);
        }
        let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
        let (exponent, fraction) = (bits >> 10 & 31, (bits & 1023) as f32 / 1024.0);
        match exponent {
            0 => sign * fraction * 2f32.powi(-14),
            _ => sign * (1.0 + fraction) * 2f32.powi(exponent as i32 - 15),
        }
    };
    match dtype {
        DType::F32 => bytes
            .chunks(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect(),
        _ => bytes.chunks(2).map(half).collect(),
    }
}

/// The output's whole memory after a run.
fn run(
    blas: &Blas,
    (stream, staging): (&Stream, &mut Staging),
    product: &Product,
    memory: &[Vec<f32>; 4],
) -> crate::Result<Vec<f32>> {
    let dtype = product.output.dtype;
    let prepared = blas.product("test", product)?;
    let mut buffers = Vec::new();
    for values in memory {
        let bytes = bytes_of(values, dtype);
        let buffer = DeviceBuffer::allocate(stream, bytes.len())?;
        if !bytes.is_empty() {
            staging.upload(&bytes, &buffer, 0)?;
        }
        buffers.push(buffer);
    }
    let scratch = DeviceBuffer::allocate(stream, prepared.scratch_bytes())?;
    stream.device().synchronize()?;
    let of = |place: Place| match place {
        Place::Buffer(place) => buffers[place].address(),
        _ => unreachable!("tests have buffers alone"),
    };
    let addresses = Addresses {
        of: &of,
        scratch: scratch.address(),
    };
    // SAFETY: each view lies within a buffer of its own, which lives until it was read.
    unsafe { prepared.enqueue(stream, &addresses)? };
    let bytes = buffers[2].to_host(0..buffers[2].len(), stream)?;
    Ok(values_of(&bytes, dtype))
}

fn difference(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let pairs = found.iter().zip(wanted);
    let worst = pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
    worst.fold(0.0, |worst, one| {
        if one.is_nan() {
            f32::NAN
        } else {
            one.max(worst)
        }
    })
}

#[test]
fn random_products_are_those_of_the_views() {
    let folder = tempfile::tempdir().unwrap();
    let Some((blas, stream)) = gpu(options(&folder, false)) else {
        return;
    };
    let mut staging = Staging::new(&stream).unwrap();
    for (dtype, tolerance) in [
        (DType::F32, 1e-5_f32),
        (DType::F16, 2e-3),
        (DType::BF16, 1e-2),
    ] {
        let (mut run_count, mut refused, mut of_gelu) = (0, Vec::new(), 0f32);
        for seed in 0..400 {
            let mut numbers = Numbers(seed);
            let product = with_dtype(&numbers.product(), dtype);
            if ProductLayout::new(&product).is_none() {
                continue;
            }
            let memory = memory(&product, &mut numbers);
            match run(&blas, (&stream, &mut staging), &product, &memory) {
                Ok(found) => {
                    let worst = difference(&found, &expected(&product, &memory));
                    // The library's tanh is not exact.
                    let tolerance = if product.gelu {
                        of_gelu = of_gelu.max(worst);
                        tolerance.max(1e-3)
                    } else {
                        tolerance
                    };
                    assert!(worst < tolerance, "seed {seed}: {worst} of {product:#?}");
                    run_count += 1;
                }
                Err(error @ Error::Unsupported { .. }) => refused.push(error.to_string()),
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        println!(
            "{dtype}: {run_count} are right (GELU to {of_gelu:e}), {} have no algorithm: {refused:#?}",
            refused.len()
        );
        assert!(run_count > 100, "{dtype}: {run_count}");
    }
}

#[test]
fn products_of_flux_are_timed_once_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let Some((blas, stream)) = gpu(options(&folder, true)) else {
        return;
    };
    let shapes = [
        (4096, 9216, 3072, 9216),
        (4608, 12288, 3072, 15360),
        (4608, 3072, 15360, 3072),
        (512, 3072, 12288, 3072),
        (1, 18432, 3072, 18432),
    ];
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for (m, n, k, width) in shapes {
            let product = with_dtype(&linear(m, n, k, width - n, width), dtype);
            let prepared = blas.product("flux", &product).unwrap();
            let entries = super::ChoiceFile::new(folder.path().join("choices.json")).read();
            let key = format!("| {}", prepared.layout());
            let (_, entry) = entries
                .iter()
                .find(|(name, _)| name.ends_with(&key))
                .unwrap();
            let tera = prepared.layout().operations() as f64 / entry.nanoseconds as f64 / 1e3;
            let milliseconds = entry.nanoseconds as f64 / 1e6;
            println!(
                "{milliseconds:.4} ms, {tera:.0} TFLOP/s, {} bytes: {key}",
                entry.workspace
            );
            let (again, _) = gpu(options(&folder, false)).unwrap();
            let again = again.product("flux", &product).unwrap();
            assert_eq!(again.algorithm(), prepared.algorithm(), "{key}");
        }
    }
    drop(stream);
}

#[test]
fn wide_products_with_gelu_and_bias_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let Some((blas, stream)) = gpu(options(&folder, true)) else {
        return;
    };
    let mut staging = Staging::new(&stream).unwrap();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let mut product = with_dtype(&linear(96, 256, 64, 128, 384), dtype);
        product.weight.place = Place::Buffer(1);
        product.bias.as_mut().unwrap().place = Place::Buffer(3);
        let memory = memory(&product, &mut Numbers(7));
        let found = run(&blas, (&stream, &mut staging), &product, &memory).unwrap();
        let worst = difference(&found, &expected(&product, &memory));
        println!("{dtype}: {worst}");
        assert!(worst < 2e-2, "{dtype}: {worst}");
    }
}

/// Descriptors are memory of the host: making them needs the library and no GPU.
#[test]
fn the_library_takes_all_attributes() {
    if !is_present() {
        println!("not run: there is no library");
        return;
    }
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for (bias, gelu) in [(false, false), (true, false), (false, true), (true, true)] {
            for batch in [1, 3] {
                let mut layout =
                    ProductLayout::new(&with_dtype(&linear(64, 96, 32, 32, 128), dtype));
                let layout = layout.as_mut().unwrap();
                (layout.bias, layout.gelu, layout.batch) = (bias.then_some(dtype), gelu, batch);
                Matrices::new(layout).unwrap();
                let mut operation = Operation::new(layout).unwrap();
                operation.point(Pointer::Bias, 4096).unwrap();
                Preference::new(32 << 20, layout.alignments).unwrap();
            }
        }
    }
    for (are_vectors, has_output) in [(false, false), (false, true), (true, false)] {
        let product = coded(linear(64, 96, 32, 32, 128), are_vectors, has_output);
        let layout = ProductLayout::new(&product).unwrap();
        Matrices::new(&layout).unwrap();
        let mut operation = Operation::new(&layout).unwrap();
        for pointer in layout.pointers() {
            operation.point(pointer, 8192).unwrap();
        }
        assert_eq!(layout.pointers().len(), 3 + usize::from(has_output));
        Preference::new(32 << 20, layout.alignments).unwrap();
    }
}
