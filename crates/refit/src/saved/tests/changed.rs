//! Checkpoints that are others than when the module was saved.

use std::fs;
use std::time::{Duration, SystemTime};

use super::support::{Bench, input, run, write_tensors};
use crate::{SaveOptions, SavedModule};

/// Changes a file's bytes in place.
fn change(bench: &Bench, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(bench.checkpoint()).unwrap();
    change(&mut bytes);
    // Not in place: another test's, or this one's, mapping must stay whole.
    fs::write(bench.path("new"), bytes).unwrap();
    fs::rename(bench.path("new"), bench.checkpoint()).unwrap();
}

fn set_time(bench: &Bench, time: SystemTime) {
    let file = fs::File::options().write(true).open(bench.checkpoint());
    file.unwrap().set_modified(time).unwrap();
}

fn time(bench: &Bench) -> SystemTime {
    fs::metadata(bench.checkpoint())
        .unwrap()
        .modified()
        .unwrap()
}

#[test]
fn a_checkpoint_that_changed_is_read_as_it_is_now() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(2);
    let before = run(&module, &x);
    module.save(bench.path("saved")).unwrap();
    bench.write_checkpoint();
    set_time(&bench, SystemTime::now() - Duration::from_mins(1));
    let loaded = bench.load("saved").unwrap();
    assert_eq!(loaded.changed.len(), 1);
    assert_eq!(
        loaded.changed[0].path,
        bench.path("saved/../weights.safetensors")
    );
    assert_eq!(loaded.changed[0].what, "the time of modification");
    let after = run(&loaded.module, &x);
    assert_ne!(after, before);
    assert_eq!(run(&bench.module(), &x), after);
    // More tensors than before: the header tells, and what is needed is there.
    let tensors: [(&str, &[usize]); 3] = [("fused", &[8, 4]), ("gain", &[2, 2]), ("new", &[1])];
    write_tensors(&bench.checkpoint(), &tensors);
    let loaded = bench.load("saved").unwrap();
    assert!(loaded.changed[0].what.contains("the size: expected"));
    assert_eq!(run(&loaded.module, &x), run(&bench.module(), &x));
}

#[test]
fn tensors_of_another_shape_or_gone_are_told() {
    let bench = Bench::new();
    bench.module().save(bench.path("saved")).unwrap();
    let error = |tensors: &[(&str, &[usize])]| {
        write_tensors(&bench.checkpoint(), tensors);
        bench.load("saved").unwrap_err().to_string()
    };
    let told = error(&[("fused", &[12, 4]), ("gain", &[2, 2])]);
    let expected = "weights.safetensors: tensor `fused`: expected shape [8, 4], as when the module \
                    was saved, found shape [12, 4]";
    assert!(told.ends_with(expected), "{told}");
    let told = error(&[("fused", &[8, 4])]);
    assert!(
        told.contains("tensor `gain`") && told.ends_with("found none"),
        "{told}"
    );
    fs::write(bench.checkpoint(), "no tensors").unwrap();
    let told = bench.load("saved").unwrap_err().to_string();
    assert!(told.contains("weights.safetensors"), "{told}");
    fs::remove_file(bench.checkpoint()).unwrap();
    let told = bench.load("saved").unwrap_err().to_string();
    assert!(
        told.contains("weights.safetensors: opening failed"),
        "{told}"
    );
}

#[test]
fn a_change_that_only_contents_tell_is_found_by_verify() {
    let bench = Bench::new();
    let module = bench.module();
    module.edit().edit("g", |values| values[0] = 3.0).unwrap();
    let options = SaveOptions::default().with_content_hashes();
    module.save_with(bench.path("saved"), options).unwrap();
    let saved = SavedModule::open(bench.path("saved")).unwrap();
    let verified = saved.verify().unwrap();
    assert_eq!((verified.equal, verified.unknown), (4, 0));
    let before = time(&bench);
    change(&bench, |bytes| *bytes.last_mut().unwrap() ^= 1);
    set_time(&bench, before);
    assert_eq!(bench.load("saved").unwrap().changed, []);
    let told = saved.verify().unwrap_err().to_string();
    assert!(told.contains("weights.safetensors: tensor `"), "{told}");
    assert!(told.contains("expected content of hash"), "{told}");
    let backend = std::sync::Arc::new(tintype_cpu::CpuBackend::new());
    let options = crate::LoadOptions::default().with_verify();
    assert!(saved.load(backend, options).is_err());
}

#[test]
fn a_file_that_was_replaced_before_saving_is_copied() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(1);
    let before = run(&module, &x);
    // The module goes on with the file that it opened.
    let tensors: [(&str, &[usize]); 1] = [("other", &[64])];
    write_tensors(&bench.checkpoint(), &tensors);
    let saved = module.save(bench.path("saved")).unwrap();
    assert_eq!((saved.referred, saved.copied), (0, 4));
    assert_eq!(run(&bench.load("saved").unwrap().module, &x), before);
}
