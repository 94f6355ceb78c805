//! Saved and loaded by different processes, killed at any moment, and what loading reads.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use super::support::{Bench, addition, input, run, values};
use crate::{LoadOptions, MutableModule};

/// What a child process does; a test of its own does nothing.
#[test]
fn child() {
    let Some(work) = std::env::var_os(WORK) else {
        return;
    };
    let root = std::env::var_os(ROOT).unwrap();
    let root = Path::new(&root);
    match work.to_str().unwrap() {
        "load" => {
            let module = load(root);
            let x = Parameters::open(root.join("x.safetensors")).unwrap();
            let x = Tensors::new().with("x", x.get("x").unwrap());
            let call = module.call(&Tensors::new(), &x).unwrap();
            assert_eq!(call.report.compilations(), 0);
            println!("\nfound {:?}", bits(&call.outputs.host("y").unwrap()));
        }
        "save" => {
            let module = load(root);
            println!("\nready");
            for round in 0.. {
                let value = 1.0 + round as f32;
                module
                    .edit()
                    .edit("g", |values| values.fill(value))
                    .unwrap();
                module
                    .edit()
                    .edit("b", |values| values[15] = value)
                    .unwrap();
                module.save(root.join("saved")).unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

fn load(root: &Path) -> MutableModule {
    let backend = Arc::new(CpuBackend::new());
    let options = LoadOptions::default();
    MutableModule::load(root.join("saved"), backend, options)
        .unwrap()
        .module
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.to_f32_vec().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn spawn(work: &str, root: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "saved::tests::process::child", "--nocapture"])
        .env(WORK, work)
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn another_process_computes_the_same_bits() {
    let bench = Bench::new();
    let module = bench.module();
    let delta = Tensor::from_f32([4, 4], values(16)).unwrap();
    let own = Parameters::builder()
        .tensor("delta", delta)
        .build()
        .unwrap();
    let overlaid = module.change(|change| {
        change.set_overlays([addition()], own);
        Ok(())
    });
    overlaid.unwrap();
    module.edit().edit("b", |values| values[5] += 1e-3).unwrap();
    let x = input(3);
    let call = module.call(&Tensors::new(), &x).unwrap();
    module.save(bench.path("saved")).unwrap();
    let x = x.host("x").unwrap();
    let bytes = x.to_f32_vec().unwrap();
    let bytes: Vec<u8> = bytes.into_iter().flat_map(f32::to_le_bytes).collect();
    let view = safetensors::tensor::TensorView::new(
        safetensors::tensor::Dtype::F32,
        x.shape().to_vec(),
        &bytes,
    );
    let tensors = [("x", view.unwrap())];
    safetensors::serialize_to_file(tensors, None, &bench.path("x.safetensors")).unwrap();
    let mut child = spawn("load", bench.root.path());
    let mut told = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{told}");
    let expected = format!("found {:?}", bits(&call.outputs.host("y").unwrap()));
    assert!(
        told.lines().any(|line| line == expected),
        "{told}\n{expected}"
    );
}

/// What the child that saves edits.
fn edited(module: &MutableModule) -> Vec<f32> {
    let parameters = module.weights().parameters;
    let (g, b) = (parameters.get("g").unwrap(), parameters.get("b").unwrap());
    let mut values = g.to_f32_vec().unwrap();
    values.push(b.to_f32_vec().unwrap()[15]);
    values
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(1);
    run(&module, &x);
    module.save(bench.path("saved")).unwrap();
    let first = edited(&module);
    for round in 0..12u64 {
        let mut child = spawn("save", bench.root.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"));
        std::thread::sleep(Duration::from_micros(900 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let loaded = bench.load("saved").unwrap().module;
        let found = edited(&loaded);
        // Both were set to one value before each save.
        let is_whole = found.iter().all(|value| *value == found[0]);
        assert!(is_whole || found == first, "{found:?}");
    }
    // What kills left behind goes with the next save.
    module.save(bench.path("saved")).unwrap();
    let names = bench.names("saved");
    assert_eq!(names.len(), 3, "{names:?}");
}

/// Pages of files and memory that this process holds.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn loading_reads_no_weights() {
    let bench = Bench::new();
    let rows = 1 << 17;
    let header = format!(
        "{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{rows},1024],\"data_offsets\":[0,{}]}}}}",
        rows * 4096
    );
    // Half a gigabyte of holes.
    let file = std::fs::File::create(bench.path("large.safetensors")).unwrap();
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend(header.as_bytes());
    std::io::Write::write_all(&mut &file, &head).unwrap();
    file.set_len(head.len() as u64 + rows * 4096).unwrap();
    let text = format!(
        "graph g {{ param @a: f32[{rows}, 1024] input step %x: f32[1, 1024] \
         %0: f32[1, {rows}] = linear %x, @a output y = %0 }}"
    );
    let parameters = Parameters::open(bench.path("large.safetensors")).unwrap();
    let graph = tintype_ir::parse(&text).unwrap();
    let backend = Arc::new(CpuBackend::new());
    let before = resident();
    let module = MutableModule::builder(backend, graph, parameters).build();
    module.save(bench.path("saved")).unwrap();
    let loaded = bench.load("saved").unwrap();
    let held = resident().saturating_sub(before);
    assert!(held < 128 << 20, "{held} bytes");
    drop(loaded);
}

const WORK: &str = "TINTYPE_TEST_WORK";
const ROOT: &str = "TINTYPE_TEST_ROOT";
