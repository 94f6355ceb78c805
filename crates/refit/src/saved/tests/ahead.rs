//! Folders that were compiled ahead.

use std::fs;

use super::support::{Bench, Compiling, form, graph, input, run};
use crate::{Ahead, LoadOptions, SavedModule, State};

#[test]
fn what_was_compiled_ahead_is_found_and_added_to() {
    let bench = Bench::new();
    let folder = bench.path("saved");
    let graph = graph();
    let compiled = SavedModule::compiled_folder(&folder);
    fs::create_dir_all(&compiled).unwrap();
    let backend = Compiling::new("compiling");
    // As the backend would be given it.
    let narrowed = graph.narrowed(&[("n".into(), 1..=4)].into()).unwrap();
    let staged = tintype_backend::programs_for(backend.as_ref(), &narrowed).unwrap();
    let names = [form(&staged.source)];
    fs::write(compiled.join(&names[0]), "compiled").unwrap();
    let ranges = crate::Ranges::new().symbol("n", 1..=4);
    let ahead = Ahead::new(&graph, "compiling")
        .ranges(&ranges)
        .compiled(&names);
    assert_eq!(ahead.save(&folder).unwrap().compiled, 1);
    let parameters = bench.parameters();
    let with = ahead.clone().parameters(Some(&parameters));
    assert_eq!(with.save(&folder).unwrap().referred, 4);
    // Another target: what was there stays.
    fs::write(compiled.join("other"), "compiled").unwrap();
    let other = ["other".to_owned()];
    let saved = Ahead::new(&graph, "another")
        .compiled(&other)
        .save(&folder)
        .unwrap();
    assert_eq!((saved.compiled, saved.referred), (2, 4));
    let saved = SavedModule::open(&folder).unwrap();
    let listed: Vec<_> = saved
        .compiled()
        .map(|file| (file.backend, file.name))
        .collect();
    assert_eq!(listed, [("compiling", &*names[0]), ("another", "other")]);
    assert_eq!(saved.verify().unwrap().compiled, 2);
    let loaded = saved
        .load(backend.clone(), LoadOptions::default())
        .unwrap()
        .module;
    assert_eq!(loaded.state().unwrap(), State::NeedsRefit);
    let x = input(3);
    assert_eq!(run(&loaded, &x), run(&bench.module(), &x));
    assert_eq!(backend.count(), 0);
    run(&loaded, &input(5));
    assert_eq!(backend.count(), 1, "out of the ranges");
    // Another graph: nothing of the old stays.
    let text = "graph g { input step %x: f32[2] output y = %x }";
    let graph = tintype_ir::parse(text).unwrap();
    let saved = Ahead::new(&graph, "compiling").save(&folder).unwrap();
    assert_eq!((saved.compiled, saved.referred), (0, 0));
    assert_eq!(bench.names("saved/compiled").len(), 0);
}
