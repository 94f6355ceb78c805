//! Who makes a step ready: libraries first, then kernels of our own.
//!
//! Makers are asked in order. The first that offers a step makes it; that one before it could
//! not is said once for each kind of step.
//!
//! ```text
//! product by own kernels: cuBLASLt does not take linear (…): there is no libcublasLt.so
//! ```

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::{Error, Result, Step, View, Work};

/// Makes steps of some kinds ready.
pub(crate) trait Maker<P>: Send + Sync {
    /// What log lines call it: `cuBLASLt`.
    fn name(&self) -> &'static str;

    /// What it stands on, for people: the library with its version, or why there is none.
    fn description(&self) -> Option<String> {
        None
    }

    /// What [`Maker::offer`] would say, as far as that is known without trying: nothing is made.
    fn judge(&self, step: &Step) -> Offer<()>;

    /// Makes a step ready, or says why it cannot.
    ///
    /// # Errors
    /// What a library or the device says; the next maker is asked then too.
    fn offer(&self, step: &Step) -> Result<Offer<P>>;

    /// Makes ready what the steps of a program share, before any is offered.
    fn expect(&self, _steps: &[Step]) -> Result<()> {
        Ok(())
    }
}

/// What a maker says of a step.
#[derive(Debug)]
pub(crate) enum Offer<P> {
    /// Here it is.
    Ready(P),
    /// Steps of this kind are another maker's, by design.
    NotMine,
    /// It makes others of this kind, but not this one; why.
    Refused(String),
}

/// All makers of a device, the best first.
pub(crate) struct Makers<P> {
    makers: Vec<Box<dyn Maker<P>>>,
    /// Kinds of steps and makers that were told of.
    told: Mutex<HashSet<(&'static str, &'static str)>>,
}

impl<P> Makers<P> {
    /// These makers.
    pub(crate) fn new(makers: Vec<Box<dyn Maker<P>>>) -> Self {
        Self {
            makers,
            told: Mutex::default(),
        }
    }

    /// What the makers stand on, for people.
    pub(crate) fn descriptions(&self) -> Vec<String> {
        let makers = self.makers.iter();
        makers.filter_map(|maker| maker.description()).collect()
    }

    /// Makes all steps of a program ready.
    ///
    /// # Errors
    /// [`Error::Unmade`] with what each maker said of a step; what a maker says of them all.
    pub(crate) fn make_all(&self, steps: &[Step]) -> Result<Vec<P>> {
        let mut makers = self.makers.iter();
        makers.try_for_each(|maker| maker.expect(steps))?;
        steps.iter().map(|step| self.make(step)).collect()
    }

    /// What the first makers leave to others, in a line for each kind of step and reason.
    pub(crate) fn fallbacks(&self, steps: &[Step]) -> Vec<String> {
        let mut found: Vec<(String, usize)> = Vec::new();
        for step in steps {
            let judged = self.makers.iter();
            let judged = judged.map(|maker| (maker.name(), maker.judge(step)));
            let mut refused: Vec<String> = Vec::new();
            let mut by = "nobody";
            for (name, judgement) in judged {
                match judgement {
                    Offer::NotMine => {}
                    Offer::Refused(reason) => refused.push(format!("{name}: {reason}")),
                    Offer::Ready(()) => {
                        by = name;
                        break;
                    }
                }
            }
            if refused.is_empty() {
                continue;
            }
            let kind = form_of(&step.work);
            let line = format!("{kind} by {by} ({})", refused.join("; "));
            match found.iter_mut().find(|(other, _)| *other == line) {
                Some((_, count)) => *count += 1,
                None => found.push((line, 1)),
            }
        }
        let lines = found.into_iter();
        lines
            .map(|(line, count)| format!("{count} × {line}"))
            .collect()
    }

