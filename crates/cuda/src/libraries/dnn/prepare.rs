//! From candidates to graphs that can run: engines are found, tried and remembered.
//!
//! Of each graph, the first few engines that the library advises are made ready and, if there is
//! memory for it, timed on the device; the choice is kept on disk. Nothing here happens in a run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tintype_device::{Device, DeviceBuffer, Stream};

use super::build::OperationGraph;
use super::choices::{Choice, Choices, key};
use super::choose::{again, exactness_of, no_engine, plans};
use super::convolution::Candidate;
use super::graph::{GraphDescription, Store};
use super::handle::Handle;
use super::library::{Attempt, Failure};
use super::numbers::Numbers;
use super::stage::{Ready, Stage, scratch_bytes};
use crate::Place;
use crate::run::Addresses;

/// What preparing needs of its surroundings.
#[derive(Debug)]
pub(super) struct Preparation {
    /// What was found for each graph, by its key. Fields are dropped in order, and plans go
    /// before the handle that they were made with.
    pub(super) plans: Mutex<HashMap<String, Attempt<Found>>>,
    pub(super) numbers: Numbers,
    pub(super) device: Device,
    pub(super) handle: Arc<Handle>,
    pub(super) choices: Option<Choices>,
    /// How many engines of a graph are timed; with 0 the first is taken.
    pub(super) attempts: usize,
}

/// A plan, and how long a run takes if that was measured.
#[derive(Debug, Clone)]
pub(super) struct Found {
    ready: Arc<Ready>,
    milliseconds: Option<f32>,
}

/// A candidate that can run.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: &'static str,
    pub(super) stages: Vec<Stage>,
    /// How long a run takes, if all of it was measured.
    milliseconds: Option<f32>,
}

impl Preparation {
    /// The first candidate that the library takes or, if they are to be compared, the fastest.
    ///
    /// # Errors
    /// Each candidate's name with what the library said.
    pub(super) fn choose(
        &self,
        mut candidates: Vec<Candidate>,
        compares: bool,
    ) -> Result<Prepared, Vec<(&'static str, Failure)>> {
        let mut takes_first = !compares || self.attempts == 0;
        if !takes_first && let Some(order) = self.known_order(&candidates) {
            candidates = order;
            takes_first = true;
        }
        let mut failures = Vec::new();
        let mut best: Option<Prepared> = None;
        for candidate in candidates {
            match self.candidate(&candidate) {
                Ok(prepared) if takes_first => return Ok(prepared),
                Ok(prepared) => best = Some(faster(best, prepared)),
                Err(failure) => failures.push((candidate.name, failure)),
            }
        }
        best.ok_or(failures)
    }

    /// The candidates from the fastest on, if all were measured before.
    fn known_order(&self, candidates: &[Candidate]) -> Option<Vec<Candidate>> {
        let mut timed = Vec::new();
        for candidate in candidates {
            let stages = candidate.stages.iter();
            let times = stages.map(|stage| self.known_time(stage));
            timed.push((times.sum::<Option<f32>>()?, candidate.clone()));
        }
        timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Some(timed.into_iter().map(|(_, candidate)| candidate).collect())
    }

    fn candidate(&self, candidate: &Candidate) -> Attempt<Prepared> {
        let mut milliseconds = Some(0.0);
        let mut stages = Vec::new();
        for description in &candidate.stages {
            let (stage, time) = self.stage(description)?;
            milliseconds = milliseconds.zip(time).map(|(sum, time)| sum + time);
            stages.push(stage);
        }
        Ok(Prepared {
            name: candidate.name,
            stages,
            milliseconds,
        })
    }

    /// How long a run of a graph took, if that was measured here or is on disk.
    fn known_time(&self, description: &GraphDescription) -> Option<f32> {
        let key = self.key(description);
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        match plans.get(&key) {
            Some(found) => found.as_ref().ok()?.milliseconds,
            None => self.choices.as_ref()?.read(&key)?.milliseconds,
        }
    }

