//! Which slot of its vtable a virtual function has, in which versions.
//!
//! By the Itanium C++ ABI a vtable has the base's slots first, then one for each new virtual
//! function in order of declaration; a destructor takes two (complete, deleting). Within a line
//! a later version may only append; anything else is an error here, so that a new line is made.
//!
//! ```text
//! VHostMemory: ~ 0, ~ 1, data 2, size 3, type 4
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::headers::Headers;
use super::parse::{Class, Declarations, Function};
use super::{Line, Version};

/// A virtual class of the library's inside, in both lines.
pub(super) struct SlotTable {
    /// `VHostMemory`.
    pub(super) name: String,
    pub(super) methods: Vec<Method>,
}

/// A function and where each line has it.
pub(super) struct Method {
    pub(super) function: Function,
    pub(super) places: BTreeMap<Line, Place>,
}

/// A slot and the first version that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: usize,
    pub(super) since: Version,
}

/// What versions added whose predecessors' headers are not among those that cargo can fetch,
/// as NVIDIA's public repository has them. With those headers at hand this table is checked.
const ENTERPRISE_ADDITIONS: [(Version, &str, &[&str]); 5] = [
    (
        Version::new(11, 1, 0),
        "VBuilderConfig",
        &["setBuildRoute", "getBuildRoute", "getAllBuildRoutes"],
    ),
    (
        Version::new(11, 4, 0),
        "VRuntime",
        &[
            "setDLAWorkspaceAllocationStrategy",
            "getDLAWorkspaceAllocationStrategy",
        ],
    ),
    (
        Version::new(11, 4, 0),
        "VRefitter",
        &["releaseRefitResources"],
    ),
    (
        Version::new(11, 4, 0),
        "VOptimizationProfile",
        &["setProfileStream", "getProfileStream"],
    ),
    (
        Version::new(11, 4, 0),
        "VNetworkDefinition",
        &["addSqueezeV2"],
    ),
];

/// The tables of all `V*` classes in `headers`, which are sorted by line and version.
pub(super) fn tables(headers: &[Headers]) -> Result<Vec<SlotTable>> {
    let mut tables: BTreeMap<String, SlotTable> = BTreeMap::new();
    for line in Line::ALL {
        let sets = headers
            .iter()
            .filter(|headers| headers.line == line)
            .collect::<Vec<_>>();
        let newest = sets
            .last()
            .with_context(|| format!("no headers of {line}"))?;
        for name in virtual_classes(&newest.declarations) {
            let places = places_of(name, line, &sets)?;
            let table = tables.entry(name.to_owned()).or_insert_with(|| SlotTable {
                name: name.to_owned(),
                methods: Vec::new(),
            });
            for (function, place) in places {
                table.add(function, line, place)?;
            }
        }
    }
    Ok(tables.into_values().collect())
}

/// Names of the library's inner classes: `V` and a capital letter.
pub(super) fn virtual_classes(declarations: &Declarations) -> impl Iterator<Item = &str> {
    declarations
        .classes
        .keys()
        .map(String::as_str)
        .filter(|name| *name != "VRoot" && is_virtual_class(name))
}

fn is_virtual_class(name: &str) -> bool {
    name.strip_prefix('V')
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
}

impl SlotTable {
    fn add(&mut self, function: Function, line: Line, place: Place) -> Result<()> {
        let known = self
            .methods
            .iter_mut()
            .find(|method| method.function.name == function.name);
        let Some(method) = known else {
            self.methods.push(Method {
                function,
                places: BTreeMap::from([(line, place)]),
            });
            return Ok(());
        };
        if !method.function.has_signature_of(&function) {
            bail!(
                "{}::{} has different signatures in the two lines",
                self.name,
                function.name
            );
        }
        method.places.insert(line, place);
        Ok(())
    }
}

