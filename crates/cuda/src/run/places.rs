//! Steps that differ in their places alone are one prepared step.
//!
//! The blocks of a model do the same in other memory. Places are numbered anew by their first
//! appearance in a step, each kind by itself, and a step is made ready for these numbers; where
//! they lie is told when it is enqueued. So a model of 57 blocks has a few attentions to choose
//! engines for.
//!
//! ```text
//! linear b7[1, 64, 32] w31[96, 32] -> b9[1, 64, 96]
//! linear b0[1, 64, 32]  w0[96, 32] -> b1[1, 64, 96]   b0 = b7, w0 = w31, b1 = b9
//! ```

use crate::{Codes, Place, Step, View, Work};

/// Which places of a plan a step's own stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Places(Vec<(Place, Place)>);

impl Places {
    /// A place of the plan.
    pub(super) fn of(&self, own: Place) -> Place {
        let found = self.0.iter().find(|(known, _)| *known == own);
        found.map_or(own, |&(_, of_plan)| of_plan)
    }

    /// The number that stands for a place.
    fn number(&mut self, of_plan: Place) -> Place {
        if let Some((own, _)) = self.0.iter().find(|(_, known)| *known == of_plan) {
            return *own;
        }
        let kind = std::mem::discriminant(&of_plan);
        let alike = self
            .0
            .iter()
            .filter(|(own, _)| std::mem::discriminant(own) == kind);
        let own = with_number(of_plan, alike.count());
        self.0.push((own, of_plan));
        own
    }
}

/// A step with its places numbered anew.
pub(super) fn renumbered(step: &Step) -> (Step, Places) {
    let (mut step, mut places) = (step.clone(), Places::default());
    for view in views(&mut step.work) {
        view.place = places.number(view.place);
        if let Some(index) = &mut view.index {
            index.place = places.number(index.place);
        }
    }
    (step, places)
}

/// What steps have in common that are one: all but the module that they compute.
pub(super) fn key(step: &Step) -> String {
    format!("{} {:?}", step.name, step.work)
}

fn views(work: &mut Work) -> Vec<&mut View> {
    match work {
        Work::Product(call) => {
            let views = [&mut call.input, &mut call.weight].into_iter();
            let scales = call.codes.iter_mut().flat_map(Codes::views_mut);
            views
                .chain(&mut call.bias)
                .chain(scales)
                .chain([&mut call.output])
                .collect()
        }
        Work::Attention(call) => {
            let views = call.query_key_value.iter_mut().chain(&mut call.bias);
            let views = views.chain(&mut call.output_factor);
            views.chain([&mut call.output]).collect()
        }
        Work::Convolution(call) => {
            let views = [&mut call.input, &mut call.weight].into_iter();
            views
                .chain(&mut call.bias)
                .chain([&mut call.output])
                .collect()
        }
        Work::Kernel(expression) => {
            let stores = expression.stores.iter_mut().map(|store| &mut store.view);
            expression.loads.iter_mut().chain(stores).collect()
        }
        Work::Special { inputs, output, .. } => inputs.iter_mut().chain([output]).collect(),
    }
}

fn with_number(kind: Place, number: usize) -> Place {
    match kind {
        Place::Input(_) => Place::Input(number),
        Place::Parameter(_) => Place::Parameter(number),
        Place::Constant(_) => Place::Constant(number),
        Place::Buffer(_) => Place::Buffer(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;

    fn steps() -> Vec<Step> {
        let text = "graph g { param @a: f32[8, 8] param @b: f32[8, 8] param @c: f32[4, 8] \
                    input step %x: f32[2, 8] \
                    %0: f32[2, 8] = linear %x, @a  # one\n %1: f32[2, 8] = linear %0, @b  # two\n \
                    %2: f32[2, 8] = linear %1, @a  # three\n %3: f32[2, 4] = linear %2, @c \
                    output y = %3 }";
        let graph = tintype_ir::parse(text).unwrap();
        let plan = Plan::new(&graph, &tintype_ir::Binding::new()).unwrap();
        plan.steps
    }

    #[test]
    fn steps_of_other_places_are_one() {
        let steps: Vec<_> = steps().iter().map(renumbered).collect();
        let keys: Vec<_> = steps.iter().map(|(step, _)| key(step)).collect();
        // The first reads an input, which may lie at another alignment.
        assert_ne!(keys[0], keys[1]);
        assert_eq!(keys[1], keys[2]);
        assert_ne!(keys[2], keys[3]);
        let places = &steps[2].1;
        assert_eq!(places.of(Place::Buffer(0)), Place::Buffer(1));
        assert_eq!(places.of(Place::Parameter(0)), Place::Parameter(0));
        assert_eq!(places.of(Place::Buffer(1)), Place::Buffer(2));
        assert_eq!(steps[1].1.of(Place::Parameter(0)), Place::Parameter(1));
    }

    #[test]
    fn every_view_of_every_kind_of_step_is_renumbered() {
        for text in [
            include_str!("../../tests/files/narrow_attention.ir"),
            include_str!("../../tests/files/operations.ir"),
        ] {
            let given = text.split("; expect:").next().unwrap();
            let sizes = given.lines().find_map(|line| line.strip_prefix("; plan:"));
            let mut binding = tintype_ir::Binding::new();
            for part in sizes
                .unwrap()
                .split(',')
                .filter_map(|part| part.split_once('='))
            {
                binding.set(part.0.trim(), part.1.trim().parse().unwrap());
            }
            let plan = Plan::new(&tintype_ir::parse(given).unwrap(), &binding).unwrap();
            for step in &plan.steps {
                let (own, places) = renumbered(step);
                let of = |step: &Step| -> Vec<View> {
                    let views = step.work.reads().into_iter().chain(step.work.writes());
                    views.cloned().collect()
                };
                for (own, view) in of(&own).into_iter().zip(of(step)) {
                    assert!(
                        places.0.iter().any(|(known, _)| *known == own.place),
                        "{own}"
                    );
                    assert_eq!(places.of(own.place), view.place);
                }
            }
        }
    }
}
