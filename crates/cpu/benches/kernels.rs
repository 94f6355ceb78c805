//! Speed of the kernels that a model spends its time in: products first, then what is
//! bound by memory.
//!
//! `cargo bench -p tintype-cpu`; products report multiply-adds, the others bytes moved.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tintype_cpu::kernels::{
    Activation, Attention, Conv2d, GroupNorm, Linear, Modulation, Norm, Rotary, Unary, Weights,
    attention, conv2d, gated_residual, group_norm, layer_norm_modulate, linear, permute, rotary,
    unary,
};
use tintype_tensor::DType;

/// Values in −2..2 from a xorshift generator; zeros would flatter some kernels.
fn values(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("products");
    group.sample_size(20);

    let options = Linear {
        activation: Some(Activation::GeluTanh),
        ..Linear::new(1536, 512, 2048)
    };
    let (x, weight, bias) = (values(1536 * 512), values(512 * 2048), values(2048));
    let mut out = vec![0.0; 1536 * 2048];
    group.throughput(Throughput::Elements(1536 * 512 * 2048));
    group.bench_function("linear 1536x512x2048 gelu", |bencher| {
        bencher.iter(|| {
            linear(
                &options,
                black_box(&x),
                Weights::F32(&weight),
                Some(&bias),
                &mut out,
            );
        });
    });

    let one = Linear::new(1, 512, 3072);
    let weight = values(512 * 3072);
    group.throughput(Throughput::Elements(512 * 3072));
    group.bench_function("linear 1x512x3072", |bencher| {
        bencher.iter(|| {
            let out = &mut out[..3072];
            linear(&one, black_box(&x[..512]), Weights::F32(&weight), None, out);
        });
    });

    let options = Attention::new(1, 4, 1536, 128);
    let (key, value) = (values(1536 * 512), values(1536 * 512));
    let mut out = vec![0.0; 1536 * 512];
    group.throughput(Throughput::Elements(2 * 4 * 1536 * 1536 * 128));
    group.bench_function("attention 4 heads 1536x128", |bencher| {
        bencher.iter(|| attention(&options, black_box(&x), &key, &value, None, &mut out));
    });

    let options = Conv2d {
        batch: 1,
        channels: 64,
        outputs: 64,
        size: [128, 128],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1; 4],
        groups: 1,
        rounding: DType::F32,
    };
    let (x, weight, bias) = (values(64 * 128 * 128), values(64 * 64 * 9), values(64));
    let mut out = vec![0.0; 64 * 128 * 128];
    group.throughput(Throughput::Elements(64 * 64 * 9 * 128 * 128));
    group.bench_function("conv2d 64 channels 128x128", |bencher| {
        bencher.iter(|| {
            conv2d(
                &options,
                black_box(&x),
                Weights::F32(&weight),
                Some(&bias),
                &mut out,
            );
        });
    });
    group.finish();
}

fn memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory");
    let (tokens, width) = (1536, 512);
    let bytes = |passes: usize, count: usize| Throughput::Bytes((4 * passes * count) as u64);
    let (x, scale, shift) = (values(tokens * width), values(width), values(width));
    let mut out = vec![0.0; tokens * width];

    group.throughput(bytes(2, x.len()));
    let norm = Norm {
        width,
        epsilon: 1e-6,
        rounding: DType::F32,
    };
    let modulation = Modulation {
        scale: &scale,
        shift: &shift,
    };
    group.bench_function("layer_norm_modulate 1536x512", |bencher| {
        bencher.iter(|| layer_norm_modulate(&norm, black_box(&x), modulation, &mut out));
    });
    let table = values(tokens * 128);
    let options = Rotary {
        batch: 1,
        tokens,
        heads: 4,
        head_dim: 128,
        token_stride: width,
        rounding: DType::F32,
    };
    group.bench_function("rotary 1536x4x128", |bencher| {
        bencher.iter(|| rotary(&options, black_box(&x), &table, &mut out));
    });
    group.bench_function("permute 1536x4x128", |bencher| {
        bencher.iter(|| permute(&[tokens, 4, 128], &[1, 0, 2], black_box(&x), &mut out));
    });
    group.throughput(bytes(3, x.len()));
    let residual = values(x.len());
    for rounding in [DType::F32, DType::BF16] {
        group.bench_function(format!("gated_residual 1536x512 {rounding}"), |bencher| {
            bencher.iter(|| {
                gated_residual(width, rounding, &residual, &scale, black_box(&x), &mut out);
            });
        });
    }

    let x = values(tokens * 2048);
    let mut out = vec![0.0; x.len()];
    group.throughput(bytes(2, x.len()));
    group.bench_function("gelu_tanh 1536x2048", |bencher| {
        bencher.iter(|| unary(Unary::GeluTanh, DType::F32, black_box(&x), &mut out));
    });
    let options = GroupNorm {
        channels: 64,
        groups: 32,
        area: 49152,
        epsilon: 1e-6,
        silu: true,
        rounding: DType::F32,
    };
    group.throughput(bytes(3, x.len()));
    group.bench_function("group_norm silu 64x49152", |bencher| {
        bencher.iter(|| group_norm(&options, black_box(&x), None, None, &mut out));
    });
    group.finish();
}

criterion_group!(benches, products, memory);
criterion_main!(benches);