impl Function {
    fn has_signature_of(&self, other: &Self) -> bool {
        let types = |function: &Self| {
            let parameters = function.parameters.iter();
            parameters.map(|p| p.ty.clone()).collect::<Vec<_>>()
        };
        self.result == other.result && types(self) == types(other)
    }
}

/// The functions of `name` in the newest of `sets`, each with the oldest version that has it.
fn places_of(name: &str, line: Line, sets: &[&Headers]) -> Result<Vec<(Function, Place)>> {
    let newest = sets.last().context("a line without headers")?;
    let functions = functions_in_slots(&newest.declarations, name)?;
    let mut since = vec![newest.version; functions.len()];
    for set in sets.iter().rev() {
        if !set.declarations.classes.contains_key(name) {
            continue;
        }
        let older = functions_in_slots(&set.declarations, name)?;
        let is_prefix = older.len() <= functions.len()
            && older
                .iter()
                .zip(&functions)
                .all(|(a, b)| a.0 == b.0 && a.1.name == b.1.name && a.1.has_signature_of(&b.1));
        if !is_prefix {
            bail!(
                "{line} {}: {name} is no beginning of that of {}",
                set.version,
                newest.version
            );
        }
        since[..older.len()].fill(set.version);
    }
    if line == Line::Enterprise {
        correct_by_additions(name, &functions, sets[0].version, &mut since)?;
    }
    let with_place = |((slot, function), since)| (function, Place { slot, since });
    Ok(functions.into_iter().zip(since).map(with_place).collect())
}

/// Applies [`ENTERPRISE_ADDITIONS`] where headers as old as they are missing, else checks them.
fn correct_by_additions(
    name: &str,
    functions: &[(usize, Function)],
    oldest: Version,
    since: &mut [Version],
) -> Result<()> {
    let first = Version::new(11, 0, 0);
    for ((_, function), since) in functions.iter().zip(since) {
        let added = ENTERPRISE_ADDITIONS
            .iter()
            .find(|(_, class, names)| *class == name && names.contains(&function.name.as_str()))
            .map_or(first, |(version, ..)| *version);
        if oldest == first && *since != added {
            bail!(
                "the table of additions says that {name}::{} came with {added}, the headers say {since}",
                function.name
            );
        }
        // A version newer than the table knows is what its headers say.
        if *since == oldest {
            *since = added;
        }
    }
    Ok(())
}

/// The functions of a class and its bases that have a slot of their own, without destructors.
pub(super) fn functions_in_slots(
    declarations: &Declarations,
    name: &str,
) -> Result<Vec<(usize, Function)>> {
    let mut slots = Vec::new();
    let mut next = 0;
    collect(
        declarations,
        class(declarations, name)?,
        &mut slots,
        &mut next,
    )?;
    Ok(slots
        .into_iter()
        .filter(|(_, function)| !function.name.starts_with('~'))
        .collect())
}

/// Every slot's function; a destructor counts twice and stands in the first of its two.
fn collect(
    declarations: &Declarations,
    class_: &Class,
    slots: &mut Vec<(usize, Function)>,
    next: &mut usize,
) -> Result<()> {
    for (index, base) in class_.bases.iter().enumerate() {
        if index > 0 {
            bail!("{}: more than one base", class_.name);
        }
        collect(declarations, class(declarations, base)?, slots, next)?;
    }
    for function in &class_.functions {
        let is_destructor = function.name.starts_with('~');
        let overridden = slots.iter_mut().find(|(_, known)| {
            known.name == function.name || (is_destructor && known.name.starts_with('~'))
        });
        if let Some((_, known)) = overridden {
            *known = function.clone();
            continue;
        }
        slots.push((*next, function.clone()));
        *next += if is_destructor { 2 } else { 1 };
    }
    Ok(())
}

