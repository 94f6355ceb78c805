//! Steps without the weights that the request program alone reads: `first`, 64 bytes.

use tintype_backend::KeepWeights;

use super::*;

fn freeing(frees: bool) -> (Arc<Host>, CudaExecutable<Host>) {
    // Nothing is kept beside the weights, so that bytes can be counted.
    let options = CompileOptions::default()
        .with_keep_weights(KeepWeights::Disk)
        .with_freed_request_weights(frees);
    with_options(Host::new(LARGE), &options)
}

#[test]
fn weights_of_the_request_go_with_the_first_step_and_come_back() {
    let weights = parameters(1, 2);
    let used = |frees: bool| {
        let (host, executable) = freeing(frees);
        executable.refit(&Changes::all(&weights)).unwrap();
        let loaded = host.used();
        let mut run = Run::new(&executable, weights.clone());
        run.check(0);
        run.check(1);
        let in_steps = host.used();
        host.take_log();
        // Another request needs them beside the states that are there.
        let other = run.session.prepare(&request(9, 5)).unwrap();
        let log = host.take_log();
        let read = ["a", "b"].map(|name| log.contains(&format!("read {name}")));
        assert_eq!(read, [frees, false], "{log:?}");
        drop(other);
        let prepared = host.used();
        run.check(2);
        let again = host.used();
        drop(run);
        drop(executable);
        assert_eq!(host.used(), 0);
        [loaded, in_steps, prepared, again]
    };
    let (all, fewer) = (used(false), used(true));
    assert_eq!(all[0], 3 * 64);
    let freed = [0, 1, 2, 3].map(|index| all[index] - fewer[index]);
    assert_eq!(freed, [0, 64, 0, 64]);
}

#[test]
fn a_refit_is_whole_while_weights_are_away() {
    let (_, executable) = freeing(true);
    executable.refit(&Changes::all(&parameters(1, 2))).unwrap();
    let mut old = Run::new(&executable, parameters(1, 2));
    old.check(0);
    for (a, b, names) in [(3, 2, "a"), (3, 4, "b")] {
        let weights = parameters(a, b);
        let changes = Changes::all(&weights).only_names([names]);
        executable.refit(&changes).unwrap();
        let mut new = Run::new(&executable, weights);
        new.check(0);
        // The state from before has the weights from before.
        old.check(1);
        new.check(2);
    }
    drop(old);
    // In place, with nobody there and weights away.
    let weights = parameters(5, 6);
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut new = Run::new(&executable, weights);
    new.check(0);
    new.check(1);
}

#[test]
fn graphs_are_captured_once_for_all_states_of_a_request() {
    let (host, executable) = freeing(true);
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    let states = [request(1, 5), request(9, 5)].map(|inputs| session.prepare(&inputs).unwrap());
    for index in [0, 1, 2] {
        for state in &states {
            session.step(state.as_ref(), &step(3, index, 5)).unwrap();
        }
    }
    let captures = host.take_log().into_iter().filter(|line| line == "capture");
    assert!(captures.count() <= 2);
}
