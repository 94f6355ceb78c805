//! What is kept from call to call: parameters between refits, outputs, compiled forms.

use std::time::Instant;

use tintype_backend::{Backend, Changes, CompileOptions, KeepWeights, Tensors};
use tintype_tensor::DType;

use super::model::Model;
use super::{expect_same, y_of};
use crate::program::Result;
use crate::program::report::{Label, Report};

/// How many checks there are.
pub(super) const COUNT: usize = KeepWeights::ALL.len() + 2;

pub(super) fn run(on: &str, backend: &dyn Backend, report: &mut Report) {
    for keep in KeepWeights::ALL {
        let name = format!("an overlay goes on and off, parameters kept: {keep}");
        let start = Instant::now();
        let result = switches(backend, keep);
        report.check(Label::new(&name, on), start.elapsed(), result);
    }
    let start = Instant::now();
    let result = given_back(backend);
    let label = Label::new("outputs that are given back are written again", on);
    report.check(label, start.elapsed(), result);
    let start = Instant::now();
    let result = saved(backend);
    let label = Label::new("what was saved is compiled from", on);
    report.check(label, start.elapsed(), result);
}

/// There and back several times, to the bit, while another parameter changes in between.
fn switches(backend: &dyn Backend, keep: KeepWeights) -> Result<String> {
    let options = CompileOptions::default().with_keep_weights(keep);
    let mut model = Model::with(backend, DType::BF16, &options)?;
    model.refit(&Changes::all(&model.parameters))?;
    let (request, step) = (model.request(2)?, model.step(0, 32)?);
    let executable = model.executable.as_ref();
    let before = y_of(executable, &request, &step)?;
    let overlays = [model.lora()?];
    let names = ["out.weight", "lora.up", "lora.down"];
    let (mut merged, mut moved) = (None, Vec::new());
    for _ in 0..5 {
        let changes = Changes::all(&model.parameters).with_overlays(&overlays);
        let on = executable.refit(&changes.only_names(names))?;
        let found = y_of(executable, &request, &step)?;
        expect_same(&found, merged.get_or_insert_with(|| found.clone()))?;
        let changes = Changes::all(&model.parameters);
        let off = executable.refit(&changes.only_names(names))?;
        expect_same(&y_of(executable, &request, &step)?, &before)?;
        moved.push(format!("{}+{}", on.moved, off.moved));
    }
    if merged.is_some_and(|merged| merged.bytes() == before.bytes()) {
        return Err("nothing changed".into());
    }
    // A new base is seen, whatever was kept of the old one.
    let mut changed = model.parameters.clone();
    let weight = model.random(&[64, 64], 0.2)?;
    let changes = changed.set("out.weight", weight)?;
    let changes = Changes::all(&changed)
        .with_overlays(&overlays)
        .only(&changes);
    model.refit(&changes)?;
    let [found, expected] = model.both(&request, &step)?;
    model.expect_near(&found, &expected)?;
    Ok(format!("bytes moved: {}", moved.join(", ")))
}

fn given_back(backend: &dyn Backend) -> Result<String> {
    let mut model = Model::new(backend, DType::BF16)?;
    model.refit(&Changes::all(&model.parameters))?;
    let request = model.request(4)?;
    let mut session = model.executable.session()?;
    let state = session.prepare(&request)?;
    let mut outputs = Tensors::new();
    for index in 0..4 {
        let step = model.step(index, 48)?;
        let expected = session.step(state.as_ref(), &step)?.host("y")?;
        session.step_into(state.as_ref(), &step, &mut outputs)?;
        expect_same(&outputs.host("y")?, &expected)?;
        // What somebody else has is left alone.
        let held = outputs.clone();
        let other = model.step(index, 48)?;
        session.step_into(state.as_ref(), &other, &mut outputs)?;
        expect_same(&held.host("y")?, &expected)?;
        // Also from another session, and in another size.
        drop(held);
        let mut second = model.executable.session()?;
        second.step_into(state.as_ref(), &step, &mut outputs)?;
        expect_same(&outputs.host("y")?, &expected)?;
        let wide = model.step(index, 80)?;
        session.step_into(state.as_ref(), &wide, &mut outputs)?;
        let expected = session.step(state.as_ref(), &wide)?.host("y")?;
        expect_same(&outputs.host("y")?, &expected)?;
    }
    Ok("4 steps of 2 sizes in 2 sessions".to_owned())
}

fn saved(backend: &dyn Backend) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut model = Model::new(backend, DType::BF16)?;
    model.refit(&Changes::all(&model.parameters))?;
    let (request, step) = (model.request(2)?, model.step(1, 32)?);
    let expected = y_of(model.executable.as_ref(), &request, &step)?;
    let names = model.executable.save(folder.path())?;
    let count = || -> Result<usize> { Ok(std::fs::read_dir(folder.path())?.count()) };
    if count()? != names.len() {
        return Err(format!("{names:?} were named, and {} files are there", count()?).into());
    }
    let options = CompileOptions::default().with_folder(folder.path());
    let again = backend.compile(model.executable.graph(), &options)?;
    again.refit(&Changes::all(&model.parameters))?;
    expect_same(&y_of(again.as_ref(), &request, &step)?, &expected)?;
    if count()? != names.len() {
        return Err("compiling wrote to the folder".into());
    }
    Ok(format!("{} files", names.len()))
}
