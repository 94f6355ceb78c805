//! What a weight program will do on a device, and what keeping its parameters costs. Pure.

use std::collections::BTreeMap;

use tintype_backend::{KeepWeights, ProgramForecast};
use tintype_ir::{Graph, Stage, StagedGraph};
use tintype_tensor::Shape;

use super::WeightPlan;
use super::kept::reserve;
use super::place::sizes;
use crate::Result;

/// What becomes of the weight program of a graph: its operations, and those that have no kernel
/// and run on the host. `None` if there is nothing to compute.
///
/// # Errors
/// As [`WeightPlan::new`].
///
/// ```
/// use tintype_device::forecast_weights;
/// use tintype_ir::{StagedGraph, parse};
///
/// let text = "graph g { param @w: f32[2, 2] input step %x: f32[2, 2] %0: f32[2, 2] = exp @w \
///             %1: f32[2, 2] = neg %0 %2: f32[2, 2] = linear %x, %1 output y = %2 }";
/// let forecast = forecast_weights(&StagedGraph::split(&parse(text)?)?)?;
/// let forecast = forecast.expect("it computes");
/// assert_eq!(forecast.operations, 2);
/// assert_eq!(forecast.fallbacks, ["1 × exp has no kernel: on the CPU, then uploaded"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn forecast_weights(graph: &StagedGraph) -> Result<Option<ProgramForecast>> {
    let program = &graph.weight;
    if program.nodes().is_empty() {
        return Ok(None);
    }
    let plan = WeightPlan::new(program, None)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in plan.on_host() {
        *counts.entry(program.nodes()[node].op.name()).or_default() += 1;
    }
    let mut forecast = ProgramForecast::new(Stage::Weight, program);
    let told = counts
        .iter()
        .map(|(op, count)| format!("{count} × {op} has no kernel: on the CPU, then uploaded"));
    forecast.fallbacks.extend(told);
    Ok(Some(forecast))
}

/// The bytes on the device that parameters take beside their weights once each was read by a
/// refit: at most, since only those are kept that are. `room` is what is free beside all else.
pub fn forecast_kept(program: &Graph, policy: KeepWeights, room: usize) -> Result<usize> {
    let Some(reserve) = reserve(policy) else {
        return Ok(0);
    };
    let parameters = program.parameters().iter();
    let bytes = parameters.map(|parameter| {
        let shape = Shape::from(sizes(&parameter.ty));
        Ok(shape.byte_len(parameter.ty.dtype)?)
    });
    Ok(bytes
        .sum::<Result<usize>>()?
        .min(room.saturating_sub(reserve)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::kept::AUTO_RESERVE;

    #[test]
    fn what_is_kept_fits_beside_the_reserve() {
        let text = "graph g { param @a: f32[8] param @b: bf16[8] output a = @a output b = @b }";
        let program = tintype_ir::parse(text).unwrap();
        let kept = |policy, room| forecast_kept(&program, policy, room).unwrap();
        assert_eq!(kept(KeepWeights::Device, usize::MAX), 48);
        assert_eq!(kept(KeepWeights::Auto, AUTO_RESERVE + 40), 40);
        assert_eq!(kept(KeepWeights::Device, AUTO_RESERVE + 40), 48);
        assert_eq!(kept(KeepWeights::Auto, 100), 0);
        assert_eq!(kept(KeepWeights::Host, usize::MAX), 0);
        assert_eq!(kept(KeepWeights::Disk, usize::MAX), 0);
    }

    #[test]
    fn weights_that_are_parameters_need_no_program() {
        let text = "graph g { param @w: f32[2, 2] input step %x: f32[2, 2] \
                    %0: f32[2, 2] = linear %x, @w output y = %0 }";
        let graph = StagedGraph::split(&tintype_ir::parse(text).unwrap()).unwrap();
        assert_eq!(forecast_weights(&graph).unwrap(), None);
    }
}
