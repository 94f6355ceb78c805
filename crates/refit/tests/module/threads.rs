//! Several threads run one module while it changes: no picture has mixed weights, nobody waits
//! for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use tintype_backend::Tensors;
use tintype_refit::{Error, MutableModule, Picture, Signature};
use tintype_tensor::Tensor;

use crate::backend::Spy;
use crate::network::{
    Bits, Inputs, bits, fresh, inputs, lora, module, network, outputs, parameters, random,
    set_loras,
};

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_millis(60);

/// Fails if `work` does not end, instead of waiting with it.
fn within_a_minute(work: impl FnOnce() + Send + 'static) {
    let (tell, told) = channel::<()>();
    let thread = std::thread::spawn(move || {
        let _tell = tell;
        work();
    });
    // An error of the other kind is the end of the thread, good or bad.
    let result = told.recv_timeout(LONG);
    assert_ne!(
        result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout),
        "deadlock"
    );
    thread.join().unwrap();
}

fn signature(inputs: &Inputs) -> Signature {
    Signature::of(&inputs.request).and(&inputs.step)
}

/// Inputs of the steps of one picture.
fn steps() -> Vec<Tensors> {
    let step = |seed| Tensors::new().with("x", random(&[4, 8], seed));
    (70..73).map(step).collect()
}

fn picture_of(picture: &mut Picture<'_>, pause: Duration) -> Vec<Bits> {
    let state = picture.prepare(&inputs(4).request).unwrap();
    let step = |inputs| {
        std::thread::sleep(pause);
        bits(&picture.step(state.as_ref(), &inputs).unwrap())
    };
    steps().into_iter().map(step).collect()
}

fn picture(module: &MutableModule, pause: Duration) -> Vec<Bits> {
    let mut picture = module.picture(&signature(&inputs(4))).unwrap();
    picture_of(&mut picture, pause)
}

/// The two states between which weights are swapped.
fn swap(module: &MutableModule, index: usize) {
    let seed = 1000 + index as u64;
    module
        .change(|change| {
            // Something of each kind, as one change.
            let gain = random(&[16], seed);
            change.parameters_mut().set("gain", gain)?;
            let loras = [
                lora("first.weight", "one", seed, 0.5),
                lora("second.weight", "other", seed, 0.25),
            ];
            crate::network::attach(change, &loras[index..]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_picture_has_mixed_weights_under_two_hundred_swaps() {
    within_a_minute(|| {
        let (module, log) = module(1);
        *log.delay.lock().unwrap() = Duration::from_micros(300);
        let pure: Vec<Vec<Bits>> = (0..2)
            .map(|index| {
                swap(&module, index);
                picture(&module, Duration::ZERO)
            })
            .collect();
        assert_ne!(pure[0], pure[1]);
        let (is_over, counts) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::SeqCst) {
                        let found = picture(&module, Duration::from_micros(100));
                        let index = pure.iter().position(|pure| *pure == found);
                        counts[index.expect("mixed weights")].fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for round in 0..200 {
                swap(&module, round % 2);
                if round % 3 == 0 {
                    module.apply().unwrap();
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            is_over.store(true, Ordering::SeqCst);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::SeqCst) > 0));
        assert_eq!((log.take().0, module.engines()), (1, 1));
    });
}

#[test]
fn a_picture_begins_however_fast_changes_follow() {
    within_a_minute(|| {
        let (module, log) = module(2);
        *log.delay.lock().unwrap() = Duration::from_millis(1);
        outputs(&module, &inputs(4));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let change = |gain: &mut [f32]| gain[0] += 0.001;
                    module.edit().edit("gain", change).unwrap();
                }
            });
            let two = [0, 1].map(|_| {
                scope.spawn(|| (0..25).for_each(|_| drop(picture(&module, Duration::ZERO))))
            });
            for thread in two {
                thread.join().unwrap();
            }
            is_over.store(true, Ordering::SeqCst);
        });
        // Each refit was for a picture.
        assert!(log.take().1 <= 51);
    });
}

#[test]
fn a_change_waits_for_pictures_under_way() {
    within_a_minute(|| {
        let (module, _) = module(3);
        let before = picture(&module, Duration::ZERO);
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            let mut held = module.picture(&signature(&inputs(4))).unwrap();
            let module = &module;
            scope.spawn(move || {
                swap(module, 0);
                tell.send("wanted").unwrap();
                let report = module.apply().unwrap();
                assert!(report.waited >= SOON / 2, "{report}");
                tell.send("brought").unwrap();
            });
            // The change is made at once; its weights wait.
            assert_eq!(told.recv_timeout(LONG), Ok("wanted"));
            assert!(told.recv_timeout(SOON).is_err());
            assert_eq!(picture_of(&mut held, Duration::ZERO), before);
            drop(held);
            assert_eq!(told.recv_timeout(LONG), Ok("brought"));
        });
        assert_ne!(picture(&module, Duration::ZERO), before);
    });
}

