//! Several threads run one module while it changes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tintype_refit::{Error, MutableModule};

use super::super::Result;
use super::subject::{
    Adapters, Inputs, Outputs, Subject, expect_other, expect_same, is_same, outputs, steps,
};

/// Threads say what went wrong as text, since errors stay where they are.
type Said<T> = std::result::Result<T, String>;

fn said<T>(result: Result<T>) -> Said<T> {
    result.map_err(|error| error.to_string())
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Said<T>>) -> Said<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err("a thread panicked".to_owned()))
}

fn picture(module: &MutableModule, inputs: &Inputs) -> Result<Outputs> {
    let mut picture = module.picture(&inputs.signature())?;
    steps(&mut picture, inputs, 3)
}

pub(super) fn waiting(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let before = picture(&module, &inputs)?;
    let adapter = subject.adapter("style", 0.3)?;
    let waited = std::thread::scope(|scope| -> Result<Duration> {
        let mut held = module.picture(&inputs.signature())?;
        let thread = scope.spawn(|| {
            let brought = adapter.set(&module).and_then(|()| module.apply());
            said(brought.map_err(Into::into))
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            expect_same(&steps(&mut held, &inputs, 3)?, &before)?;
        }
        if thread.is_finished() {
            return Err("it did not wait".into());
        }
        drop(held);
        Ok(joined(thread)?.waited)
    })?;
    expect_other(&picture(&module, &inputs)?, &before)?;
    subject.expect_fresh(&module, &inputs)?;
    Ok(format!("waited {:.0} ms", waited.as_secs_f64() * 1e3))
}

pub(super) fn swapped(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let sets = [subject.adapter("one", 0.3)?, subject.adapter("other", 0.2)?];
    let mut pure = Vec::new();
    for set in &sets {
        set.set(&module)?;
        pure.push(picture(&module, &inputs)?);
    }
    expect_other(&pure[0], &pure[1])?;
    let (is_over, counts) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
    let run = || -> Said<()> {
        while !is_over.load(Ordering::SeqCst) {
            let found = said(picture(&module, &inputs))?;
            let index = pure.iter().position(|pure| is_same(&found, pure));
            counts[index.ok_or("a picture has mixed weights")?].fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let threads = [(); 4].map(|()| scope.spawn(run));
        let swaps = swaps(&module, &sets);
        is_over.store(true, Ordering::SeqCst);
        for thread in threads {
            joined(thread)?;
        }
        swaps
    })?;
    let [one, other] = counts.map(AtomicUsize::into_inner);
    if one == 0 || other == 0 {
        return Err(format!("{one} pictures of the one, {other} of the other").into());
    }
    Ok(format!("{} pictures", one + other))
}

/// Two hundred, of which some are brought at once.
fn swaps(module: &MutableModule, sets: &[Adapters; 2]) -> Result<()> {
    for round in 0..200 {
        sets[round % 2].set(module)?;
        if round % 3 == 0 {
            module.apply()?;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

pub(super) fn itself(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 16)?);
    let mut held = module.picture(&inputs.signature())?;
    let before = steps(&mut held, &inputs, 1)?;
    subject.adapter("style", 0.3)?.set(&module)?;
    let error = match module.apply() {
        Err(error @ Error::PictureUnderWay) => error.to_string(),
        Err(other) => return Err(other.into()),
        Ok(_) => return Err("it did not wait".into()),
    };
    expect_same(&steps(&mut held, &inputs, 1)?, &before)?;
    drop(held);
    subject.expect_fresh(&module, &inputs)?;
    Ok(error)
}

pub(super) fn fast(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(1, 16)?);
    outputs(&module, &inputs)?;
    let (is_over, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let thread = scope.spawn(|| -> Said<()> {
            while !is_over.load(Ordering::SeqCst) {
                let edit = |bias: &mut [f32]| bias[0] = 1.0 - bias[0];
                let edited = module.edit().edit("out.bias", edit);
                said(edited.map_err(Into::into))?;
                changes.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let pictures = (0..20).try_for_each(|_| picture(&module, &inputs).map(drop));
        is_over.store(true, Ordering::SeqCst);
        joined(thread)?;
        pictures
    })?;
    subject.expect_fresh(&module, &inputs)?;
    Ok(format!("20 pictures, {} changes", changes.into_inner()))
}
