//! Where parameters wait between refits: what is read, moved and held, and that a way there and
//! back gives the same bits.

use std::collections::{HashMap, HashSet};

use tintype_backend::KeepWeights;

use super::*;

/// Memory beside which every reserve is small.
const VAST: usize = 1 << 40;

const SIZE: usize = 64;

fn keeping(keep: KeepWeights) -> (Arc<Host>, CudaExecutable<Host>) {
    let options = CompileOptions::default().with_keep_weights(keep);
    with_options(Host::new(VAST), &options)
}

/// What is added to `b` before anything reads it.
fn update(seed: u64) -> (Overlay, Parameters) {
    let text = "graph o { param @base: f32[4, 4] param @delta: f32[4, 4] \
                %0: f32[4, 4] = add @base, @delta output base = %0 }";
    let overlay = Overlay::new("b", parse(text).unwrap()).unwrap();
    let delta = Parameters::builder().tensor("delta", tensor(&[4, 4], seed));
    (overlay, delta.build().unwrap())
}

fn with_update(weights: &Parameters, delta: &Parameters) -> Parameters {
    let all = Parameters::builder().parameters(weights).parameters(delta);
    all.build().unwrap()
}

/// The bits that a step gives, and how often parameters were read from their files.
fn outcome(host: &Host, executable: &dyn Executable) -> (Vec<u32>, Vec<String>) {
    let log = host.take_log().into_iter();
    let reads = log.filter(|line| line.starts_with("read ")).collect();
    let mut session = executable.session().unwrap();
    let state = session.prepare(&request(1, 5)).unwrap();
    let found = session.step(state.as_ref(), &step(2, 1, 5)).unwrap();
    host.take_log();
    let bits = numbers(&found).into_iter().map(f32::to_bits).collect();
    (bits, reads)
}

/// Loads, then puts the update on and takes it off; what each refit moved and read.
fn switch(keep: KeepWeights, rounds: usize) -> Vec<(usize, Vec<String>)> {
    let (host, executable) = keeping(keep);
    let weights = parameters(1, 2);
    let mut found = Vec::new();
    let report = executable.refit(&Changes::all(&weights)).unwrap();
    let (bare, reads) = outcome(&host, &executable);
    found.push((report.moved, reads));
    let mut merged = None;
    let (overlay, delta) = update(7);
    let (all, overlays) = (with_update(&weights, &delta), [overlay]);
    for _ in 0..rounds {
        let changes = Changes::all(&all).with_overlays(&overlays);
        let report = executable.refit(&changes.only_names(["b"])).unwrap();
        assert_eq!(report.weights, 2);
        let (bits, reads) = outcome(&host, &executable);
        assert_ne!(bits, bare);
        assert_eq!(*merged.get_or_insert(bits.clone()), bits, "{keep}");
        found.push((report.moved, reads));
        let changes = Changes::all(&weights).only_names(["b"]);
        let report = executable.refit(&changes).unwrap();
        let (bits, reads) = outcome(&host, &executable);
        assert_eq!(bits, bare, "{keep}");
        found.push((report.moved, reads));
    }
    // All weights; what is kept of `b` and the update, and of `a` nothing, as it was never read
    // again.
    let beside = match keep {
        KeepWeights::Device | KeepWeights::Auto => 2 * SIZE,
        KeepWeights::Host | KeepWeights::Disk => 0,
    };
    assert_eq!(host.used(), 3 * SIZE + beside);
    drop(executable);
    assert_eq!(host.used(), 0);
    found
}

fn reads(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("read {name}")).collect()
}

#[test]
fn on_the_device_a_switch_reads_no_base() {
    for keep in [KeepWeights::Device, KeepWeights::Auto] {
        let found = switch(keep, 50);
        assert_eq!(found[0], (2 * SIZE, reads(&["a", "b"])));
        assert_eq!(found[1], (SIZE, reads(&["delta"])), "the update alone");
        for refit in &found[2..] {
            assert_eq!(*refit, (0, reads(&[])), "what was there once");
        }
    }
}

