//! Plans of the programs that ran lately: going back to a LoRA plans nothing.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use tintype_ir::Graph;

use super::plan::WeightPlan;
use crate::Result;

/// Plans by program and wanted outputs, the latest used last. Programs that nobody else has any
/// more are not kept.
#[derive(Debug, Default)]
pub(super) struct Plans(Vec<Known>);

#[derive(Debug)]
struct Known {
    /// An address comes again only when nobody holds it, not even so.
    program: Weak<Graph>,
    /// Places of the wanted outputs; `None` for all.
    wanted: Option<Vec<usize>>,
    plan: Arc<WeightPlan>,
}

impl Plans {
    /// The plan of some outputs of a program, or of all.
    ///
    /// # Errors
    /// As [`WeightPlan::new`].
    pub(super) fn plan(
        &mut self,
        program: &Arc<Graph>,
        wanted: Option<&HashSet<&str>>,
    ) -> Result<Arc<WeightPlan>> {
        self.0.retain(|known| known.program.strong_count() > 0);
        let places = wanted.map(|wanted| {
            let outputs = program.outputs().iter().enumerate();
            let found = outputs.filter(|(_, output)| wanted.contains(output.name.as_str()));
            found.map(|(place, _)| place).collect::<Vec<usize>>()
        });
        let is_it = |known: &Known| {
            std::ptr::eq(known.program.as_ptr(), Arc::as_ptr(program)) && known.wanted == places
        };
        let known = match self.0.iter().position(is_it) {
            Some(index) => self.0.remove(index),
            None => Known {
                program: Arc::downgrade(program),
                plan: Arc::new(WeightPlan::new(program, wanted)?),
                wanted: places,
            },
        };
        if self.0.len() == MOST_PLANS {
            self.0.remove(0);
        }
        let plan = Arc::clone(&known.plan);
        self.0.push(known);
        Ok(plan)
    }
}

/// Plans that are kept: for a few LoRAs, alone and together, of the models of a pipeline.
const MOST_PLANS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Arc<Graph> {
        let text = "graph g { param @a: f32[2] %0: f32[2] = neg @a output a = @a output n = %0 }";
        Arc::new(tintype_ir::parse(text).unwrap())
    }

    #[test]
    fn a_plan_is_made_once_for_a_program_and_what_is_wanted() {
        let mut plans = Plans::default();
        let (one, same_text) = (program(), program());
        let some = HashSet::from(["n"]);
        let all = plans.plan(&one, None).unwrap();
        let part = plans.plan(&one, Some(&some)).unwrap();
        assert_ne!(all, part);
        assert!(Arc::ptr_eq(&all, &plans.plan(&one, None).unwrap()));
        assert!(Arc::ptr_eq(&part, &plans.plan(&one, Some(&some)).unwrap()));
        assert!(!Arc::ptr_eq(&all, &plans.plan(&same_text, None).unwrap()));
        assert_eq!(plans.0.len(), 3);
        drop(one);
        plans.plan(&same_text, None).unwrap();
        assert_eq!(plans.0.len(), 1, "what is gone is not kept");
        let programs: Vec<_> = (0..2 * MOST_PLANS).map(|_| program()).collect();
        for program in &programs {
            plans.plan(program, None).unwrap();
        }
        assert_eq!(plans.0.len(), MOST_PLANS);
    }
}
