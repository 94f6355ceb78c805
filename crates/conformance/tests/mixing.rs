//! Several LoRAs on one model, mixed with scales, against sums in f64.
//!
//! What single files mean is in `loras`; here it is what becomes of three at once, of scales by
//! block, and of changes back and forth.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use tintype_ir::{Graph, GraphBuilder, Overlay, TensorType};
use tintype_lora::{
    AdapterScale, Blocks, BoundAdapter, Component, LoraFile, LoraModel, LoraTarget, Mixed, Mixer,
    Update,
};
use tintype_tensor::{DType, TorchGenerator};
use tintype_weights::Parameters;

const FILES: [&str; 3] = ["peft_all", "xlabs", "kohya_full"];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn base() -> Parameters {
    Parameters::open(fixtures().join("pipelines/dev/transformer")).unwrap()
}

/// A graph that gives each parameter back, so that overlays show.
fn identity(parameters: &Parameters, dtype: DType) -> Graph {
    let mut b = GraphBuilder::new("identity");
    for name in parameters.names() {
        let shape = parameters.shape(name).unwrap().to_vec();
        let value = b.parameter(name, TensorType::new(dtype, shape));
        b.output(name, value);
    }
    b.finish().unwrap()
}

struct Bench {
    base: Parameters,
    graph: Graph,
    model: LoraModel,
    adapters: Vec<Arc<BoundAdapter>>,
    files: Vec<LoraFile>,
}

impl Bench {
    fn new(dtype: DType) -> Self {
        let base = base();
        let graph = identity(&base, dtype);
        let model = LoraModel::of_outputs(Component::Transformer, &graph);
        let open = |name| LoraFile::open(fixtures().join(format!("loras/{name}.safetensors")));
        let files: Vec<LoraFile> = FILES.iter().map(|name| open(name).unwrap()).collect();
        let bind = |(name, file): (&&str, _)| BoundAdapter::new(&model, name, file).unwrap();
        let adapters = FILES.iter().zip(&files).map(bind).map(Arc::new).collect();
        Self {
            base,
            graph,
            model,
            adapters,
            files,
        }
    }

    fn mix(&self, mixer: &mut Mixer, scales: &[AdapterScale]) -> Mixed {
        let adapters = self.adapters.iter().cloned();
        let scaled: Vec<_> = adapters.zip(scales.iter().cloned()).collect();
        mixer.mix(&self.model, &scaled).unwrap()
    }

    /// All parameters with what lies on them, as stored.
    fn weights(&self, mixed: &Mixed) -> BTreeMap<String, Vec<u8>> {
        let attached = Overlay::attach(&self.graph, &mixed.overlays).unwrap();
        let all = Parameters::builder().parameters(&self.base);
        let all = all.parameters(&mixed.parameters).build().unwrap();
        let outputs = tintype_cpu::run(&attached, &all, &[]).unwrap();
        let outputs = outputs.iter();
        outputs
            .map(|(name, value)| (name.to_owned(), value.to_host().unwrap().bytes().to_vec()))
            .collect()
    }

    /// The same in f64, by the formula.
    fn expected(&self, scales: &[AdapterScale]) -> BTreeMap<String, Vec<f64>> {
        let read = |name| self.base.get(name).unwrap().to_f32_vec().unwrap();
        let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for name in self.base.names() {
            sums.insert(
                name.to_owned(),
                read(name).into_iter().map(f64::from).collect(),
            );
        }
        for (file, scale) in self.files.iter().zip(scales) {
            for target in file.targets() {
                let factor = f64::from(scale.of(target)) * f64::from(target.factor);
                add(
                    sums.get_mut(&target.parameter).unwrap(),
                    file,
                    target,
                    factor,
                );
            }
        }
        sums
    }
}

/// Adds `factor · up · down` of a plain update.
fn add(sum: &mut [f64], file: &LoraFile, target: &LoraTarget, factor: f64) {
    let Update::LowRank { down, up } = &target.update else {
        panic!("{}: {}", target.parameter, target.update.kind())
    };
    assert!(target.magnitude.is_none());
    let read = |key: &str| file.tensors().get(key).unwrap().to_f32_vec().unwrap();
    let (rank, columns) = (down.shape[0], down.shape[1]);
    let (down, up) = (read(&down.key), read(&up.key));
    let rows = target.rows;
    let half = rows.stored / 2;
    for (index, value) in sum.iter_mut().enumerate() {
        let (mut row, column) = (rows.start + index / columns, index % columns);
        if rows.swapped {
            row = (row + half) % rows.stored;
        }
        let terms = (0..rank)
            .map(|k| f64::from(up[row * rank + k]) * f64::from(down[k * columns + column]));
        *value += factor * terms.sum::<f64>();
    }
}

