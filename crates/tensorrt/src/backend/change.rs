//! New weights in place of old ones, or the old ones again.

/// What came of a change.
#[derive(Debug)]
pub(super) enum Changed<E> {
    /// The new weights are there.
    New,
    /// The old ones are there again.
    Old(E),
    /// Some are new, some old.
    Mixed {
        /// Why the new ones could not be written.
        failure: E,
        /// Why the old ones could not be brought back.
        again: E,
    },
}

/// Writes `new`; if that fails, computes the old weights again and writes them.
///
/// Nothing may have been written before: whatever can be checked was checked.
pub(super) fn change<W, E>(
    new: &W,
    mut write: impl FnMut(&W) -> Result<(), E>,
    old: impl FnOnce() -> Result<W, E>,
) -> Changed<E> {
    let Err(failure) = write(new) else {
        return Changed::New;
    };
    match old().and_then(|old| write(&old)) {
        Ok(()) => Changed::Old(failure),
        Err(again) => Changed::Mixed { failure, again },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two engines that are written one after the other; the write of this number fails.
    struct Engines {
        weights: [u32; 2],
        writes: usize,
        fails: Vec<usize>,
    }

    impl Engines {
        fn failing(fails: &[usize]) -> Self {
            Self {
                weights: [1, 1],
                writes: 0,
                fails: fails.to_vec(),
            }
        }

        fn write(&mut self, value: u32) -> Result<(), String> {
            for weight in &mut self.weights {
                self.writes += 1;
                if self.fails.contains(&self.writes) {
                    return Err(format!("write {}", self.writes));
                }
                *weight = value;
            }
            Ok(())
        }
    }

    #[test]
    fn what_is_written_is_new() {
        let mut engines = Engines::failing(&[]);
        let changed = change(&2, |&value| engines.write(value), || panic!("not needed"));
        assert!(matches!(changed, Changed::New));
        assert_eq!(engines.weights, [2, 2]);
    }

    #[test]
    fn a_failure_midway_brings_the_old_weights_back() {
        let mut engines = Engines::failing(&[2]);
        let changed = change(&2, |&value| engines.write(value), || Ok(1));
        assert!(matches!(changed, Changed::Old(error) if error == "write 2"));
        assert_eq!(engines.weights, [1, 1]);
    }

    #[test]
    fn a_failure_on_the_way_back_leaves_them_mixed() {
        let mut engines = Engines::failing(&[2, 3]);
        let changed = change(&2, |&value| engines.write(value), || Ok(1));
        assert!(matches!(changed, Changed::Mixed { failure, again }
            if failure == "write 2" && again == "write 3"));
        assert_eq!(engines.weights, [2, 1]);
        let mut engines = Engines::failing(&[1]);
        let old = || Err("a file is gone".to_owned());
        let changed = change(&2, |&value| engines.write(value), old);
        assert!(matches!(changed, Changed::Mixed { again, .. } if again == "a file is gone"));
    }
}