fn class<'a>(declarations: &'a Declarations, name: &str) -> Result<&'a Class> {
    declarations
        .classes
        .get(name)
        .with_context(|| format!("no declaration of class {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const ROOT: &str = "class VRoot { public: virtual ~VRoot() noexcept = default; };";

    fn headers(line: Line, version: Version, source: &str) -> Headers {
        let mut declarations = Declarations::default();
        declarations.read(ROOT).unwrap();
        declarations.read(source).unwrap();
        Headers {
            folder: PathBuf::new(),
            line,
            version,
            declarations,
        }
    }

    fn class_of(functions: &[&str]) -> String {
        let functions = functions.join("() = 0; virtual void ");
        format!("class VThing : public VRoot {{ public: virtual void {functions}() = 0; }};")
    }

    const OLD: Version = Version::new(1, 5, 0);
    const NEW: Version = Version::new(1, 7, 1);
    const FULL: Version = Version::new(11, 0, 0);

    #[test]
    fn slots_differ_by_line_and_additions_have_a_version() {
        let tables = tables(&[
            headers(Line::Rtx, OLD, &class_of(&["a", "b"])),
            headers(Line::Rtx, NEW, &class_of(&["a", "b", "c"])),
            headers(Line::Enterprise, FULL, &class_of(&["a", "x", "b"])),
        ])
        .unwrap();
        assert_eq!(tables.len(), 1);
        let shown = tables[0].methods.iter().map(|method| {
            let place = |line| method.places.get(&line).map(|p: &Place| (p.slot, p.since));
            (
                method.function.name.as_str(),
                place(Line::Rtx),
                place(Line::Enterprise),
            )
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                ("a", Some((2, OLD)), Some((2, FULL))),
                ("b", Some((3, OLD)), Some((4, FULL))),
                ("c", Some((4, NEW)), None),
                ("x", None, Some((3, FULL))),
            ]
        );
    }

    #[test]
    fn a_method_that_vanishes_within_a_line_is_an_error() {
        let sets = [
            headers(Line::Rtx, OLD, &class_of(&["a", "gone", "b"])),
            headers(Line::Rtx, NEW, &class_of(&["a", "b"])),
            headers(Line::Enterprise, FULL, &class_of(&["a"])),
        ];
        let error = tables(&sets).err().unwrap().to_string();
        assert!(error.contains("VThing is no beginning"), "{error}");
    }

    #[test]
    fn bases_come_first_and_overriding_takes_no_slot() {
        let mut declarations = Declarations::default();
        declarations
            .read(
                "class Base { virtual int32_t language() const; virtual int32_t info() const = 0;
                              virtual ~Base() noexcept = default; };
                 class Derived : public Base { int32_t info() const override { return 1; }
                              virtual void log() = 0; ~Derived() override = default; };",
            )
            .unwrap();
        let slots = functions_in_slots(&declarations, "Derived").unwrap();
        let shown = slots.iter().map(|(slot, f)| (*slot, f.name.as_str()));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [(0, "language"), (1, "info"), (4, "log")]
        );
    }

    #[test]
    fn the_table_of_additions_is_used_without_old_headers_and_checked_with_them() {
        let source = "class VRefitter : public VRoot { virtual void a() = 0; virtual void releaseRefitResources() = 0; };";
        let new = || headers(Line::Enterprise, Version::new(11, 4, 0), source);
        let rtx = || headers(Line::Rtx, OLD, source);
        let since = |sets: &[Headers]| {
            let tables = tables(sets).map_err(|error| error.to_string())?;
            let since = tables[0]
                .methods
                .iter()
                .map(|m| m.places[&Line::Enterprise].since.minor);
            Ok::<_, String>(since.collect::<Vec<_>>())
        };
        assert_eq!(since(&[rtx(), new()]), Ok(vec![0, 4]));
        let old = headers(Line::Enterprise, FULL, source);
        let error = since(&[rtx(), old, new()]).unwrap_err();
        assert!(
            error.contains("came with 11.4.0, the headers say 11.0.0"),
            "{error}"
        );
    }
}