/// Two updates in turn, as of two LoRAs, and neither: what each of the refits from the second on
/// allocated.
fn allocations(keep: KeepWeights, rounds: usize) -> Vec<usize> {
    let (host, executable) = keeping(keep);
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let updates = ["one", "other"].map(|name| {
        let text = format!(
            "graph o {{ param @base: f32[4, 4] param @{name}: f32[4, 4] \
             %0: f32[4, 4] = add @base, @{name} output base = %0 }}"
        );
        let overlay = Overlay::new("b", parse(&text).unwrap()).unwrap();
        let own = Parameters::builder().tensor(name, tensor(&[4, 4], name.len() as u64));
        (vec![overlay], with_update(&weights, &own.build().unwrap()))
    });
    let mut bits: HashMap<usize, Vec<u32>> = HashMap::new();
    let mut found = Vec::new();
    for round in 0..rounds {
        let turn = round % 3;
        let before = host.allocations();
        let changes = match updates.get(turn) {
            Some((overlays, all)) => Changes::all(all).with_overlays(overlays),
            None => Changes::all(&weights),
        };
        executable.refit(&changes.only_names(["b"])).unwrap();
        found.push(host.allocations() - before);
        let (now, _) = outcome(&host, &executable);
        assert_eq!(
            *bits.entry(turn).or_insert(now.clone()),
            now,
            "{keep} {round}"
        );
    }
    let different: HashSet<_> = bits.values().collect();
    assert_eq!(different.len(), 3);
    found
}

#[test]
fn swaps_allocate_nothing_once_everything_was_there() {
    for keep in [KeepWeights::Device, KeepWeights::Auto] {
        let found = allocations(keep, 30);
        // The new values of both weights, and the update; the second update; nothing.
        assert_eq!(found[..3], [3, 1, 0], "{keep}");
        assert!(
            found[3..].iter().all(|&count| count == 0),
            "{keep}: {found:?}"
        );
    }
    // Only what is read: base and update, or the base for two weights, of which one is the base.
    for keep in [KeepWeights::Host, KeepWeights::Disk] {
        let found = allocations(keep, 30);
        for turn in found[3..].chunks(3) {
            assert_eq!(turn, [2, 2, 1], "{keep}");
        }
    }
}

#[test]
fn on_the_host_a_base_is_read_once_and_moved_each_time() {
    let found = switch(KeepWeights::Host, 3);
    assert_eq!(found[1], (2 * SIZE, reads(&["b", "delta"])));
    assert_eq!(found[2], (SIZE, reads(&[])));
    assert_eq!(found[3], (2 * SIZE, reads(&["delta"])));
}

#[test]
fn on_disk_a_base_is_read_each_time() {
    let found = switch(KeepWeights::Disk, 3);
    for pair in found[1..].chunks(2) {
        assert_eq!(pair[0], (2 * SIZE, reads(&["b", "delta"])));
        assert_eq!(pair[1], (SIZE, reads(&["b"])));
    }
}

#[test]
fn where_memory_is_short_nothing_more_is_kept() {
    let (host, executable) = keeping(KeepWeights::Device);
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let (bare, _) = outcome(&host, &executable);
    let (overlay, delta) = update(7);
    let (all, overlays) = (with_update(&weights, &delta), [overlay]);
    // Room for new weights beside the old ones, then for less.
    for room in [1000, 100] {
        host.set_total(host.used() + super::super::exchange::RESERVE + room);
        let changes = Changes::all(&all).with_overlays(&overlays);
        executable.refit(&changes.only_names(["b"])).unwrap();
        assert_eq!(host.used(), 3 * SIZE, "{room}");
        let changes = Changes::all(&weights).only_names(["b"]);
        executable.refit(&changes).unwrap();
        host.set_total(VAST);
        assert_eq!(outcome(&host, &executable).0, bare);
    }
}