#[test]
fn a_thread_that_would_wait_for_itself_gets_an_error() {
    within_a_minute(|| {
        let (module, _) = module(4);
        let signature = signature(&inputs(4));
        let mut held = module.picture(&signature).unwrap();
        let before = picture_of(&mut held, Duration::ZERO);
        // Another one is fine while there is nothing to bring.
        drop(module.picture(&signature).unwrap());
        swap(&module, 1);
        for _ in 0..2 {
            let error = module.picture(&signature).err().unwrap();
            assert!(matches!(error, Error::PictureUnderWay), "{error}");
            assert!(matches!(module.apply(), Err(Error::PictureUnderWay)));
        }
        assert_eq!(picture_of(&mut held, Duration::ZERO), before);
        // The change was not lost.
        drop(held);
        assert_eq!(module.apply().unwrap().refits().count(), 1);
        let after = picture(&module, Duration::ZERO);
        assert_ne!(after, before);
        let expected = fresh(network("silu"), &module.weights(), &inputs(4));
        assert_eq!(outputs(&module, &inputs(4)), expected);
    });
}

/// While another thread waits for it, a thread may ask the module, and begin a second picture.
#[test]
fn a_thread_with_a_picture_is_never_made_to_wait() {
    within_a_minute(|| {
        let (module, _) = module(5);
        let signature = signature(&inputs(4));
        std::thread::scope(|scope| {
            let held = module.picture(&signature).unwrap();
            let old = module.weights();
            let bringing = scope.spawn(|| {
                swap(&module, 0);
                module.apply().unwrap()
            });
            std::thread::sleep(SOON);
            assert!(!bringing.is_finished());
            assert_eq!(module.engines(), 1);
            assert!(module.state().is_ok());
            // Back to what it runs: begins at once, beside the other thread that waits.
            module
                .change(|change| {
                    change.set_weights(old);
                    Ok(())
                })
                .unwrap();
            drop(module.picture(&signature).unwrap());
            drop(held);
            bringing.join().unwrap();
        });
    });
}

#[test]
fn pictures_of_another_engine_wait_for_nobody() {
    within_a_minute(|| {
        let spy = Spy::of_sizes();
        let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(6));
        let module = module.build();
        let (small, large) = (inputs(4), inputs(40));
        let before = picture(&module, Duration::ZERO);
        outputs(&module, &large);
        let mut held = module.picture(&signature(&small)).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                swap(&module, 1);
                outputs(&module, &large)
            });
            let found = other.join().unwrap();
            assert_eq!(found, fresh(network("silu"), &module.weights(), &large));
        });
        assert_eq!(picture_of(&mut held, Duration::ZERO), before);
        drop(held);
        let expected = fresh(network("silu"), &module.weights(), &small);
        assert_eq!(outputs(&module, &small), expected);
    });
}

/// Room for one engine, and two sizes that threads ask for in turn.
#[test]
fn threads_of_two_sizes_share_room_for_one_engine() {
    within_a_minute(|| {
        let spy = Spy::of_sizes();
        let log = spy.log();
        let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(7))
            .most_engines(1)
            .build();
        let sizes = [inputs(4), inputs(40)];
        let expected = sizes.clone().map(|inputs| outputs(&module, &inputs));
        std::thread::scope(|scope| {
            for index in [0, 1, 0, 1] {
                let (module, sizes, expected) = (&module, &sizes, &expected);
                scope.spawn(move || {
                    for _ in 0..20 {
                        assert_eq!(outputs(module, &sizes[index]), expected[index]);
                    }
                });
            }
        });
        assert_eq!((module.engines(), log.executables()), (1, 1));
    });
}

#[test]
fn the_first_call_of_many_threads_compiles_once() {
    within_a_minute(|| {
        let (module, log) = module(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| outputs(&module, &inputs(4)));
            }
        });
        assert_eq!(log.take(), (1, 1, 4));
    });
}

#[test]
fn there_and_back_is_equal_to_the_bit_after_a_hundred_swaps() {
    let (module, log) = module(9);
    let base = outputs(&module, &inputs(4));
    let sets = |index: u64| {
        let scale = Tensor::from_f32([1], vec![0.1 + index as f32]).unwrap();
        let mut first = lora("first.weight", "first", 5, 0.5);
        first.own.set("first.scale", scale).unwrap();
        let others = [
            lora("first.weight", "second", 7, -0.3),
            lora("third.weight", "third", 9, 1.5),
        ];
        let all = [vec![first], others.to_vec()].concat();
        all[(index as usize % 2)..].to_vec()
    };
    let mut seen = [None, None];
    log.take();
    for round in 0..100 {
        let index = round % 2;
        set_loras(&module, &sets(index));
        let found = outputs(&module, &inputs(4));
        let expected = seen[index as usize].get_or_insert_with(|| {
            let expected = fresh(network("silu"), &module.weights(), &inputs(4));
            assert_ne!(expected, base);
            expected
        });
        assert_eq!(found, *expected, "round {round}");
    }
    assert_eq!(log.take().0, 0);
    set_loras(&module, &[]);
    assert_eq!(outputs(&module, &inputs(4)), base);
}
