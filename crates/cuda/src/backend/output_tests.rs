//! Outputs in memory that the caller keeps from step to step.

use super::*;

/// Runs a step into `outputs`; whether that took new memory.
fn run_into(host: &Host, run: &mut Run, inputs: &Tensors, outputs: &mut Tensors) -> bool {
    host.take_log();
    let state = run.state.as_ref();
    run.session.step_into(state, inputs, outputs).unwrap();
    let expected = expected(&run.parameters, &[], &request(1, 5), inputs);
    assert_close(&numbers(outputs), &expected);
    !host.take_log().contains(&"reuse an output".to_owned())
}

fn ready() -> (Arc<Host>, CudaExecutable<Host>, Run) {
    let (host, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let run = Run::new(&executable, weights);
    (host, executable, run)
}

#[test]
fn a_loop_that_gives_its_outputs_back_allocates_nothing() {
    let (host, _executable, mut run) = ready();
    let mut outputs = Tensors::new();
    assert!(run_into(&host, &mut run, &step(2, 0, 5), &mut outputs));
    let used = host.used();
    for index in 0..6 {
        let inputs = step(3 + index as u64, index % 3, 5);
        assert!(!run_into(&host, &mut run, &inputs, &mut outputs));
        assert_eq!(host.used(), used);
        assert_eq!(outputs.iter().count(), 1);
    }
}

#[test]
fn memory_that_others_have_or_of_another_type_is_left_alone() {
    let (host, executable, mut run) = ready();
    let mut outputs = Tensors::new();
    let first = step(2, 0, 5);
    run_into(&host, &mut run, &first, &mut outputs);
    let before = numbers(&outputs);
    let kept = outputs.clone();
    assert!(run_into(&host, &mut run, &step(3, 1, 5), &mut outputs));
    assert_eq!(numbers(&kept), before);
    // As an input of the same step too.
    let again = step(4, 2, 5).with("x", outputs.get("y").unwrap().clone());
    assert!(run_into(&host, &mut run, &again, &mut outputs));
    drop(again);
    assert!(!run_into(&host, &mut run, &step(5, 2, 5), &mut outputs));
    // Of another size, of the host, of another machine, under another name.
    let (other_host, _other, mut other) = ready();
    let mut foreign = Tensors::new();
    run_into(&other_host, &mut other, &first, &mut foreign);
    let small = {
        let mut session = executable.session().unwrap();
        let state = session.prepare(&request(1, 2)).unwrap();
        session.step(state.as_ref(), &step(2, 0, 2)).unwrap()
    };
    let host_tensor = Tensors::new().with("y", tensor(&[5, 4], 1));
    let named = Tensors::new().with("z", outputs.take("y").unwrap());
    for mut given in [foreign, small, host_tensor, named] {
        assert!(run_into(&host, &mut run, &first, &mut given));
        assert_eq!(given.iter().count(), 1);
        assert_eq!(numbers(&given), before);
    }
}

#[test]
fn after_an_error_nothing_half_written_is_there() {
    let (host, _executable, mut run) = ready();
    let mut outputs = Tensors::new();
    run_into(&host, &mut run, &step(2, 0, 5), &mut outputs);
    let before = numbers(&outputs);
    let state = run.state.as_ref();
    let failed = run.session.step_into(state, &step(2, 0, 6), &mut outputs);
    assert!(failed.is_err());
    assert_eq!(numbers(&outputs), before, "refused before it began");
}
