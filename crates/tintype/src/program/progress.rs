//! Progress bars on a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use tintype::{Observer, Part, StepEnd};

/// Shows what a pipeline does.
pub(crate) struct Progress {
    bar: ProgressBar,
    hidden: bool,
}

impl Progress {
    /// indicatif itself draws nothing where stderr is no terminal.
    pub(crate) fn new(hidden: bool) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            hidden,
        }
    }

    pub(crate) fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn show(&mut self, bar: ProgressBar, template: &str, message: &str) {
        self.finish();
        if self.hidden {
            return;
        }
        let style = ProgressStyle::with_template(template).expect("a constant template");
        self.bar = bar.with_style(style).with_message(message.to_owned());
        self.bar
            .enable_steady_tick(std::time::Duration::from_millis(100));
    }
}

impl Observer for Progress {
    fn begin(&mut self, part: Part, steps: usize) {
        let spinner = "{spinner} {msg} {elapsed}";
        match part {
            Part::Load(model) => self.show(
                ProgressBar::new_spinner(),
                spinner,
                &format!("loading {model}"),
            ),
            Part::Encode => self.show(ProgressBar::new_spinner(), spinner, "encoding"),
            Part::Denoise => {
                let bar = ProgressBar::new(steps as u64);
                self.show(
                    bar,
                    "{msg} {wide_bar} {pos}/{len} {elapsed} eta {eta}",
                    "steps",
                );
            }
            _ => self.show(ProgressBar::new_spinner(), spinner, "decoding"),
        }
    }

    fn step(&mut self, _step: &mut StepEnd) {
        self.bar.inc(1);
    }
}
