//! Loading and running.

use std::io::{Cursor, Seek};
use std::sync::Arc;

use tintype_device::DeviceBuffer;
use tintype_tensorrt::engine::{Allocation, ContextOptions, Specialization, Validity};

use super::{
    Bench, ROWS, Result, WIDTH, expect_close, expect_error, expect_same, random, upload, y_of,
};

pub(super) fn loading(bench: &Bench) -> Result<String> {
    let whole = bench.runtime.engine(&bench.plan)?;
    let mut framed = b"a header of some bytes".to_vec();
    let start = framed.len() as u64;
    framed.extend_from_slice(&bench.plan);
    let mut reader = Cursor::new(framed);
    reader.seek(std::io::SeekFrom::Start(start))?;
    let streamed = bench.runtime.engine_from(reader)?;
    if whole.tensors() != streamed.tensors() || whole.layer_count()? != streamed.layer_count()? {
        return Err("the two engines differ".into());
    }
    let shapes = whole.profile_shapes("x", 0)?;
    if shapes != ROWS.map(|rows| vec![rows, WIDTH as i64]) {
        return Err(format!("the profile is {shapes:?}").into());
    }
    Ok(format!(
        "{} bytes of weights, {} not in the plan, {} bytes for a context",
        whole.weight_bytes()?,
        whole.stripped_bytes()?,
        whole.context_bytes(None)?
    ))
}

pub(super) fn validity(bench: &Bench) -> Result<String> {
    let len = bench.runtime.header_len()?;
    let validity = bench.runtime.validity(&bench.plan[..len])?;
    // On a GPU that is not in the list the library may say that it will not run.
    let other = bench.runtime.validity(&vec![0; len])?;
    match other {
        Validity::Invalid { reasons } => Ok(format!("{validity:?}; zeros: {reasons:?}")),
        other => Err(format!("zeros are {other:?}").into()),
    }
}

pub(super) fn inspector(bench: &Bench) -> Result<String> {
    let (engine, _) = bench.engine()?;
    let inspector = engine.inspector()?;
    let json = inspector.engine_json()?;
    if !json.trim_start().starts_with('{') || !json.contains("Layers") {
        return Err(format!("no layers in {json}").into());
    }
    inspector.layer_json(0)?;
    Ok(format!("{} layers", engine.layer_count()?))
}

pub(super) fn sizes(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let mut context = engine.context(&ContextOptions::default())?;
    let mut worst = 0.0_f64;
    for rows in [64, 7, 256, 7] {
        let x = random(rows as u64, [rows, WIDTH])?;
        context.set_input("x", &upload(&x, &stream)?)?;
        if context.output_sizes("y")? != [rows, WIDTH] {
            return Err("the output has other sizes".into());
        }
        let y = context.enqueue(&stream)?["y"].download(&stream)?;
        worst = worst.max(expect_close(&y, &bench.expected(&x)?)?);
    }
    Ok(format!("relative error {worst:.1e}"))
}

pub(super) fn outputs(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let mut context = engine.context(&ContextOptions::default())?;
    let x = random(3, [64, WIDTH])?;
    context.set_input("x", &upload(&x, &stream)?)?;
    let bytes = 64 * WIDTH * 2;
    let small = Arc::new(DeviceBuffer::allocate(&stream, bytes - 1)?);
    context.set_output("y", Some(small))?;
    expect_error(context.enqueue(&stream), "memory of")?;
    // Of another stream, so that its memory is waited for.
    let buffer = DeviceBuffer::allocate(&bench.device.new_stream()?, bytes)?;
    let buffer = Arc::new(buffer);
    context.set_output("y", Some(buffer.clone()))?;
    for _ in 0..3 {
        let outputs = context.enqueue(&stream)?;
        if outputs["y"].buffer().address() != buffer.address() {
            return Err("the output is elsewhere".into());
        }
        expect_close(&outputs["y"].download(&stream)?, &bench.expected(&x)?)?;
    }
    Ok(String::new())
}

pub(super) fn memory(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let options = ContextOptions {
        allocation: Allocation::Caller,
        ..ContextOptions::default()
    };
    let mut context = engine.context(&options)?;
    let x = random(4, [64, WIDTH])?;
    context.set_input("x", &upload(&x, &stream)?)?;
    let needed = context.needed_bytes()?;
    if needed > 0 {
        expect_error(context.enqueue(&stream), "memory of the context")?;
        let small = DeviceBuffer::allocate(&stream, needed - 1)?;
        context.set_memory(Arc::new(small))?;
        expect_error(context.enqueue(&stream), "memory of the context")?;
    }
    context.set_memory(Arc::new(DeviceBuffer::allocate(&stream, needed)?))?;
    let y = context.enqueue(&stream)?["y"].download(&stream)?;
    expect_close(&y, &bench.expected(&x)?)?;
    Ok(format!(
        "{needed} of at most {} bytes",
        engine.context_bytes(Some(0))?
    ))
}