    /// The keys of all graphs of some candidates.
    pub(super) fn keys(&self, candidates: &[Candidate]) -> Vec<String> {
        let stages = candidates.iter().flat_map(|candidate| &candidate.stages);
        stages.map(|stage| self.key(stage)).collect()
    }

    fn key(&self, description: &GraphDescription) -> String {
        let version = self.handle.library().version;
        key(&self.device.info().name, version, description)
    }

    /// A graph with its engine, and how long a run takes if that is known. Programs have the same
    /// graph many times, at other places, and its plan is made once.
    fn stage(&self, description: &GraphDescription) -> Attempt<(Stage, Option<f32>)> {
        let key = self.key(description);
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans().get(&key).cloned();
        let found = if let Some(found) = known {
            found?
        } else {
            let found = self.plan(description, &key);
            plans().insert(key, found.clone());
            found?
        };
        let stage = Stage::new(description, self.handle.clone(), found.ready, &self.numbers)?;
        Ok((stage, found.milliseconds))
    }

    /// The plan of a graph: what is on disk, or else the fastest of those that are tried.
    fn plan(&self, description: &GraphDescription, key: &str) -> Attempt<Found> {
        let library = self.handle.library();
        let exactness = exactness_of(description);
        let handle = self.handle.lock();
        let graph = Arc::new(OperationGraph::new(library, handle.raw(), description)?);
        let ready = |plan| {
            Arc::new(Ready {
                plan,
                _graph: graph.clone(),
            })
        };
        if let Some(choice) = self.choices.as_ref().and_then(|choices| choices.read(key)) {
            if let Some(plan) = again(library, handle.raw(), &graph, exactness, choice.engine) {
                return Ok(Found {
                    ready: ready(plan),
                    milliseconds: choice.milliseconds,
                });
            }
            tracing::debug!("the engine that was chosen before is not there any more");
        }
        let plans = plans(library, handle.raw(), &graph, exactness, self.attempts)?;
        drop(handle);
        let found = self.fastest(description, plans.into_iter().map(ready).collect())?;
        if let Some(choices) = &self.choices {
            let choice = Choice {
                engine: found.ready.plan.origin,
                milliseconds: found.milliseconds,
            };
            choices.write(key, &choice);
        }
        Ok(found)
    }

    /// Times runs on the device. Without memory for that, the first is taken.
    fn fastest(
        &self,
        description: &GraphDescription,
        mut plans: Vec<Arc<Ready>>,
    ) -> Attempt<Found> {
        let workspaces = plans.iter().map(|ready| ready.plan.workspace);
        let scratch = workspaces
            .map(|bytes| scratch_bytes(bytes, description))
            .max();
        let trial = match self.attempts {
            0 => None,
            _ => Trial::new(&self.device, description, scratch.unwrap_or(0))
                .inspect_err(|error| tracing::warn!("engines are not timed: {error}"))
                .ok(),
        };
        let Some(trial) = trial else {
            return Ok(Found {
                ready: plans.swap_remove(0),
                milliseconds: None,
            });
        };
        let mut best: Option<(f32, Arc<Ready>)> = None;
        let mut last = None;
        for ready in plans {
            let handle = self.handle.clone();
            let stage = Stage::new(description, handle, ready.clone(), &self.numbers)?;
            match trial.milliseconds(&stage) {
                Ok(time) if best.as_ref().is_none_or(|(least, _)| time < *least) => {
                    best = Some((time, ready));
                }
                Ok(_) => {}
                Err(failure) => last = Some(failure),
            }
        }
        match best {
            Some((time, ready)) => Ok(Found {
                ready,
                milliseconds: Some(time),
            }),
            None => Err(last.unwrap_or_else(no_engine)),
        }
    }
}

fn faster(best: Option<Prepared>, other: Prepared) -> Prepared {
    let time = |prepared: &Prepared| prepared.milliseconds.unwrap_or(f32::INFINITY);
    match best {
        Some(best) if time(&best) <= time(&other) => best,
        _ => other,
    }
}

