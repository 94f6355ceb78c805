//! What the traits promise of refits, request states and sessions, on a small model.

use tintype_backend::{Backend, Changes, DeviceTensor, Error, Executable, RequestState, Tensors};
use tintype_tensor::{DType, Tensor};

use super::machine::{Found, Machine};
use super::report::{Label, Report};
use super::{Arguments, Result, on_each};
use model::Model;

mod kept;
pub(super) mod model;

use std::time::{Duration, Instant};

/// How many checks there are on a backend.
const COUNT: usize = 21 + kept::COUNT;

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    on_each(machine, report, COUNT, |name, found: &Found, report| {
        values(name, found.backend.as_ref(), report)?;
        promises(name, found.backend.as_ref(), report)?;
        kept::run(name, found.backend.as_ref(), report);
        Ok(())
    })
}

/// Results against the CPU's, in each dtype, for several sizes.
fn values(on: &str, backend: &dyn Backend, report: &mut Report) -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let mut model = Model::new(backend, dtype)?;
        model.refit(&Changes::all(&model.parameters))?;
        for (steps, tokens) in [(1, 1), (4, 77), (8, 256)] {
            let start = Instant::now();
            let (request, step) = (model.request(steps)?, model.step(steps as i64 - 1, tokens)?);
            let result = model.both(&request, &step);
            let result = result.and_then(|[found, expected]| model.near(&found, &expected));
            let case = format!("{steps} steps, {tokens} tokens");
            report.compare(Label::new(&case, on).of(dtype), start.elapsed(), result);
        }
        let request = model.request(3)?;
        let output = |executable: &dyn Executable| -> Result<Tensor> {
            let state = executable.session()?.prepare(&request)?;
            Ok(state.outputs().host("embedded")?)
        };
        let outputs = output(model.executable.as_ref())
            .and_then(|found| Ok((found, output(model.reference.as_ref())?)));
        let result = outputs.and_then(|(found, expected)| model.near(&found, &expected));
        let label = Label::new("an output of the request", on).of(dtype);
        report.compare(label, Duration::ZERO, result);
    }
    Ok(())
}

/// A check on a model with weights: what was found.
type Check = fn(&mut Model) -> Result<String>;

/// What the traits promise.
fn promises(on: &str, backend: &dyn Backend, report: &mut Report) -> Result<()> {
    let model = Model::new(backend, DType::BF16)?;
    let label = Label::new("without weights nothing runs", on);
    report.check(label, Duration::ZERO, without_weights(&model));
    model.refit(&Changes::all(&model.parameters))?;
    let checks: [(&str, Check); 8] = [
        (
            "a changed weight is seen, and the old one again to the bit",
            back,
        ),
        ("an overlay is seen, and taken off to the bit", overlay),
        (
            "a state keeps its weights, another has the new ones",
            states,
        ),
        ("a refit that is refused leaves the old weights", refused),
        ("two states take turns", turns),
        ("sessions in threads give what one gives", threads),
        (
            "wrong inputs are refused, and the session goes on",
            wrong_inputs,
        ),
        ("outputs of the device are inputs again", chained),
    ];
    for (name, check) in checks {
        let mut model = Model::new(backend, DType::BF16)?;
        model.refit(&Changes::all(&model.parameters))?;
        let start = Instant::now();
        let result = check(&mut model);
        report.check(Label::new(name, on), start.elapsed(), result);
    }
    Ok(())
}

/// The result of the backend alone.
fn y_of(executable: &dyn Executable, request: &Tensors, step: &Tensors) -> Result<Tensor> {
    let mut session = executable.session()?;
    let state = session.prepare(request)?;
    Ok(session.step(state.as_ref(), step)?.host("y")?)
}

fn expect_same(found: &Tensor, expected: &Tensor) -> Result<()> {
    if found.bytes() == expected.bytes() {
        return Ok(());
    }
    Err("the bits differ".into())
}

fn without_weights(model: &Model) -> Result<String> {
    let mut session = model.executable.session()?;
    match session.prepare(&Tensors::new()) {
        Err(Error::NoWeights(graph)) => Ok(graph),
        Err(other) => Err(other.into()),
        Ok(_) => Err("it ran".into()),
    }
}

fn back(model: &mut Model) -> Result<String> {
    let (request, step) = (model.request(2)?, model.step(1, 32)?);
    let before = y_of(model.executable.as_ref(), &request, &step)?;
    let mut changed = model.parameters.clone();
    let weight = model.random(&[192, 64], 0.2)?;
    let changes = changed.set("qkv.weight", weight)?;
    model.refit(&Changes::all(&changed).only(&changes))?;
    let [found, expected] = model.both(&request, &step)?;
    let near = model.expect_near(&found, &expected)?;
    if found.bytes() == before.bytes() {
        return Err("nothing changed".into());
    }
    model.refit(&Changes::all(&model.parameters).only(&changes))?;
    expect_same(&y_of(model.executable.as_ref(), &request, &step)?, &before)?;
    Ok(near)
}

fn overlay(model: &mut Model) -> Result<String> {
    let (request, step) = (model.request(2)?, model.step(0, 32)?);
    let before = y_of(model.executable.as_ref(), &request, &step)?;
    let overlays = [model.lora()?];
    let names = ["out.weight", "lora.up", "lora.down"];
    let changes = Changes::all(&model.parameters).with_overlays(&overlays);
    model.refit(&changes.only_names(names))?;
    let [found, expected] = model.both(&request, &step)?;
    let near = model.expect_near(&found, &expected)?;
    if found.bytes() == before.bytes() {
        return Err("nothing changed".into());
    }
    model.refit(&Changes::all(&model.parameters).only_names(names))?;
    expect_same(&y_of(model.executable.as_ref(), &request, &step)?, &before)?;
    Ok(near)
}

