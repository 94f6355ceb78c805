//! What a slot table is made of.
//!
//! The tables themselves are generated; see `generated/slots.rs`.

use crate::version::{Abi, Line, Version};

/// A class of the library and its virtual functions.
#[derive(Debug)]
pub(crate) struct Class {
    /// The public name, for instance `ITensor`.
    pub(crate) name: &'static str,
    pub(crate) methods: &'static [Method],
}

/// A virtual function and where each line has it.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    rtx: Option<Place>,
    enterprise: Option<Place>,
}

/// A slot of a vtable, and the first version that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    slot: usize,
    since: Version,
}

impl Method {
    /// The first version of a line that has it.
    pub(crate) fn since(&self, line: Line) -> Option<Version> {
        self.place(line).map(|place| place.since)
    }

    /// The slot in the vtables of one version.
    pub(crate) fn slot(&self, abi: Abi) -> Option<usize> {
        self.place(abi.line())
            .filter(|place| place.since <= abi.version())
            .map(|place| place.slot)
    }

    fn place(&self, line: Line) -> Option<Place> {
        match line {
            Line::Rtx => self.rtx,
            Line::Enterprise => self.enterprise,
        }
    }
}

pub(crate) const fn method(
    name: &'static str,
    rtx: Option<Place>,
    enterprise: Option<Place>,
) -> Method {
    Method {
        name,
        rtx,
        enterprise,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it stands beside `NOWHERE`")]
pub(crate) const fn at(slot: usize, major: u32, minor: u32, patch: u32) -> Option<Place> {
    Some(Place {
        slot,
        since: Version::new(major, minor, patch),
    })
}

/// The place of a function in a line that does not have it.
pub(crate) const NOWHERE: Option<Place> = None;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::slots::ALL;
    use crate::version::Newer;

    fn abi(number: i32) -> Abi {
        Abi::of_number(number, Newer::Refuse).unwrap()
    }

    #[test]
    fn a_slot_is_there_from_its_first_version_on() {
        let method = method("f", at(9, 1, 6, 1), NOWHERE);
        assert_eq!(method.slot(abi(10500)), None);
        assert_eq!(method.slot(abi(10600)), None);
        assert_eq!(method.slot(abi(10601)), Some(9));
        assert_eq!(method.slot(abi(10701)), Some(9));
        assert_eq!(method.slot(abi(110400)), None);
        assert_eq!(method.since(Line::Rtx), Some(Version::new(1, 6, 1)));
    }

    #[test]
    fn within_a_line_slots_are_dense_and_each_is_taken_once() {
        for class in ALL {
            for line in [Line::Rtx, Line::Enterprise] {
                let places = class.methods.iter().filter_map(|method| method.place(line));
                let mut places = places.collect::<Vec<_>>();
                places.sort_by_key(|place| place.slot);
                for (index, place) in places.iter().enumerate() {
                    // Slots 0 and 1 are destructors.
                    assert_eq!(place.slot, index + 2, "{} of {line}", class.name);
                }
                let versions = places.iter().map(|place| place.since);
                assert!(versions.is_sorted(), "{} of {line}", class.name);
            }
        }
    }
}
