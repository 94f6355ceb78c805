//! Weight programs on host memory: parameters are read, kept and shared with weights as on a GPU.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tintype_device::{Error as DeviceError, KeptKey, KeptPlace, KeptTensor, Wish};
use tintype_ir::{StagedGraph, Value};
use tintype_tensor::Tensor;

use super::super::machine::{Computed, KeepingOn, Over, WeightJob};
use super::{Host, HostTensor, reference};
use crate::{Error, Result};

/// What a run has brought to the device.
#[derive(Default)]
struct Brought {
    tensors: HashMap<String, HostTensor>,
    /// Those that are kept if they are weights.
    candidates: HashMap<String, KeptKey>,
    moved: usize,
}

impl Host {
    pub(super) fn compute_weights(
        &self,
        job: &WeightJob<'_>,
        over: Option<&Over<'_, Self>>,
        kept: KeepingOn<'_, Self>,
    ) -> Result<Computed<Self>> {
        let mut names: Vec<&str> = job.wanted.iter().copied().collect();
        names.sort_unstable();
        self.note(format!("compute {}", names.join(" ")));
        self.expect_computable(&names, over)?;
        let brought = RefCell::new(Brought::default());
        for parameter in job.program.parameters() {
            let name = parameter.name.as_str();
            let reached = StagedGraph::reached_weights(job.program, &HashSet::from([name]));
            if reached.iter().any(|weight| job.wanted.contains(weight)) {
                self.bring(job, name, kept, &mut brought.borrow_mut())?;
            }
        }
        let parameter = |name: &str| match brought.borrow().tensors.get(name) {
            Some(tensor) => self.host_tensor(tensor),
            None => job.parameters.get(name).expect("it was checked"),
        };
        let outputs = reference::run(job.program, &parameter, &|_| unreachable!("no inputs"));
        let mut brought = brought.into_inner();
        let named = names.into_iter().map(|name| {
            let mut found = job.program.outputs().iter();
            let output = found.find(|output| output.name == name).expect("wanted");
            let tensor = match output.value {
                Value::Parameter(index) => {
                    brought.as_weight(&job.program.parameters()[index].name, kept)
                }
                _ => self.computed(&outputs[name], name, over)?,
            };
            Ok((name.to_owned(), tensor))
        });
        let weights = named.collect::<Result<_>>()?;
        if over.is_some_and(|over| over.is_begun.load(Ordering::Relaxed)) {
            self.count_write()?;
        }
        let moved = brought.moved;
        Ok(Computed { weights, moved })
    }

    /// An error for a weight that shall fail. Where others lie they may have been written before it;
    /// that happens once, so that what was there can be computed again.
    fn expect_computable(&self, names: &[&str], over: Option<&Over<'_, Self>>) -> Result<()> {
        let mut fails = self.fails.lock().unwrap();
        let Some(name) = names.iter().find(|name| fails.contains(**name)) else {
            return Ok(());
        };
        if let Some(over) = over {
            over.is_begun.store(true, Ordering::Relaxed);
            for weight in names.iter().map(|name| &over.weights[*name]) {
                let garbage = vec![0xff; weight.byte_len()];
                self.heap.write(weight.address(), &garbage);
            }
            fails.remove(*name);
        }
        Err(Error::unsupported(name, "it cannot be computed"))
    }

    /// A new value, in the memory of an old one or its own.
    fn computed(
        &self,
        value: &Tensor,
        name: &str,
        over: Option<&Over<'_, Self>>,
    ) -> Result<HostTensor> {
        let Some(over) = over else {
            return self.tensor(value);
        };
        over.is_begun.store(true, Ordering::Relaxed);
        let old = &over.weights[name];
        self.heap.write(old.address(), value.bytes());
        Ok(old.clone())
    }

    fn bring(
        &self,
        job: &WeightJob<'_>,
        name: &str,
        kept: KeepingOn<'_, Self>,
        brought: &mut Brought,
    ) -> Result<()> {
        let tensor = job.parameters.get(name).map_err(DeviceError::from)?;
        let key = KeptKey::new(job.parameters, name, tensor.dtype());
        let key = key.map_err(DeviceError::from)?;
        let found = kept.store.takes(name).then(|| kept.store.find(name, &key));
        let on_device = match found.flatten() {
            Some(KeptPlace::Device(tensor)) => tensor,
            Some(KeptPlace::Host(pinned)) => self.moved(&pinned, brought)?,
            None => {
                self.note(format!("read {name}"));
                let wish = if kept.grows && kept.store.takes(name) {
                    kept.store
                        .wish(name, 0, || Ok::<_, Error>(self.heap.free()))?
                } else {
                    Wish::Leave
                };
                let on_device = self.moved(&tensor, brought)?;
                match wish {
                    Wish::Device => kept.store.keep(name, key, on_device.clone()),
                    Wish::Host => {
                        let bytes = tensor.bytes().len();
                        drop::<Arc<_>>(kept.store.keep_pinned(name, key, bytes, tensor));
                    }
                    Wish::IfWeight => _ = brought.candidates.insert(name.to_owned(), key),
                    Wish::Leave => {}
                }
                on_device
            }
        };
        brought.tensors.insert(name.to_owned(), on_device);
        Ok(())
    }

    fn moved(&self, tensor: &Tensor, brought: &mut Brought) -> Result<HostTensor> {
        brought.moved += tensor.bytes().len();
        self.tensor(tensor)
    }

    fn host_tensor(&self, tensor: &HostTensor) -> Tensor {
        let bytes = self.heap.bytes_of(tensor);
        Tensor::from_bytes(tensor.dtype, tensor.shape.clone(), bytes).unwrap()
    }
}

impl Brought {
    /// A parameter as a weight, in the same memory.
    fn as_weight(&mut self, name: &str, kept: KeepingOn<'_, Host>) -> HostTensor {
        let tensor = self.tensors[name].clone();
        if let Some(key) = self.candidates.remove(name) {
            kept.store.keep(name, key, tensor.clone());
        }
        tensor
    }
}

impl KeptTensor for HostTensor {
    fn address(&self) -> u64 {
        self.memory.address
    }

    fn byte_len(&self) -> usize {
        self.shape.byte_len(self.dtype).unwrap()
    }

    fn is_alone(&self) -> bool {
        Arc::strong_count(&self.memory) == 1
    }
}
