//! What is kept, where, and that nothing kept is ever written or stale; on numbers for tensors.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tintype_tensor::Tensor;

use super::*;

/// A tensor of one number.
#[derive(Clone)]
struct Fake(Rc<(u64, RefCell<f32>, usize)>);

impl Fake {
    fn new(value: f32) -> Self {
        Self::of_bytes(4, value)
    }

    fn of_bytes(bytes: usize, value: f32) -> Self {
        thread_local!(static NEXT: Cell<u64> = const { Cell::new(1) });
        let address = NEXT.with(|next| next.replace(next.get() + 1));
        Self(Rc::new((address, RefCell::new(value), bytes)))
    }

    fn value(&self) -> f32 {
        *self.0.1.borrow()
    }
}

impl KeptTensor for Fake {
    fn address(&self) -> u64 {
        self.0.0
    }

    fn byte_len(&self) -> usize {
        self.0.2
    }

    fn is_alone(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

type Kept = KeptParameters<Fake, Tensor>;

fn kept(policy: KeepWeights, sharing: Sharing) -> Kept {
    let text = "graph g { param @a: f32[] param @b: f32[] output a = @a output b = @b }";
    Kept::new(policy, sharing, &tintype_ir::parse(text).unwrap())
}

fn parameters(a: f32, b: f32) -> Parameters {
    let builder = Parameters::builder().tensor("a", Tensor::scalar(a));
    builder.tensor("b", Tensor::scalar(b)).build().unwrap()
}

fn key(parameters: &Parameters, name: &str) -> KeptKey {
    KeptKey::new(parameters, name, DType::F32).unwrap()
}

fn on_device(kept: &Kept, parameters: &Parameters, name: &str) -> Option<Fake> {
    match kept.find(name, &key(parameters, name)) {
        Some(KeptPlace::Device(tensor)) => Some(tensor),
        Some(KeptPlace::Host(_)) => panic!("on the host"),
        None => None,
    }
}

/// Writes as a machine does.
fn write_over(kept: &Kept, old: &Fake, new: &Fake, grows: bool) -> Option<WriteOver> {
    let mut done = None;
    let write = |how| {
        let value = match how {
            WriteOver::Copy => new.value(),
            WriteOver::Exchange => new.0.1.replace(old.value()),
        };
        old.0.1.replace(value);
        done = Some(how);
        Ok::<(), String>(())
    };
    kept.write_over([old, new], grows, write).unwrap();
    done
}

fn wish(kept: &Kept, pending: usize, free: usize) -> Wish {
    kept.wish("a", pending, || Ok::<_, String>(free)).unwrap()
}

const MUCH: usize = usize::MAX;

#[test]
fn the_place_follows_policy_phase_and_room() {
    use KeepWeights::{Auto, Device, Disk, Host};
    use Sharing::{Nothing, Weights};
    for (policy, sharing, loading, then) in [
        (Device, Weights, Wish::IfWeight, Wish::Device),
        (Auto, Weights, Wish::IfWeight, Wish::Device),
        (Device, Nothing, Wish::Leave, Wish::Device),
        (Host, Weights, Wish::Leave, Wish::Host),
        (Disk, Weights, Wish::Leave, Wish::Leave),
    ] {
        let kept = kept(policy, sharing);
        assert_eq!(wish(&kept, 0, MUCH), loading, "{policy}");
        kept.settle(&parameters(1.0, 2.0));
        assert_eq!(wish(&kept, 0, MUCH), then, "{policy}");
        assert_eq!(kept.takes("a"), policy != Disk);
        // What overlays bring waits nowhere but on the device, from the first run on.
        let is_on_device = matches!(policy, Device | Auto);
        assert_eq!(kept.takes("factor"), is_on_device);
        if is_on_device {
            let wish = kept.wish("factor", 0, || Ok::<_, String>(MUCH));
            assert_eq!(wish, Ok(Wish::Device));
        }
    }
    for (policy, reserve) in [(Device, DEVICE_RESERVE), (Auto, AUTO_RESERVE)] {
        let kept = kept(policy, Nothing);
        kept.settle(&parameters(1.0, 2.0));
        assert_eq!(wish(&kept, 0, reserve), Wish::Device);
        assert_eq!(wish(&kept, 0, reserve - 1), Wish::Leave);
        // Weights that are still to come need their memory.
        assert_eq!(wish(&kept, 100, reserve + 99), Wish::Leave);
        assert_eq!(wish(&kept, 100, reserve + 100), Wish::Device);
        assert_eq!(wish(&kept, usize::MAX, usize::MAX), Wish::Device);
        let failed = kept.wish("a", 0, || Err("no driver"));
        assert_eq!(failed, Err("no driver"));
    }
}

#[test]
fn a_host_that_pins_no_more_leaves_the_rest_in_files() {
    let kept = kept(KeepWeights::Host, Sharing::Nothing);
    let parameters = parameters(1.0, 2.0);
    kept.settle(&parameters);
    kept.keep_pinned("a", key(&parameters, "a"), 4, Tensor::scalar(1.0f32));
    kept.stop_pinning(&"the system says no");
    assert_eq!(wish(&kept, 0, MUCH), Wish::Leave);
    let found = kept.find("a", &key(&parameters, "a"));
    assert!(matches!(found, Some(KeptPlace::Host(_))));
    assert_eq!(kept.usage().host, 4);
    kept.clear();
    assert_eq!(kept.usage(), KeptUsage::default());
}

#[test]
fn a_changed_parameter_is_never_served() {
    let kept = kept(KeepWeights::Device, Sharing::Nothing);
    let mut now = parameters(1.0, 2.0);
    kept.keep("a", key(&now, "a"), Fake::new(1.0));
    kept.keep("b", key(&now, "b"), Fake::new(2.0));
    let before = now.clone();
    // The same value, set again: nobody knows that without reading.
    now.set("a", Tensor::scalar(1.0f32)).unwrap();
    assert!(on_device(&kept, &now, "a").is_none());
    assert!(on_device(&kept, &before, "a").is_some());
    let half = KeptKey::new(&now, "b", DType::F16).unwrap();
    assert!(kept.find("b", &half).is_none(), "of another dtype");
    kept.settle(&now);
    assert!(on_device(&kept, &before, "a").is_none());
    assert_eq!(on_device(&kept, &now, "b").unwrap().value(), 2.0);
    // Another file under the same names.
    kept.settle(&parameters(1.0, 2.0));
    assert_eq!(kept.usage(), KeptUsage::default());
    // One tensor under two names is two parameters: their weights may change apart.
    let same = |name: &str| (name == "a").then(|| "b".to_owned());
    let other = now.renamed(same).unwrap();
    assert_eq!(key(&other, "b"), key(&now, "a"));
    kept.keep("a", key(&now, "a"), Fake::new(1.0));
    assert!(on_device(&kept, &other, "b").is_none());
}

#[test]
fn a_switch_there_and_back_never_writes_a_parameter() {
    let kept = kept(KeepWeights::Device, Sharing::Weights);
    let parameters = parameters(1.0, 2.0);
    // The load: both weights are parameters as they are.
    let weights = [Fake::new(1.0), Fake::new(2.0)];
    kept.keep("a", key(&parameters, "a"), weights[0].clone());
    kept.keep("b", key(&parameters, "b"), weights[1].clone());
    kept.settle(&parameters);
    assert_eq!((kept.usage().shared, kept.usage().device), (8, 0));
    for round in 0..100 {
        let base = on_device(&kept, &parameters, "a").unwrap();
        assert_eq!(base.value(), 1.0);
        let merged = Fake::new(base.value() + 10.0);
        drop(base);
        let how = write_over(&kept, &weights[0], &merged, true);
        let first = round == 0;
        let expected = if first {
            WriteOver::Exchange
        } else {
            WriteOver::Copy
        };
        assert_eq!(how, Some(expected));
        drop(merged);
        kept.settle(&parameters);
        assert_eq!(weights[0].value(), 11.0);
        // Memory is paid for what changed alone.
        assert_eq!((kept.usage().shared, kept.usage().device), (4, 4));
        // Back: the new value is the parameter itself, and stays where it is.
        let base = on_device(&kept, &parameters, "a").unwrap();
        let how = write_over(&kept, &weights[0], &base, true);
        assert_eq!((how, weights[0].value()), (Some(WriteOver::Copy), 1.0));
    }
    // A weight that did not change at all.
    let same = on_device(&kept, &parameters, "b").unwrap();
    assert_eq!(write_over(&kept, &weights[1], &same, true), None);
}

#[test]
fn without_room_the_parameter_under_a_new_weight_is_let_go() {
    let kept = kept(KeepWeights::Auto, Sharing::Weights);
    let parameters = parameters(1.0, 2.0);
    let weight = Fake::new(1.0);
    kept.keep("a", key(&parameters, "a"), weight.clone());
    let how = write_over(&kept, &weight, &Fake::new(5.0), false);
    assert_eq!((how, weight.value()), (Some(WriteOver::Copy), 5.0));
    assert!(on_device(&kept, &parameters, "a").is_none());
    // One that was not written knows nothing either.
    kept.keep("a", key(&parameters, "a"), weight.clone());
    let failed = kept.write_over([&weight, &Fake::new(6.0)], true, |_| Err("gone"));
    assert_eq!(failed, Err("gone"));
    assert!(on_device(&kept, &parameters, "a").is_none());
}

#[test]
fn a_new_version_shares_the_memory_of_the_weight_again() {
    let kept = kept(KeepWeights::Device, Sharing::Weights);
    let (old, new) = (parameters(1.0, 2.0), parameters(3.0, 2.0));
    let weight = Fake::new(1.0);
    kept.keep("b", key(&old, "b"), weight.clone());
    // Read and kept by this run under another name: what comes is kept, what was there goes.
    let arrived = Fake::new(3.0);
    kept.keep("a", key(&new, "a"), arrived.clone());
    let how = write_over(&kept, &weight, &arrived, true);
    drop(arrived);
    assert_eq!((how, weight.value()), (Some(WriteOver::Copy), 3.0));
    let found = on_device(&kept, &new, "a").unwrap();
    assert_eq!(found.address(), weight.address());
    assert!(on_device(&kept, &old, "b").is_none());
    drop(found);
    assert_eq!((kept.usage().shared, kept.usage().device), (4, 0));
    // And is kept whole when that weight changes next.
    let how = write_over(&kept, &weight, &Fake::new(9.0), true);
    assert_eq!(how, Some(WriteOver::Exchange));
    assert_eq!(on_device(&kept, &new, "a").unwrap().value(), 3.0);
}

#[test]
fn a_parameter_that_is_replaced_by_its_next_version_goes() {
    let kept = kept(KeepWeights::Device, Sharing::Weights);
    let (old, new) = (parameters(1.0, 2.0), parameters(3.0, 4.0));
    let weight = Fake::new(1.0);
    kept.keep("a", key(&old, "a"), weight.clone());
    let arrived = Fake::new(3.0);
    // The same name: the earlier version is forgotten at once.
    kept.keep("a", key(&new, "a"), arrived.clone());
    assert!(on_device(&kept, &old, "a").is_none());
    assert_eq!(
        write_over(&kept, &weight, &arrived, true),
        Some(WriteOver::Copy)
    );
    assert_eq!(weight.value(), 3.0);
    assert_eq!(on_device(&kept, &new, "a").unwrap().value(), 3.0);
}

#[test]
fn what_overlays_bring_stays_until_others_need_its_room() {
    let kept = kept(KeepWeights::Device, Sharing::Weights);
    let names = ["up", "down", "third"];
    let own = |value: f32| {
        let tensors = names.iter();
        let builder = tensors.fold(Parameters::builder(), |builder, name| {
            builder.tensor(*name, Tensor::scalar(value))
        });
        builder.build().unwrap()
    };
    let (first, second, bare) = (own(1.0), own(2.0), parameters(1.0, 2.0));
    let keep = |parameters: &Parameters, name: &str| {
        let factor = Fake::of_bytes(OVERLAY_BYTES / 2, 1.0);
        kept.keep(name, key(parameters, name), factor);
    };
    keep(&first, "up");
    keep(&first, "down");
    // Its overlay goes: it is no parameter any more, and waits all the same.
    kept.settle(&bare);
    assert!(on_device(&kept, &first, "up").is_some());
    // The same name of another file is another.
    assert!(on_device(&kept, &second, "up").is_none());
    kept.settle(&bare);
    // `up` was looked for last.
    assert!(on_device(&kept, &first, "up").is_some());
    keep(&second, "third");
    kept.settle(&bare);
    assert!(on_device(&kept, &first, "down").is_none());
    assert!(on_device(&kept, &first, "up").is_some());
    assert!(on_device(&kept, &second, "third").is_some());
    assert_eq!(kept.usage().device, OVERLAY_BYTES);
}

#[test]
fn weights_in_which_nothing_is_kept_may_be_written_while_parameters_are_read() {
    let kept = kept(KeepWeights::Device, Sharing::Weights);
    let parameters = parameters(1.0, 2.0);
    let (weight, other) = (Fake::new(1.0), Fake::new(2.0));
    let both = [weight.address(), other.address()];
    assert!(kept.lies_outside(both));
    kept.keep("a", key(&parameters, "a"), weight.clone());
    assert!(!kept.lies_outside(both));
    assert!(kept.lies_outside([other.address()]));
    // By the exchange of a first change it gets memory of its own.
    let new = Fake::new(9.0);
    let how = write_over(&kept, &weight, &new, true);
    assert_eq!(how, Some(WriteOver::Exchange));
    assert!(kept.lies_outside(both));
}