    fn make(&self, step: &Step) -> Result<P> {
        let mut reasons: Vec<(&'static str, String)> = Vec::new();
        for maker in &self.makers {
            match maker.offer(step) {
                Ok(Offer::Ready(prepared)) => {
                    self.tell(step, &reasons, maker.name());
                    return Ok(prepared);
                }
                Ok(Offer::NotMine) => {}
                Ok(Offer::Refused(reason)) => reasons.push((maker.name(), reason)),
                Err(error) => {
                    // It had agreed to such steps, so this is worth a look.
                    tracing::warn!("{}: {error}", maker.name());
                    reasons.push((maker.name(), error.to_string()));
                }
            }
        }
        let reasons = reasons.iter().map(|(name, why)| format!("{name}: {why}"));
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        Err(Error::Unmade {
            step: describe(step),
            reasons: if reasons.is_empty() {
                "nothing here makes such steps".to_owned()
            } else {
                reasons
            },
        })
    }

    fn tell(&self, step: &Step, reasons: &[(&'static str, String)], by: &str) {
        let kind = form_of(&step.work);
        for (maker, reason) in reasons {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert((kind, maker)) {
                let step = describe(step);
                tracing::info!("{kind} by {by}: {maker} does not take {step}: {reason}");
            }
        }
    }
}

/// The kind of a step as lines tell of it. Products of codes have makers of their own.
fn form_of(work: &Work) -> &'static str {
    match work {
        Work::Product(call) if call.codes.is_some() => "product of 8-bit floats",
        other => other.kind(),
    }
}

/// A step for messages: its name, module, dtypes and views.
pub(super) fn describe(step: &Step) -> String {
    let typed = |view: &&View| format!("{} {view}", view.dtype);
    let list = |views: Vec<&View>| views.iter().map(typed).collect::<Vec<_>>().join(", ");
    let (reads, writes) = (list(step.work.reads()), list(step.work.writes()));
    let of = match step.label.as_str() {
        "" => String::new(),
        label => format!(" of `{label}`"),
    };
    format!("{}{of} ({reads} -> {writes})", step.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;

    struct Fixed(&'static str, fn() -> Result<Offer<&'static str>>);

    impl Maker<&'static str> for Fixed {
        fn name(&self) -> &'static str {
            self.0
        }

        fn judge(&self, step: &Step) -> Offer<()> {
            match self.offer(step) {
                Ok(Offer::NotMine) => Offer::NotMine,
                Ok(Offer::Refused(reason)) => Offer::Refused(reason),
                Ok(Offer::Ready(_)) | Err(_) => Offer::Ready(()),
            }
        }

        fn offer(&self, _: &Step) -> Result<Offer<&'static str>> {
            (self.1)()
        }
    }

    fn step() -> Step {
        let text = "graph g { input step %x: f32[8] %0: f32[8] = exp %x output y = %0 }";
        let graph = tintype_ir::parse(text).unwrap();
        let plan = Plan::new(&graph, &tintype_ir::Binding::new()).unwrap();
        plan.steps[0].clone()
    }

    fn makers(all: Vec<Fixed>) -> Makers<&'static str> {
        let boxed = all.into_iter().map(|maker| Box::new(maker) as Box<_>);
        Makers::new(boxed.collect())
    }

    #[test]
    fn the_first_that_can_makes_it() {
        let all = makers(vec![
            Fixed("a", || Ok(Offer::NotMine)),
            Fixed("b", || Ok(Offer::Refused("too wide".to_owned()))),
            Fixed("c", || Err(Error::unsupported("exp", "no algorithm"))),
            Fixed("d", || Ok(Offer::Ready("d"))),
            Fixed("e", || Ok(Offer::Ready("e"))),
        ]);
        assert_eq!(all.make(&step()).unwrap(), "d");
        let told = all.told.lock().unwrap();
        assert_eq!(*told, HashSet::from([("kernel", "b"), ("kernel", "c")]));
    }

    #[test]
    fn fallbacks_are_told_by_kind_and_reason() {
        let all = makers(vec![
            Fixed("a", || Ok(Offer::NotMine)),
            Fixed("b", || Ok(Offer::Refused("too wide".to_owned()))),
            Fixed("d", || Ok(Offer::Ready("d"))),
            Fixed("e", || Ok(Offer::Refused("never asked".to_owned()))),
        ]);
        let found = all.fallbacks(&[step(), step()]);
        assert_eq!(found, ["2 × kernel by d (b: too wide)"]);
        let first = makers(vec![Fixed("d", || Ok(Offer::Ready("d")))]);
        assert!(first.fallbacks(&[step()]).is_empty());
        let none = makers(vec![Fixed("b", || Ok(Offer::Refused("too wide".into())))]);
        assert_eq!(
            none.fallbacks(&[step()]),
            ["1 × kernel by nobody (b: too wide)"]
        );
    }

    #[test]
    fn what_nobody_makes_is_an_error_with_all_reasons() {
        let all = makers(vec![Fixed("b", || Ok(Offer::Refused("too wide".into())))]);
        let message = all.make(&step()).unwrap_err().to_string();
        let expected = "no way to run exp (f32 i0[8] -> f32 b0[8]): b: too wide";
        assert_eq!(message, expected);
        let message = makers(vec![]).make(&step()).unwrap_err().to_string();
        assert!(
            message.ends_with("nothing here makes such steps"),
            "{message}"
        );
    }
}
