//! What bad input gets.

use std::io::Cursor;

use tintype_tensor::{DType, Tensor};
use tintype_tensorrt::engine::ContextOptions;

use super::{Bench, HIDDEN, NAMES, Result, WIDTH, expect_error, random, upload};

pub(super) fn plans(bench: &Bench) -> Result<String> {
    let (plan, runtime) = (&bench.plan, &bench.runtime);
    expect_error(runtime.engine(b""), "loading a plan failed")?;
    expect_error(runtime.engine(&[7; 4096]), "loading a plan failed")?;
    expect_error(
        runtime.engine(&plan[..plan.len() / 2]),
        "loading a plan failed",
    )?;
    let half = Cursor::new(&plan[..plan.len() / 2]);
    expect_error(runtime.engine_from(half), "loading a plan failed")?;
    match runtime.engine(b"") {
        Err(error) => Ok(error.to_string()),
        Ok(_) => Err("nothing was a plan".into()),
    }
}

pub(super) fn tensors(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let mut context = engine.context(&ContextOptions::default())?;
    expect_error(context.enqueue(&stream), "not given: `x`")?;
    let x = upload(&random(20, [64, WIDTH])?, &stream)?;
    expect_error(
        context.set_input("y", &x),
        "the engine has no input `y`, it has `x`",
    )?;
    expect_error(
        context.set_output("x", None),
        "the engine has no output `x`",
    )?;
    let narrow = upload(&random(21, [64, WIDTH - 1])?, &stream)?;
    expect_error(context.set_input("x", &narrow), "expected bf16[-1, 256]")?;
    let wide = Tensor::from_f32([64, WIDTH], vec![0.0; 64 * WIDTH])?;
    expect_error(
        context.set_input("x", &upload(&wide, &stream)?),
        "found f32",
    )?;
    let many = upload(&random(22, [257, WIDTH])?, &stream)?;
    expect_error(
        context.set_input("x", &many),
        "setting the sizes of input `x`",
    )?;
    expect_error(
        context.set_input_values("x", &[1], &[1]),
        "expected a tensor",
    )?;
    expect_error(context.set_profile(1, &stream), "less than 1")?;
    expect_error(context.enqueue(&stream), "not given: `x`")?;
    context.set_input("x", &x)?;
    context
        .enqueue(&stream)?
        .get("y")
        .ok_or("no output")?
        .download(&stream)?;
    let mut refitter = engine.refitter()?;
    expect_error(
        refitter.set("side", &x),
        "no weights `side`, it has `down`, `up`",
    )?;
    expect_error(refitter.set(NAMES[0], &x), "elements of bf16, found")?;
    let floats = Tensor::from_f32([HIDDEN, WIDTH], vec![0.0; HIDDEN * WIDTH])?;
    expect_error(refitter.set_host(NAMES[0], &floats), "of f32")?;
    let float = Tensor::from_f32_as(DType::F16, [HIDDEN, WIDTH], vec![0.0; HIDDEN * WIDTH])?;
    expect_error(refitter.set_host(NAMES[0], &float), "of f16")?;
    Ok(String::new())
}
