//! Progress bars on a terminal; nothing elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use tintype::backends::{Building, Follow};
use tintype::{Observer, Part};

/// Shows what a pipeline does.
pub(crate) struct Progress {
    shown: Arc<Mutex<Shown>>,
    hidden: bool,
}

/// What stands on the terminal now.
struct Shown {
    bar: ProgressBar,
    message: String,
}

impl Progress {
    /// indicatif itself draws nothing where stderr is no terminal.
    pub(crate) fn new(hidden: bool) -> Self {
        let shown = Shown {
            bar: ProgressBar::hidden(),
            message: String::new(),
        };
        Self {
            shown: Arc::new(Mutex::new(shown)),
            hidden,
        }
    }

    pub(crate) fn finish(&mut self) {
        self.bar().finish_and_clear();
    }

    /// Something whose length is not known.
    pub(crate) fn spin(&mut self, message: &str) {
        self.show(
            ProgressBar::new_spinner(),
            "{spinner} {msg} {elapsed}",
            message,
        );
    }

    /// Tells how far a build is behind what is shown.
    pub(crate) fn follow(&self) -> Follow {
        let shown = Arc::clone(&self.shown);
        Arc::new(move |building: Building<'_>| {
            let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let Building {
                program,
                phase,
                done,
                steps,
                ..
            } = building;
            shown.bar.set_message(format!(
                "{}: plan of the {program} program, {phase} {done}/{steps}",
                shown.message
            ));
        })
    }

    fn bar(&self) -> ProgressBar {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.bar.clone()
    }

    fn show(&mut self, bar: ProgressBar, template: &str, message: &str) {
        self.finish();
        if self.hidden {
            return;
        }
        let style = ProgressStyle::with_template(template).expect("a constant template");
        let bar = bar.with_style(style).with_message(message.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.bar = bar;
        message.clone_into(&mut shown.message);
    }
}

impl Observer for Progress {
    fn begin(&mut self, part: Part, steps: usize) {
        match part {
            Part::Load(model) => self.spin(&format!("loading {model}")),
            Part::Encode => self.spin("encoding"),
            Part::Denoise => {
                let bar = ProgressBar::new(steps as u64);
                self.show(
                    bar,
                    "{msg} {wide_bar} {pos}/{len} {elapsed} eta {eta}",
                    "steps",
                );
            }
            _ => self.spin("decoding"),
        }
    }

    fn looks(&self) -> bool {
        false
    }

    fn passed(&mut self, _index: usize) {
        self.bar().inc(1);
    }
}
