//! Builds that succeed, or are stopped.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Failed;
use tintype_tensor::{DType, Tensor};
use tintype_tensorrt::{Error, Progress, Target, Tensorrt};

use super::{SIZE, error_of, product};

pub(super) fn plan(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    let values = Tensor::from_f32([SIZE, SIZE], vec![1.0; SIZE * SIZE])?.to_dtype(DType::BF16)?;
    let x = network.input("x", DType::BF16, &[64, SIZE as i64])?;
    let weight = network.literal("weight", &values, &[SIZE, SIZE])?;
    drop(values);
    let y = network.matrix_multiply([x, weight], [false, true])?;
    network.mark_output("y", y)?;
    let told = Mutex::new(Vec::new());
    let mut config = builder.config()?;
    config.set_targets(&["sm89".parse()?])?;
    config.on_progress(|progress| {
        told.lock()
            .expect("no holder panics")
            .push(format!("{progress:?}"));
        ControlFlow::Continue(())
    })?;
    let mut plan = Vec::new();
    let written = builder.build(&network, &config, &mut plan)?;
    assert_eq!(written, plan.len() as u64);
    assert!(plan.len() > 2 * SIZE * SIZE, "{} bytes", plan.len());
    drop(config);
    let told = told.into_inner()?;
    for kind in ["Started", "Step", "Finished"] {
        assert!(
            told.iter().any(|progress| progress.starts_with(kind)),
            "{told:?}"
        );
    }
    Ok(())
}

pub(super) fn targets(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    product(&network, 64)?;
    let mut plans = Vec::new();
    for target in [Target::new(8, 0), Target::new(12, 0)] {
        let mut config = super::weightless(&builder)?;
        config.set_targets(&[target])?;
        let mut plan = Vec::new();
        builder.build(&network, &config, &mut plan)?;
        plans.push(plan);
    }
    assert_ne!(plans[0], plans[1]);
    Ok(())
}

pub(super) fn weightless(tensorrt: &Tensorrt) -> Result<(), Failed> {
    if !tensorrt.takes_placeholders() {
        return Ok(());
    }
    let plan = small_plan(tensorrt, "sm89")?;
    assert!(plan.len() < 2 * SIZE * SIZE, "{} bytes", plan.len());
    assert!(plan.windows(6).any(|bytes| bytes == b"weight"));
    Ok(())
}

pub(super) fn dynamic(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    product(&network, -1)?;
    let mut config = super::weightless(&builder)?;
    let error = error_of(builder.build(&network, &config, &mut Vec::new()))?;
    assert!(error.starts_with("building a plan failed: "), "{error}");
    assert!(error.contains("profile"), "{error}");
    let mut profile = builder.profile()?;
    let size = SIZE as i64;
    profile.set_shape("x", &[1, size], &[64, size], &[128, size])?;
    config.add_profile(&profile)?;
    builder.build(&network, &config, &mut Vec::new())?;
    Ok(())
}

pub(super) fn threads(tensorrt: &Tensorrt) -> Result<(), Failed> {
    std::thread::scope(|scope| {
        let builds = ["sm89", "sm80", "sm89", "sm120"].map(|target| {
            let text = |error: Failed| error.message().map(str::to_owned);
            scope.spawn(move || small_plan(tensorrt, target).map_err(text))
        });
        for build in builds {
            let plan = build.join().expect("no build panics");
            assert!(matches!(&plan, Ok(plan) if !plan.is_empty()), "{plan:?}");
        }
    });
    Ok(())
}

pub(super) fn drops(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.clone().builder()?;
    let network = builder.network()?;
    let config = super::weightless(&builder)?;
    let unused = (builder.network()?, builder.config()?, builder.profile()?);
    product(&network, 64)?;
    drop(unused);
    builder.build(&network, &config, &mut Vec::new())?;
    drop(network);
    let again = builder.network()?;
    product(&again, 32)?;
    builder.build(&again, &config, &mut Vec::new())?;
    drop(config);
    drop(again);
    drop(builder);
    Ok(())
}

pub(super) fn stopped(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    product(&network, 64)?;
    let is_enough = AtomicBool::new(true);
    let mut config = super::weightless(&builder)?;
    config.on_progress(|progress| match progress {
        Progress::Step { .. } if is_enough.load(Ordering::SeqCst) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })?;
    let result = builder.build(&network, &config, &mut Vec::new());
    assert!(matches!(result, Err(Error::Stopped { .. })), "{result:?}");
    is_enough.store(false, Ordering::SeqCst);
    builder.build(&network, &config, &mut Vec::new())?;
    Ok(())
}

fn small_plan(tensorrt: &Tensorrt, target: &str) -> Result<Vec<u8>, Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    product(&network, 64)?;
    let (mut config, mut plan) = (super::weightless(&builder)?, Vec::new());
    config.set_targets(&[target.parse()?])?;
    builder.build(&network, &config, &mut plan)?;
    Ok(plan)
}
