//! How long steps take on the device.
//!
//! Every step is put between two events, which are read when the profile is: the host goes on
//! meanwhile, so that the device is as busy as without.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tintype_device::Event;

use crate::{Result, Step};

/// Where the time of programs goes. A cheap handle, which [`CudaOptions`](crate::CudaOptions)
/// takes.
///
/// ```
/// let profile = tintype_cuda::Profile::new();
/// assert!(profile.take()?.is_empty());
/// # Ok::<(), tintype_cuda::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Profile {
    timed: Arc<Mutex<Vec<Timed>>>,
    repeats: Option<usize>,
}

/// All runs of steps of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileLine {
    /// The kind of work: `product`, `attention`, `convolution`, `kernel`, `special`.
    pub kind: &'static str,
    /// The step's name in plans: `linear_gelu`, `norm_modulate`.
    pub name: String,
    /// How many were run.
    pub count: usize,
    /// Milliseconds on the device, of all together.
    pub milliseconds: f64,
    /// Bytes that had to be read and written.
    pub bytes: usize,
    /// Floating-point operations of products, attention and convolutions.
    pub operations: usize,
}

/// One step between two events.
struct Timed {
    line: ProfileLine,
    start: Event,
    end: Event,
}

impl Profile {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with every step run so many times between its events, which then cost little
    /// beside it; times are of one run. What programs compute means nothing then: steps that write
    /// over their operands do so several times.
    pub fn repeating(count: usize) -> Self {
        Self {
            repeats: Some(count.max(1)),
            ..Self::default()
        }
    }

    /// How often each step is enqueued.
    pub(crate) fn repeats(&self) -> usize {
        self.repeats.unwrap_or(1)
    }

    pub(crate) fn add(&self, step: &Step, start: Event, end: Event) {
        let line = ProfileLine::new(step);
        let mut timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        timed.push(Timed { line, start, end });
    }

    /// What was run since it was asked last, by kind and name, the longest first. Waits for the
    /// device.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn take(&self) -> Result<Vec<ProfileLine>> {
        let mut timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        let timed = std::mem::take(&mut *timed);
        let repeats = self.repeats() as f64;
        let lines = timed.into_iter().map(|timed| {
            let milliseconds = timed.end.milliseconds_since(&timed.start)?;
            Ok(ProfileLine {
                milliseconds: f64::from(milliseconds) / repeats,
                ..timed.line
            })
        });
        Ok(sums(lines.collect::<Result<_>>()?))
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").finish_non_exhaustive()
    }
}

impl ProfileLine {
    fn new(step: &Step) -> Self {
        Self {
            kind: step.work.kind(),
            name: step.name.clone(),
            count: 1,
            milliseconds: 0.0,
            bytes: step.work.bytes(),
            operations: step.work.operations(),
        }
    }
}

/// `product  linear_gelu  38 × 0.442 ms, 700 TFLOP/s, 0.6 TB/s`
impl fmt::Display for ProfileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.milliseconds / 1e3;
        let each = self.milliseconds / self.count.max(1) as f64;
        write!(f, "{:<11} {:<28}", self.kind, self.name)?;
        write!(f, " {:>5} × {each:.4} ms", self.count)?;
        if seconds > 0.0 && self.operations > 0 {
            let rate = self.operations as f64 / seconds / 1e12;
            write!(f, ", {rate:.0} TFLOP/s")?;
        }
        if seconds > 0.0 {
            write!(f, ", {:.2} TB/s", self.bytes as f64 / seconds / 1e12)?;
        }
        Ok(())
    }
}

fn sums(lines: Vec<ProfileLine>) -> Vec<ProfileLine> {
    let mut sums: BTreeMap<(&'static str, String), ProfileLine> = BTreeMap::new();
    for line in lines {
        let key = (line.kind, line.name.clone());
        if let Some(sum) = sums.get_mut(&key) {
            sum.count += line.count;
            sum.milliseconds += line.milliseconds;
            sum.bytes += line.bytes;
            sum.operations += line.operations;
        } else {
            sums.insert(key, line);
        }
    }
    let mut sums: Vec<ProfileLine> = sums.into_values().collect();
    sums.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, milliseconds: f64) -> ProfileLine {
        ProfileLine {
            kind: "product",
            name: name.to_owned(),
            count: 1,
            milliseconds,
            bytes: 1_000_000_000,
            operations: 500_000_000_000,
        }
    }

    #[test]
    fn steps_run_once_unless_more_is_asked_for() {
        assert_eq!(Profile::new().repeats(), 1);
        assert_eq!(Profile::repeating(10).repeats(), 10);
        assert_eq!(Profile::repeating(0).repeats(), 1);
    }

    #[test]
    fn steps_of_one_name_are_summed_and_the_longest_stands_first() {
        let lines = vec![
            line("linear", 1.0),
            line("linear_gelu", 5.0),
            line("linear", 3.0),
        ];
        let sums = sums(lines);
        assert_eq!(sums[0].name, "linear_gelu");
        assert_eq!((sums[1].count, sums[1].milliseconds), (2, 4.0));
        let shown = sums[1].to_string();
        assert!(
            shown.ends_with("2 × 2.0000 ms, 250 TFLOP/s, 0.50 TB/s"),
            "{shown}"
        );
    }
}
