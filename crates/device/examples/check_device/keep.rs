//! Parameters that wait between runs: updates go on and off to the bit, whatever is kept where,
//! and nothing is uploaded that waits on the device.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tintype_backend::KeepWeights;
use tintype_cpu::CpuEvaluator;
use tintype_device::{
    CudaTensor, InPlace, Keeping, KeptParameters, KeptTensor, Sharing, WeightProgram, WriteOver,
};
use tintype_ir::Graph;
use tintype_tensor::DType;
use tintype_weights::Parameters;

use crate::programs::{adapters, config, transformer};
use crate::{Bench, Result};

/// Weights in memory that stays where it is, and what they are computed from.
struct Module<'a> {
    store: KeptParameters,
    parameters: &'a Parameters,
    weights: HashMap<String, CudaTensor>,
}

pub(crate) fn check(bench: &mut Bench) {
    for dtype in [DType::BF16, DType::F32] {
        for policy in KeepWeights::ALL {
            let name = format!("updates on and off in {dtype}, parameters kept: {policy}");
            let result = switch(bench, dtype, policy);
            bench.report.result(&name, result);
        }
    }
}

fn switch(bench: &mut Bench, dtype: DType, policy: KeepWeights) -> Result<String> {
    let config = config();
    let adapters = adapters(&config, &mut bench.generator)?;
    let bare = transformer(&config, dtype, &[], &mut bench.generator)?.graph;
    let merged = transformer(&config, dtype, &adapters, &mut bench.generator)?;
    let (merged, parameters) = (&merged.graph, &merged.parameters);
    let disk = KeptParameters::new(KeepWeights::Disk, Sharing::Nothing, &bare);
    let (bare_weights, all) = run(bench, &bare, parameters, &disk, None)?;
    let (merged_weights, _) = run(bench, merged, parameters, &disk, None)?;
    let expected = [bits(bench, &bare_weights)?, bits(bench, &merged_weights)?];
    let mut module = Module {
        store: KeptParameters::new(policy, Sharing::Weights, &bare),
        parameters,
        weights: HashMap::new(),
    };
    module.weights = run(bench, &bare, parameters, &module.store, None)?.0;
    module.store.settle(parameters);
    let mut moved = Vec::new();
    for round in 0..6 {
        let is_merged = round % 2 == 0;
        let graph = if is_merged { merged } else { &bare };
        moved.push(module.refit(bench, graph)?);
        if bits(bench, &module.weights)? != expected[usize::from(is_merged)] {
            return Err(format!("other bits in round {round}").into());
        }
    }
    let last = moved[5];
    let is_right = match policy {
        // Constants come from the host each time.
        KeepWeights::Device => last < all / 100,
        KeepWeights::Host | KeepWeights::Disk => last == all,
        // As much as fits.
        KeepWeights::Auto => last <= all,
    };
    if !is_right {
        return Err(format!("{moved:?} bytes were uploaded, all are {all}").into());
    }
    Ok(format!(
        "{moved:?} bytes uploaded, {:?}",
        module.store.usage()
    ))
}

impl Module<'_> {
    /// Writes the weights of a program over those that are there, or computes them there if no
    /// parameter is; gives the bytes uploaded.
    fn refit(&self, bench: &mut Bench, graph: &Arc<Graph>) -> Result<u64> {
        let addresses = self.weights.values().map(KeptTensor::address);
        let over = self.store.lies_outside(addresses).then_some(&self.weights);
        let (new, uploaded) = run(bench, graph, self.parameters, &self.store, over)?;
        let stream = bench.runner.stream().clone();
        let mut seen = HashSet::new();
        for (name, old) in &self.weights {
            let pair = [old, &new[name]];
            if !seen.insert(pair.map(KeptTensor::address)) {
                continue;
            }
            let [to, from] = pair.map(CudaTensor::buffer);
            let whole = 0..old.byte_len();
            self.store.write_over(pair, true, |how| match how {
                WriteOver::Copy => to.copy_from(0, from, whole, &stream),
                WriteOver::Exchange => to.exchange(from, whole, &stream),
            })?;
        }
        stream.synchronize()?;
        drop(new);
        self.store.settle(self.parameters);
        Ok(uploaded)
    }
}

fn run(
    bench: &mut Bench,
    graph: &Arc<Graph>,
    parameters: &Parameters,
    store: &KeptParameters,
    over: Option<&HashMap<String, CudaTensor>>,
) -> Result<(HashMap<String, CudaTensor>, u64)> {
    let (grows, is_begun) = (true, AtomicBool::new(false));
    let program = WeightProgram {
        graph,
        parameters,
        wanted: None,
        evaluator: &CpuEvaluator,
        kept: Some(Keeping { store, grows }),
        in_place: over.map(|weights| InPlace {
            weights,
            is_begun: &is_begun,
        }),
    };
    let mut weights = HashMap::new();
    let report = bench.runner.run(&program, &mut |name, tensor| {
        weights.insert(name.to_owned(), tensor);
        Ok(())
    })?;
    bench.runner.stream().synchronize()?;
    Ok((weights, report.uploaded))
}

fn bits(bench: &Bench, weights: &HashMap<String, CudaTensor>) -> Result<Vec<Vec<u8>>> {
    let stream = bench.device.new_stream()?;
    let tensors: BTreeMap<_, _> = weights.iter().collect();
    let tensors = tensors.into_values();
    let bytes = tensors.map(|tensor| Ok(tensor.download(&stream)?.bytes().to_vec()));
    bytes.collect()
}
