//! Compiled forms: made once, found by the next process, cleaned up.

use std::fs;
use std::sync::Arc;

use tintype_backend::Tensors;

use super::support::{Bench, Compiling, graph, input, run};
use crate::{Done, LoadOptions, Loaded, MutableModule, Ranges, State};

fn module(bench: &Bench, backend: &Arc<Compiling>) -> MutableModule {
    MutableModule::builder(backend.clone(), graph(), bench.parameters())
        .ranges(Ranges::new().symbol("n", 2..=4))
        .build()
}

fn load(bench: &Bench, backend: &Arc<Compiling>) -> Loaded {
    let options = LoadOptions::default();
    MutableModule::load(bench.path("saved"), backend.clone(), options).unwrap()
}

#[test]
fn nothing_is_compiled_again() {
    let bench = Bench::new();
    let backend = Compiling::new("compiling");
    let module = module(&bench, &backend);
    let (small, large) = (input(3), input(9));
    let before = (run(&module, &small), run(&module, &large));
    assert_eq!((backend.count(), module.engines()), (2, 2));
    let saved = module.save(bench.path("saved")).unwrap();
    assert_eq!(saved.compiled, 2);
    let other = Compiling::new("compiling");
    let loaded = load(&bench, &other);
    assert_eq!(loaded.module.state().unwrap(), State::NeedsRefit);
    let made: Vec<String> = loaded.report.done.iter().map(ToString::to_string).collect();
    assert!(
        made[0].contains("for n = 2..=4") && made[1].contains("n = 9"),
        "{made:?}"
    );
    let call = loaded.module.call(&Tensors::new(), &large).unwrap();
    assert!(
        matches!(&*call.report.done, [Done::Refitted(_)]),
        "{}",
        call.report
    );
    assert_eq!(run(&loaded.module, &small), before.0);
    assert_eq!(run(&loaded.module, &large), before.1);
    assert_eq!(other.count(), 0);
}

#[test]
fn where_compiled_forms_are_gone_the_ranges_are_kept() {
    let bench = Bench::new();
    let backend = Compiling::new("compiling");
    let module = module(&bench, &backend);
    // Out of what is declared: ranges of its own.
    let x = input(9);
    let before = run(&module, &x);
    module.save(bench.path("saved")).unwrap();
    fs::remove_dir_all(bench.path("saved/compiled")).unwrap();
    let loaded = load(&bench, &backend).module;
    assert_eq!(
        (loaded.engines(), loaded.state().unwrap()),
        (0, State::NeedsCompile)
    );
    assert_eq!(run(&loaded, &x), before);
    assert_eq!(backend.count(), 2);
    assert_eq!(
        crate::engine::lock(&loaded.engines)[0].told_ranges(),
        "n = 9"
    );
}

#[test]
fn another_backend_compiles_for_itself() {
    let bench = Bench::new();
    let backend = Compiling::new("compiling");
    let module = module(&bench, &backend);
    let x = input(2);
    let before = run(&module, &x);
    module.save(bench.path("saved")).unwrap();
    let other = Compiling::new("another");
    let loaded = load(&bench, &other);
    assert_eq!(loaded.module.state().unwrap(), State::NeedsCompile);
    assert_eq!(run(&loaded.module, &x), before);
}

#[test]
fn files_that_are_no_longer_needed_go_and_others_stay() {
    let bench = Bench::new();
    let backend = Compiling::new("compiling");
    let saved = module(&bench, &backend);
    run(&saved, &input(2));
    saved.edit().edit("g", |values| values[0] = 2.0).unwrap();
    saved.save(bench.path("saved")).unwrap();
    let (names, forms) = (bench.names("saved"), bench.names("saved/compiled"));
    assert_eq!((names.len(), forms.len()), (4, 1), "{names:?} {forms:?}");
    for name in [
        "mine",
        "graph-mine.txt",
        "changed-mine.safetensors",
        ".tintype-new-x",
    ] {
        fs::write(bench.path("saved").join(name), "").unwrap();
    }
    fs::write(bench.path("saved/compiled/theirs"), "").unwrap();
    let other = module(&bench, &backend);
    run(&other, &input(9));
    other.save(bench.path("saved")).unwrap();
    let left = bench.names("saved");
    for name in names.iter().filter(|name| name.starts_with("changed")) {
        assert!(!left.contains(name), "{left:?}");
    }
    assert!(left.contains(&"mine".to_owned()) && left.contains(&"graph-mine.txt".to_owned()));
    assert!(!left.contains(&".tintype-new-x".to_owned()));
    let left = bench.names("saved/compiled");
    assert!(
        left.contains(&"theirs".to_owned()) && !left.contains(&forms[0]),
        "{left:?}"
    );
}

#[test]
fn many_may_save_into_one_folder_at_once() {
    let bench = Bench::new();
    let backend = Compiling::new("compiling");
    let modules: Vec<_> = (2..6).map(|_| module(&bench, &backend)).collect();
    let x = input(2);
    std::thread::scope(|scope| {
        for (index, module) in modules.iter().enumerate() {
            let (x, bench) = (&x, &bench);
            scope.spawn(move || {
                for round in 0..5 {
                    let value = (index * 8 + round) as f32;
                    module.edit().edit("g", |values| values[0] = value).unwrap();
                    run(module, x);
                    module.save(bench.path("saved")).unwrap();
                    bench.load("saved").unwrap();
                }
            });
        }
    });
    assert_eq!(bench.names("saved").len(), 4);
    let loaded = bench.load("saved").unwrap().module;
    let found = run(&loaded, &x);
    assert!(modules.iter().any(|module| run(module, &x) == found));
}