fn random_scales() -> Vec<AdapterScale> {
    let seed = RandomState::new().build_hasher().finish();
    println!("seed {seed}");
    let mut generator = TorchGenerator::new(seed);
    let values = generator.randn([3, 3]).unwrap().to_f32_vec().unwrap();
    let scale = |values: &[f32]| {
        AdapterScale::new(values[0])
            .blocks(Blocks::Double, 1.., values[1])
            .block(Blocks::Single, 0, values[2])
    };
    values.chunks(3).map(scale).collect()
}

#[test]
fn three_at_once_are_the_sum() {
    let bench = Bench::new(DType::F32);
    let scales = random_scales();
    let found = bench.weights(&bench.mix(&mut Mixer::default(), &scales));
    let mut changed = 0;
    for (name, expected) in bench.expected(&scales) {
        let found = found[&name]
            .chunks(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let (mut error, mut norm) = (0.0, 0.0);
        for (found, expected) in found.zip(&expected) {
            error += (f64::from(found) - expected).powi(2);
            norm += expected.powi(2);
        }
        assert!(
            error.sqrt() <= 1e-6 * norm.sqrt().max(1e-3),
            "{name}: {error:e} of {norm:e}"
        );
        let before = bench.base.get(&name).unwrap();
        changed += usize::from(
            before
                .to_f32()
                .unwrap()
                .iter()
                .zip(&expected)
                .any(|(a, b)| f64::from(*a) != *b),
        );
    }
    assert!(changed > 40, "{changed}");
}

#[test]
fn back_is_bit_equal_whatever_came_between() {
    let bench = Bench::new(DType::BF16);
    let mut mixer = Mixer::default();
    let [one, two, other] = [random_scales(), random_scales(), random_scales()];
    let first = bench.mix(&mut mixer, &one);
    let weights = bench.weights(&first);
    for between in [&two, &other, &vec![AdapterScale::new(0.0); 3]] {
        let mixed = bench.mix(&mut mixer, between);
        assert!(bench.weights(&mixed) != weights);
        let again = bench.mix(&mut mixer, &one);
        assert!(bench.weights(&again) == weights);
        assert_eq!(again.overlays, first.overlays);
    }
    // A mixer that knows nothing yet agrees.
    let fresh = bench.mix(&mut Mixer::default(), &one);
    assert!(bench.weights(&fresh) == weights);
}

#[test]
fn what_stays_keeps_its_generation() {
    let bench = Bench::new(DType::F32);
    let mut mixer = Mixer::default();
    let scales = |first: f32| {
        [
            AdapterScale::new(first),
            AdapterScale::new(0.5),
            AdapterScale::new(0.0),
        ]
    };
    let before = bench.mix(&mut mixer, &scales(1.0));
    let same = bench.mix(&mut mixer, &scales(1.0));
    assert!(Arc::ptr_eq(&before.overlays, &same.overlays));
    assert!(before.parameters.is_same(&same.parameters));
    let after = bench.mix(&mut mixer, &scales(2.0));
    assert!(Arc::ptr_eq(&before.overlays, &after.overlays));
    let changes = after.parameters.changes_from(&before.parameters);
    assert!(changes.added.is_empty() && changes.removed.is_empty());
    let updates = bench.files[0].targets().len();
    assert_eq!(changes.changed.len(), updates);
    let is_scale = |name: &String| {
        let rest = name.strip_prefix("lora.peft_all.");
        rest.is_some_and(|rest| rest.strip_suffix(".scale").is_some())
    };
    assert!(changes.changed.iter().all(is_scale));
    // One block alone: its scales alone.
    let mut only = scales(2.0);
    only[0] = only[0].clone().block(Blocks::Double, 0, 3.0);
    let in_block = bench.mix(&mut mixer, &only);
    let changes = in_block.parameters.changes_from(&after.parameters);
    assert!(
        changes
            .changed
            .iter()
            .all(|name| name.contains(".transformer_blocks.0."))
    );
}

#[test]
fn a_scale_of_zero_is_no_overlay() {
    let bench = Bench::new(DType::BF16);
    let mut mixer = Mixer::default();
    let off = bench.mix(&mut mixer, &vec![AdapterScale::new(0.0); 3]);
    assert!(off.overlays.is_empty() && off.parameters.is_empty());
    // In all blocks but one, what lies elsewhere is left out too.
    let but_one = AdapterScale::new(1.0)
        .component(Component::Transformer, 1.0)
        .blocks(Blocks::Double, .., 0.0)
        .blocks(Blocks::Single, .., 0.0)
        .block(Blocks::Single, 1, 1.0);
    let off = AdapterScale::new(0.0);
    let mixed = bench.mix(&mut mixer, &[but_one, off.clone(), off]);
    // Nor does it speak of what lies outside of all blocks.
    let is_there = |overlay: &Overlay| {
        let name = overlay.parameter();
        name.starts_with("single_transformer_blocks.1.") || !name.contains("transformer_blocks.")
    };
    assert!(mixed.overlays.len() > 4 && mixed.overlays.iter().all(is_there));
    assert!(
        mixed
            .parameters
            .names()
            .all(|name| name.starts_with("lora.peft_all."))
    );
}