fn states(model: &mut Model) -> Result<String> {
    let (request, step) = (model.request(2)?, model.step(1, 16)?);
    let mut session = model.executable.session()?;
    let old_state = session.prepare(&request)?;
    let before = session.step(old_state.as_ref(), &step)?.host("y")?;
    let mut changed = model.parameters.clone();
    let weight = model.random(&[64, 64], 0.2)?;
    let changes = changed.set("out.weight", weight)?;
    model.refit(&Changes::all(&changed).only(&changes))?;
    let new_state = session.prepare(&request)?;
    let after = session.step(new_state.as_ref(), &step)?.host("y")?;
    expect_same(
        &session.step(old_state.as_ref(), &step)?.host("y")?,
        &before,
    )?;
    let [_, expected] = model.both(&request, &step)?;
    let near = model.expect_near(&after, &expected)?;
    // Without a holder the next refit is in place again.
    drop((old_state, new_state));
    model.refit(&Changes::all(&model.parameters).only(&changes))?;
    expect_same(&y_of(model.executable.as_ref(), &request, &step)?, &before)?;
    Ok(near)
}

fn refused(model: &mut Model) -> Result<String> {
    let (request, step) = (model.request(1)?, model.step(0, 8)?);
    let before = y_of(model.executable.as_ref(), &request, &step)?;
    let missing = model
        .parameters
        .renamed(|name| (name != "out.bias").then(|| name.to_owned()))?;
    let error = match model.executable.refit(&Changes::all(&missing)) {
        Err(error) => error.to_string(),
        Ok(_) => return Err("it was taken".into()),
    };
    expect_same(&y_of(model.executable.as_ref(), &request, &step)?, &before)?;
    Ok(error)
}

fn turns(model: &mut Model) -> Result<String> {
    let requests = [model.request(2)?, model.request(5)?];
    let step = model.step(1, 24)?;
    let mut session = model.executable.session()?;
    let states: Vec<Box<dyn RequestState>> = requests
        .iter()
        .map(|request| session.prepare(request))
        .collect::<std::result::Result<_, _>>()?;
    for _ in 0..2 {
        for (state, request) in states.iter().zip(&requests) {
            let found = session.step(state.as_ref(), &step)?.host("y")?;
            expect_same(&found, &y_of(model.executable.as_ref(), request, &step)?)?;
        }
    }
    Ok("two rounds".to_owned())
}

fn threads(model: &mut Model) -> Result<String> {
    let (request, step) = (model.request(2)?, model.step(0, 64)?);
    let expected = y_of(model.executable.as_ref(), &request, &step)?;
    let executable = model.executable.as_ref();
    let differ = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let same = |_| {
                        let found = y_of(executable, &request, &step).map_err(|e| e.to_string())?;
                        expect_same(&found, &expected).map_err(|e| e.to_string())
                    };
                    (0..8).try_for_each(same)
                })
            })
            .collect();
        let results = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        results
            .map(|result| {
                result
                    .map_err(|_| "a thread panicked".to_owned())
                    .and_then(|r| r)
            })
            .collect::<std::result::Result<Vec<()>, String>>()
    });
    differ?;
    Ok("4 threads, 8 runs each".to_owned())
}

fn wrong_inputs(model: &mut Model) -> Result<String> {
    let (request, step) = (model.request(2)?, model.step(0, 8)?);
    let mut session = model.executable.session()?;
    let narrow = Tensor::from_f32([2, 63], vec![0.0; 126])?.to_dtype(model.dtype)?;
    let wrong = [
        Tensors::new(),
        request.clone().with("timesteps", narrow),
        request
            .clone()
            .with("scale", Tensor::from_f32([64], vec![0.0; 64])?),
        request.clone().with("unknown", Tensor::scalar(1.0f32)),
        model.request(9)?,
    ];
    for inputs in &wrong {
        if session.prepare(inputs).is_ok() {
            return Err(format!("{inputs:?} were taken").into());
        }
    }
    let state = session.prepare(&request)?;
    if session.step(state.as_ref(), &model.step(0, 257)?).is_ok() {
        return Err("257 tokens were taken".into());
    }
    let found = session.step(state.as_ref(), &step)?.host("y")?;
    let [expected, _] = model.both(&request, &step)?;
    expect_same(&found, &expected)?;
    Ok(format!("{} requests and a step", wrong.len()))
}

fn chained(model: &mut Model) -> Result<String> {
    let (request, first) = (model.request(2)?, model.step(0, 40)?);
    let mut session = model.executable.session()?;
    let state = session.prepare(&request)?;
    let y = session.step(state.as_ref(), &first)?;
    let place = |tensor: &DeviceTensor| match tensor {
        DeviceTensor::Host(_) => "host".to_owned(),
        DeviceTensor::Device(memory) => memory.device().to_owned(),
    };
    let tensor = y.get("y").ok_or("no y")?.clone();
    let place = place(&tensor);
    let again = first.clone().with("x", tensor);
    let on_host = first.with("x", y.host("y")?);
    // From another session, whose stream knows nothing of the first one's.
    let mut other = model.executable.session()?;
    let found = other.step(state.as_ref(), &again)?.host("y")?;
    expect_same(&found, &session.step(state.as_ref(), &on_host)?.host("y")?)?;
    Ok(format!("from {place}"))
}
