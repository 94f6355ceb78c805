//! Any text as a graph: refused with an error, or printed and parsed back to the same text, and
//! verified without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(graph) = tintype_ir::parse(text) else {
        return;
    };
    let printed = graph.to_string();
    let again = tintype_ir::parse(&printed).expect("what is printed can be parsed");
    assert_eq!(
        printed,
        again.to_string(),
        "printing and parsing are inverse"
    );
    let _ = tintype_ir::verify(&graph);
});
