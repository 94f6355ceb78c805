//! Which engine of cuDNN computes a graph: the library's advice, without the engines that
//! compute with less than the dtypes promise.
//!
//! An engine that rounds f32 to something shorter (TF32 among them), adds up in less than f32,
//! or gives another result every time is never taken; for f32 neither are tensor cores, Fourier
//! transforms and Winograd's scheme. Products of 8-bit floats may add up in less: tensor cores of
//! Hopper do so by themselves.

use cudarc::cudnn::sys::cudnnBackendBehaviorNote_t as Behavior;
use cudarc::cudnn::sys::cudnnBackendHeurMode_t as RawAdvice;
use cudarc::cudnn::sys::cudnnBackendNumericalNote_t as Note;
use serde::{Deserialize, Serialize};
use tintype_tensor::DType;

use super::build::OperationGraph;
use super::descriptor::{Descriptor, Kind, Name, Type};
use super::graph::{GraphDescription, Store};
use super::library::{Attempt, Failure, Library, RawHandle};

/// How the library is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Advice {
    /// By a fast rule.
    Quick,
    /// By a better and slower one.
    Thorough,
    /// What works though it may be slow.
    Fallback,
}

/// Which engine, as it can be found again with the same library, GPU and graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) advice: Advice,
    /// The place in the library's list.
    pub(super) position: usize,
    /// The library's number of the engine.
    pub(super) engine: i64,
}

/// An engine with its settings.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) origin: Origin,
    descriptor: Descriptor,
    _engine: Descriptor,
}

/// A configuration that the library has made ready: kernels are compiled.
#[derive(Debug)]
pub(super) struct ExecutionPlan {
    pub(super) descriptor: Descriptor,
    /// Scratch memory in bytes.
    pub(super) workspace: usize,
    pub(super) origin: Origin,
    _configuration: Configuration,
}

impl Advice {
    pub(super) const ALL: [Self; 3] = [Self::Quick, Self::Thorough, Self::Fallback];

    fn raw(self) -> RawAdvice {
        match self {
            Self::Quick => RawAdvice::CUDNN_HEUR_MODE_A,
            Self::Thorough => RawAdvice::CUDNN_HEUR_MODE_B,
            Self::Fallback => RawAdvice::CUDNN_HEUR_MODE_FALLBACK,
        }
    }
}

/// How exact a graph must be computed, by what it reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exactness {
    /// f32, which tensor cores would round.
    F32,
    /// 16 bits.
    Half,
    /// 8 bits.
    Codes,
}

/// How exact a graph must be. Single numbers do not count: they are scales.
pub(super) fn exactness_of(description: &GraphDescription) -> Exactness {
    let has = |dtype: DType| {
        description.tensors.iter().any(|tensor| {
            let is_in_memory = matches!(tensor.store, Store::Memory { .. });
            is_in_memory && tensor.dtype == dtype && tensor.dims.iter().any(|&size| size > 1)
        })
    };
    if has(DType::F32) {
        Exactness::F32
    } else if has(DType::F8E4M3) {
        Exactness::Codes
    } else {
        Exactness::Half
    }
}

/// Whether an engine with these notes computes what the dtypes promise.
fn is_allowed(numerical: &[u32], behavior: &[u32], exactness: Exactness) -> bool {
    let never = [
        Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
        Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
        Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6,
        Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13,
    ];
    let not_of_wider = [Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION];
    let not_of_f32 = [
        Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
        Note::CUDNN_NUMERICAL_NOTE_FFT,
        Note::CUDNN_NUMERICAL_NOTE_WINOGRAD,
        Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4,
    ];
    // The first two want weights in an order of their own; the last calls another library, which
    // need not be capturable.
    let strange = [
        Behavior::CUDNN_BEHAVIOR_NOTE_REQUIRES_FILTER_INT8x32_REORDER,
        Behavior::CUDNN_BEHAVIOR_NOTE_REQUIRES_BIAS_INT8x32_REORDER,
        Behavior::CUDNN_BEHAVIOR_NOTE_CUBLASLT_DEPENDENCY,
    ];
    let has = |note: &Note| numerical.contains(&(*note as u32));
    let is_shortened = never.iter().any(has)
        || exactness != Exactness::Codes && not_of_wider.iter().any(has)
        || exactness == Exactness::F32 && not_of_f32.iter().any(has);
    let is_strange = |note: &Behavior| behavior.contains(&(*note as u32));
    !is_shortened && !strange.iter().any(is_strange)
}