/// Memory for trying engines of one graph.
struct Trial {
    stream: Stream,
    places: HashMap<Place, DeviceBuffer>,
    scratch: DeviceBuffer,
}

impl Trial {
    fn new(
        device: &Device,
        description: &GraphDescription,
        scratch: usize,
    ) -> tintype_device::Result<Self> {
        let stream = device.new_stream()?;
        let mut places = HashMap::new();
        for (place, bytes) in bytes_of(description) {
            let buffer = DeviceBuffer::allocate(&stream, bytes)?;
            // Small numbers in each dtype: no infinities that would run otherwise.
            buffer.fill(0..bytes, 0x3c, &stream)?;
            places.insert(place, buffer);
        }
        let scratch = DeviceBuffer::allocate(&stream, scratch)?;
        Ok(Self {
            stream,
            places,
            scratch,
        })
    }

    /// The time of a run after two that are not counted.
    fn milliseconds(&self, stage: &Stage) -> Attempt<f32> {
        self.runs(stage, 2)?;
        let failed = |error: tintype_device::Error| Failure {
            action: "timing".to_owned(),
            status: EXECUTION_FAILED,
            message: error.to_string(),
        };
        let start = self.stream.record_timed().map_err(failed)?;
        self.runs(stage, RUNS)?;
        let end = self.stream.record_timed().map_err(failed)?;
        let milliseconds = end.milliseconds_since(&start).map_err(failed)?;
        Ok(milliseconds / RUNS as f32)
    }

    fn runs(&self, stage: &Stage, count: usize) -> Attempt<()> {
        let of = |place: Place| self.places.get(&place).map_or(0, DeviceBuffer::address);
        let addresses = Addresses {
            of: &of,
            scratch: self.scratch.address(),
        };
        for _ in 0..count {
            // SAFETY: each place of the graph has a buffer as large as its tensors reach, and the
            // scratch memory is that of the greatest plan; all live until the stream is waited
            // for, or are freed in its order.
            unsafe { stage.enqueue(&self.stream, &addresses)? };
        }
        Ok(())
    }
}

/// How many bytes of each place a graph reaches.
fn bytes_of(description: &GraphDescription) -> HashMap<Place, usize> {
    let mut bytes = HashMap::new();
    for tensor in &description.tensors {
        if let Store::Memory { place, offset, .. } = tensor.store {
            let end = (offset + tensor.span()) * tensor.dtype.bits() / 8;
            let known: &mut usize = bytes.entry(place).or_default();
            *known = end.max(*known);
        }
    }
    bytes
}

/// Runs that are timed together.
const RUNS: usize = 5;

const EXECUTION_FAILED: u32 = 5000;

#[cfg(test)]
mod tests {
    use tintype_tensor::DType;

    use super::super::graph::Tensor;
    use super::*;
    use crate::View;

    #[test]
    fn a_trial_has_as_much_memory_as_the_tensors_reach() {
        let mut graph = GraphDescription::default();
        let view = View::contiguous(Place::Buffer(2), DType::BF16, &[4, 64]);
        graph.tensor(Tensor::of_view(&view.slice(1, 16, 32)));
        graph.tensor(Tensor::passing(&[400, 16], DType::F32));
        assert_eq!(bytes_of(&graph)[&Place::Buffer(2)], (3 * 64 + 32) * 2);
        graph.tensor(Tensor::of_view(&view));
        assert_eq!(bytes_of(&graph)[&Place::Buffer(2)], 512);
        assert_eq!(bytes_of(&graph).len(), 1);
    }

    #[test]
    fn the_faster_candidate_stays() {
        let prepared = |name, milliseconds| Prepared {
            name,
            stages: Vec::new(),
            milliseconds,
        };
        let first = faster(None, prepared("unified", Some(0.5)));
        let second = faster(Some(first), prepared("composite", Some(0.4)));
        assert_eq!(second.name, "composite");
        let third = faster(Some(second), prepared("not measured", None));
        assert_eq!(third.name, "composite");
    }
}