pub(super) fn threads(bench: &Bench) -> Result<String> {
    let (engine, _) = bench.engine()?;
    let work = |seed: u64| -> std::result::Result<(), String> {
        let run = || -> Result<()> {
            let stream = bench.device.new_stream()?;
            let mut context = engine.context(&ContextOptions::default())?;
            for round in 0..20 {
                let x = random(seed + round, [64, WIDTH])?;
                context.set_input("x", &upload(&x, &stream)?)?;
                let y = context.enqueue(&stream)?["y"].download(&stream)?;
                expect_close(&y, &bench.expected(&x)?)?;
            }
            Ok(())
        };
        run().map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| {
        let threads = [100, 200].map(|seed| scope.spawn(move || work(seed)));
        for thread in threads {
            thread.join().expect("no check panics")?;
        }
        Ok(String::new())
    })
}

pub(super) fn streams(bench: &Bench) -> Result<String> {
    let (engine, _) = bench.engine()?;
    let mut context = engine.context(&ContextOptions::default())?;
    for seed in 0..10 {
        let (one, two) = (bench.device.new_stream()?, bench.device.new_stream()?);
        let x = random(seed, [64, WIDTH])?;
        context.set_input("x", &upload(&x, &one)?)?;
        let outputs = context.enqueue(&two)?;
        expect_close(&outputs["y"].download(&one)?, &bench.expected(&x)?)?;
    }
    Ok(String::new())
}

pub(super) fn drops(bench: &Bench) -> Result<String> {
    let runtime = bench.runtime.tensorrt().runtime(&bench.device)?;
    let engine = runtime.engine(&bench.plan)?;
    let stream = bench.device.new_stream()?;
    let mut refitter = engine.refitter()?;
    let mut context = engine.context(&ContextOptions::default())?;
    drop((runtime, engine));
    for (name, weights) in super::NAMES.into_iter().zip(&bench.weights) {
        refitter.set(name, &upload(weights, &stream)?)?;
    }
    refitter.refit(&stream)?;
    drop(refitter);
    let x = random(5, [64, WIDTH])?;
    context.set_input("x", &upload(&x, &stream)?)?;
    let outputs = context.enqueue(&stream)?;
    // While the run is under way.
    drop(context);
    expect_close(&outputs["y"].download(&stream)?, &bench.expected(&x)?)?;
    Ok(String::new())
}

pub(super) fn runtime_cache(bench: &Bench) -> Result<String> {
    if !bench.runtime.tensorrt().has_runtime_cache() {
        return Ok("this library has none".to_owned());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("kernels");
    let x = random(6, [64, WIDTH])?;
    let mut times = Vec::new();
    for is_there in [false, true] {
        let (engine, stream) = bench.engine()?;
        let cache = engine.runtime_cache()?;
        if cache.load(&path)? != is_there {
            return Err(format!("the file was taken: {}", !is_there).into());
        }
        let start = std::time::Instant::now();
        let options = ContextOptions {
            runtime_cache: Some(cache.clone()),
            ..ContextOptions::default()
        };
        let mut context = engine.context(&options)?;
        context.set_input("x", &upload(&x, &stream)?)?;
        let y = context.enqueue(&stream)?["y"].download(&stream)?;
        times.push(start.elapsed());
        expect_close(&y, &bench.expected(&x)?)?;
        cache.save(&path)?;
    }
    std::fs::write(&path, "no cache")?;
    let (engine, _) = bench.engine()?;
    if engine.runtime_cache()?.load(&path)? {
        return Err("a damaged file was taken".into());
    }
    Ok(format!(
        "first run {:?}, with the file {:?}",
        times[0], times[1]
    ))
}

pub(super) fn options(bench: &Bench) -> Result<String> {
    let (engine, stream) = bench.engine()?;
    let x = random(7, [64, WIDTH])?;
    let expected = y_of(&engine, &x, &stream)?;
    if !bench.runtime.tensorrt().has_runtime_cache() {
        return Ok("this library has none of them".to_owned());
    }
    for specialization in [
        Specialization::Lazy,
        Specialization::Eager,
        Specialization::Never,
    ] {
        let options = ContextOptions {
            specialization: Some(specialization),
            cuda_graphs: true,
            ..ContextOptions::default()
        };
        let mut context = engine.context(&options)?;
        context.set_input("x", &upload(&x, &stream)?)?;
        let buffer = DeviceBuffer::allocate(&stream, 64 * WIDTH * 2)?;
        context.set_output("y", Some(Arc::new(buffer)))?;
        for _ in 0..4 {
            let y = context.enqueue(&stream)?["y"].download(&stream)?;
            expect_close(&y, &expected)?;
        }
    }
    expect_same(&y_of(&engine, &x, &stream)?, &expected, true)?;
    Ok(String::new())
}