/// The allowed engines that the library advises, the best first.
pub(super) fn configurations(
    library: &'static Library,
    graph: &OperationGraph,
    advice: Advice,
    exactness: Exactness,
) -> Attempt<Vec<Configuration>> {
    let heuristic = Descriptor::new(library, Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .with_descriptor(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &graph.graph)?
        .with_choice(
            Name::CUDNN_ATTR_ENGINEHEUR_MODE,
            Type::CUDNN_TYPE_HEUR_MODE,
            advice.raw() as u32,
        )?
        .finalized()?;
    let count = heuristic.count(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS)?;
    let empty = || Descriptor::new(library, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    let mut found = (0..count).map(|_| empty()).collect::<Attempt<Vec<_>>>()?;
    if !found.is_empty() {
        let filled = heuristic.read_into(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, &mut found)?;
        found.truncate(filled);
    }
    let mut allowed = Vec::new();
    for (position, descriptor) in found.into_iter().enumerate() {
        let engine = engine_of(library, &descriptor)?;
        let numerical = engine.choices(
            Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
            Type::CUDNN_TYPE_NUMERICAL_NOTE,
        )?;
        let behavior = engine.choices(
            Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
            Type::CUDNN_TYPE_BEHAVIOR_NOTE,
        )?;
        if !is_allowed(&numerical, &behavior, exactness) {
            continue;
        }
        allowed.push(Configuration {
            origin: Origin {
                advice,
                position,
                engine: engine.integer(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?,
            },
            descriptor,
            _engine: engine,
        });
    }
    Ok(allowed)
}

fn engine_of(library: &'static Library, configuration: &Descriptor) -> Attempt<Descriptor> {
    let engine = Descriptor::new(library, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    let mut target = [engine];
    configuration.read_into(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &mut target)?;
    let [engine] = target;
    Ok(engine)
}

impl Configuration {
    /// Makes it ready, which compiles kernels where the engine has none. The handle is that of
    /// the device, and nobody else uses it now.
    pub(super) fn plan(
        self,
        library: &'static Library,
        handle: RawHandle,
    ) -> Attempt<ExecutionPlan> {
        let descriptor = Descriptor::new(library, Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .with_descriptor(
                Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                &self.descriptor,
            )?
            .with_handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?
            .finalized()?;
        let workspace = descriptor.integer(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        Ok(ExecutionPlan {
            descriptor,
            workspace: usize::try_from(workspace).unwrap_or(0),
            origin: self.origin,
            _configuration: self,
        })
    }
}

/// The first engines that can be made ready, at least one and at most so many attempts. The
/// handle is that of the device, and nobody else uses it now.
///
/// # Errors
/// What the library said last, or that no engine is exact enough.
pub(super) fn plans(
    library: &'static Library,
    handle: RawHandle,
    graph: &OperationGraph,
    exactness: Exactness,
    attempts: usize,
) -> Attempt<Vec<ExecutionPlan>> {
    let (mut plans, mut large) = (Vec::new(), Vec::new());
    let mut last = None;
    for advice in Advice::ALL {
        let found = configurations(library, graph, advice, exactness);
        let found = found.unwrap_or_else(|failure| {
            last = Some(failure);
            Vec::new()
        });
        for configuration in found {
            match configuration.plan(library, handle) {
                Ok(plan) if plan.workspace > LARGE_WORKSPACE => large.push(plan),
                Ok(plan) => plans.push(plan),
                Err(failure) => last = Some(failure),
            }
            if plans.len() >= attempts.max(1) {
                return Ok(plans);
            }
        }
        if !plans.is_empty() {
            return Ok(plans);
        }
    }
    large.sort_by_key(|plan: &ExecutionPlan| plan.workspace);
    large.truncate(1);
    if large.is_empty() {
        return Err(last.unwrap_or_else(no_engine));
    }
    Ok(large)
}

/// The plan of an engine that was chosen before, if the library still has it there.
pub(super) fn again(
    library: &'static Library,
    handle: RawHandle,
    graph: &OperationGraph,
    exactness: Exactness,
    origin: Origin,
) -> Option<ExecutionPlan> {
    let found = configurations(library, graph, origin.advice, exactness).ok()?;
    let same = found.into_iter().find(|found| found.origin == origin)?;
    same.plan(library, handle).ok()
}

pub(super) fn no_engine() -> Failure {
    Failure {
        action: "finding an engine".to_owned(),
        status: NOT_SUPPORTED,
        message: "none computes it as exactly as its dtypes".to_owned(),
    }
}

/// Plans with more scratch memory are taken only if there is no other.
const LARGE_WORKSPACE: usize = 2 << 30;

const NOT_SUPPORTED: u32 = 3000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libraries::dnn::graph::Tensor;
    use crate::{Place, View};

    #[test]
    fn engines_that_round_more_than_the_dtypes_are_not_taken() {
        let tensor_core = Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE as u32;
        let winograd = Note::CUDNN_NUMERICAL_NOTE_WINOGRAD as u32;
        let shortened = Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS as u32;
        assert!(is_allowed(&[], &[], Exactness::F32));
        assert!(is_allowed(&[tensor_core], &[], Exactness::Half));
        assert!(
            !is_allowed(&[tensor_core], &[], Exactness::F32),
            "this is TF32"
        );
        assert!(!is_allowed(&[winograd], &[], Exactness::F32));
        assert!(!is_allowed(&[shortened], &[], Exactness::Half));
        let hasty = Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION as u32;
        assert!(!is_allowed(&[hasty], &[], Exactness::Half));
        assert!(is_allowed(&[hasty], &[], Exactness::Codes));
        let compiled = Behavior::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION as u32;
        assert!(is_allowed(&[tensor_core], &[compiled], Exactness::Half));
        let reordered = Behavior::CUDNN_BEHAVIOR_NOTE_REQUIRES_FILTER_INT8x32_REORDER as u32;
        assert!(!is_allowed(&[], &[reordered], Exactness::Half));
        // A newer library's note says nothing against an engine.
        assert!(is_allowed(&[99], &[99], Exactness::F32));
    }

    #[test]
    fn a_factor_of_codes_asks_for_no_more_exactness() {
        let mut graph = GraphDescription::default();
        let view = |dtype, shape: &[usize]| View::contiguous(Place::Buffer(0), dtype, shape);
        graph.tensor(Tensor::of_view(&view(DType::F32, &[1, 1, 1, 1])));
        graph.tensor(Tensor::of_view(&view(DType::F8E4M3, &[4, 16])));
        assert_eq!(exactness_of(&graph), Exactness::Codes);
    }

    #[test]
    fn f32_that_is_never_in_memory_does_not_count() {
        let mut graph = GraphDescription::default();
        graph.tensor(Tensor::passing(&[4], DType::F32));
        graph.tensor(Tensor::scalar(1.0, 1));
        assert_eq!(exactness_of(&graph), Exactness::Half);
        let view = View::contiguous(Place::Buffer(0), DType::F32, &[4]);
        graph.tensor(Tensor::of_view(&view));
        assert_eq!(exactness_of(&graph), Exactness::F32);
    }
}