#[test]
fn a_changed_parameter_is_read_again() {
    let (host, executable) = keeping(KeepWeights::Device);
    let mut weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    host.take_log();
    let (overlay, delta) = update(7);
    let overlays = [overlay];
    for seed in 3..9 {
        weights.set("b", tensor(&[4, 4], seed)).unwrap();
        let all = with_update(&weights, &delta);
        let (attached, names) = if seed % 2 == 0 {
            // What overlays bring stays.
            let names: &[&str] = if seed == 4 { &["b", "delta"] } else { &["b"] };
            (&overlays[..], names)
        } else {
            (&[][..], &["b"][..])
        };
        let changes = || Changes::all(&all).with_overlays(attached);
        executable.refit(&changes().only_names(["b"])).unwrap();
        let (bits, found) = outcome(&host, &executable);
        assert_eq!(found, reads(names));
        let (fresh_host, fresh) = keeping(KeepWeights::Disk);
        fresh.refit(&changes()).unwrap();
        assert_eq!(outcome(&fresh_host, &fresh).0, bits);
        assert!(host.used() <= 5 * SIZE, "nothing stale stays");
    }
}

#[test]
fn states_that_hold_weights_and_failures_keep_bases_whole() {
    let (host, executable) = keeping(KeepWeights::Device);
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let (bare, _) = outcome(&host, &executable);
    let (overlay, delta) = update(7);
    let (all, overlays) = (with_update(&weights, &delta), [overlay]);
    let on = || {
        let changes = Changes::all(&all).with_overlays(&overlays);
        executable.refit(&changes.only_names(["b"]))
    };
    let off = || executable.refit(&Changes::all(&weights).only_names(["b"]));
    let mut held = Run::new(&executable, weights.clone());
    for _ in 0..3 {
        on().unwrap();
        held.check(1);
        off().unwrap();
        held.check(2);
    }
    drop(held);
    for _ in 0..3 {
        on().unwrap();
        off().unwrap();
        assert_eq!(outcome(&host, &executable).0, bare);
    }
    // A write that fails once: the old weights come again from the files.
    host.overwrites_left.store(0, Ordering::Relaxed);
    assert!(matches!(on(), Err(Error::Poisoned { .. })));
    host.overwrites_left.store(usize::MAX, Ordering::Relaxed);
    off().unwrap();
    assert_eq!(outcome(&host, &executable).0, bare);
    host.fails
        .lock()
        .unwrap()
        .insert("second.weight".to_owned());
    assert!(on().is_err());
    host.fails.lock().unwrap().clear();
    assert_eq!(outcome(&host, &executable).0, bare);
    on().unwrap();
    off().unwrap();
    assert_eq!(outcome(&host, &executable).0, bare);
    // Now new values are computed where the old ones are, and some were written before it failed.
    host.fails
        .lock()
        .unwrap()
        .insert("second.weight".to_owned());
    let error = on().unwrap_err();
    assert!(error.to_string().contains("cannot be computed"), "{error}");
    assert_eq!(outcome(&host, &executable).0, bare);
    on().unwrap();
    off().unwrap();
    assert_eq!(outcome(&host, &executable).0, bare);
    // Three weights, what is kept of `b`, and the update.
    assert_eq!(host.used(), 5 * SIZE);
}

#[test]
fn what_auto_keeps_makes_room_for_what_must_run() {
    for keep in [KeepWeights::Auto, KeepWeights::Device] {
        let (host, executable) = keeping(keep);
        let weights = parameters(1, 2);
        executable.refit(&Changes::all(&weights)).unwrap();
        let (overlay, delta) = update(7);
        let (all, overlays) = (with_update(&weights, &delta), [overlay]);
        let changes = Changes::all(&all).with_overlays(&overlays);
        executable.refit(&changes.only_names(["b"])).unwrap();
        assert_eq!(host.used(), 5 * SIZE);
        // Another graph that fits only without what is kept.
        let staged = StagedGraph::split(&parse(LAYERS).unwrap()).unwrap();
        let options = CompileOptions::default();
        let machine = Arc::clone(&host);
        let other = CudaExecutable::new(machine, staged, Arc::new(NoEvaluator), &options);
        // Loading takes its parameters and weights, of which one is both.
        host.set_total(host.used() + 3 * SIZE + SIZE / 2);
        let loaded = other.refit(&Changes::all(&parameters(3, 4)));
        assert_eq!(loaded.is_ok(), keep == KeepWeights::Auto, "{loaded:?}");
        host.set_total(VAST);
        // Only time is lost.
        let changes = Changes::all(&weights).only_names(["b"]);
        executable.refit(&changes).unwrap();
        Run::new(&executable, weights).check(1);
    }
}
