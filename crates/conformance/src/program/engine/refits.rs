//! Weights that change.

use std::time::Instant;

use tintype_tensor::{DType, Tensor};
use tintype_tensorrt::engine::ContextOptions;

use super::{
    Bench, HIDDEN, NAMES, Result, WIDTH, expect_close, expect_error, expect_same, random, upload,
    y_of,
};

pub(super) fn list(bench: &Bench) -> Result<String> {
    let engine = bench.runtime.engine(&bench.plan)?;
    if !engine.is_refittable()? {
        return Err("it is not refittable".into());
    }
    let refitter = engine.refitter()?;
    let found = refitter
        .weights()
        .map(|own| (own.name.to_owned(), own.dtype, own.count));
    let found = found.collect::<Vec<_>>();
    // In alphabetical order.
    let expected = ["down", "up"].map(|name| (name.to_owned(), DType::BF16, WIDTH * HIDDEN));
    if found != expected {
        return Err(format!("{found:?}").into());
    }
    Ok(format!("missing at first: {:?}", refitter.missing()?))
}

pub(super) fn one_weight(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let x = random(10, [64, WIDTH])?;
    let before = y_of(&engine, &x, &stream)?;
    let mut refitter = engine.refitter()?;
    refitter.set_validation(false)?;
    let other = random(11, [HIDDEN, WIDTH])?;
    let (own, other) = (
        upload(&bench.weights[0], &stream)?,
        upload(&other, &stream)?,
    );
    let mut times = Vec::new();
    for _ in 0..3 {
        for (weight, is_own) in [(&other, false), (&own, true)] {
            stream.synchronize()?;
            let start = Instant::now();
            refitter.set(NAMES[0], weight)?;
            refitter.refit(&stream)?;
            stream.synchronize()?;
            times.push(format!("{:.2}", start.elapsed().as_secs_f64() * 1e3));
            expect_same(&y_of(&engine, &x, &stream)?, &before, is_own)?;
        }
    }
    if engine.tensorrt().takes_placeholders() {
        refitter.release_resources()?;
    }
    Ok(format!("{} ms", times.join(", ")))
}

pub(super) fn host(bench: &Bench) -> Result<String> {
    let engine = bench.runtime.engine(&bench.plan)?;
    let stream = bench.device.new_stream()?;
    let mut refitter = engine.refitter()?;
    refitter.set_host(NAMES[0], &bench.weights[0].clone())?;
    refitter.set(NAMES[1], &upload(&bench.weights[1], &stream)?)?;
    refitter.refit(&stream)?;
    let x = random(12, [64, WIDTH])?;
    expect_close(&y_of(&engine, &x, &stream)?, &bench.expected(&x)?)?;
    Ok(String::new())
}

/// Runs in one stream, refits in another, without waiting between them.
pub(super) fn order(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let other_stream = bench.device.new_stream()?;
    let x = random(13, [64, WIDTH])?;
    let mut context = engine.context(&ContextOptions::default())?;
    context.set_input("x", &upload(&x, &stream)?)?;
    let zeros = Tensor::from_f32_as(DType::BF16, [HIDDEN, WIDTH], vec![0.0; HIDDEN * WIDTH])?;
    let weights = [
        upload(&bench.weights[0], &stream)?,
        upload(&zeros, &stream)?,
    ];
    let mut refitter = engine.refitter()?;
    let expected = bench.expected(&x)?;
    for round in 0..20 {
        refitter.set(NAMES[0], &weights[round % 2])?;
        refitter.refit(&other_stream)?;
        let outputs = (0..3).map(|_| context.enqueue(&stream)).collect::<Vec<_>>();
        for output in outputs {
            let y = output?["y"].download(&stream)?;
            if round % 2 == 0 {
                expect_close(&y, &expected)?;
            } else if y.to_f32_vec()?.iter().any(|value| *value != 0.0) {
                return Err("a run had the old weights".into());
            }
        }
    }
    Ok(String::new())
}

pub(super) fn missing(bench: &Bench) -> Result<String> {
    let engine = bench.runtime.engine(&bench.plan)?;
    let stream = bench.device.new_stream()?;
    let mut refitter = engine.refitter()?;
    let missing = refitter.missing()?;
    refitter.set(NAMES[0], &upload(&bench.weights[0], &stream)?)?;
    let after_one = refitter.missing()?;
    let result = refitter.refit(&stream);
    let said = match &result {
        Ok(()) => "a refit of one alone is taken".to_owned(),
        Err(error) => error.to_string(),
    };
    refitter.unset_all()?;
    if !missing.is_empty() {
        expect_error(result, "refitting an engine failed")?;
    }
    Ok(format!("{missing:?}, then {after_one:?}: {said}"))
}
