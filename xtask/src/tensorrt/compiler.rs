//! Checks slots against a C++ compiler: `g++ -fdump-lang-class` prints the vtables it lays out.
//!
//! A pure function has no name there. So the compiler gets a copy of the headers, below `target/`,
//! in which no function is pure: then every slot shows its name.
//!
//! ```text
//! Vtable for nvinfer1::apiv::VHostMemory
//! 32    (int (*)(...))nvinfer1::apiv::VHostMemory::data     is slot 2: two words stand before
//! ```

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::bindings::stub_folder;
use super::headers::Headers;
use super::slots::{functions_in_slots, virtual_classes};
use super::types::{self, INTERFACES};
use crate::process::output_of;
use crate::workspace::Workspace;

/// What came of the check.
pub(super) enum Outcome {
    /// How much agreed.
    Checked { classes: usize, slots: usize },
    /// Why it could not be done.
    Skipped(String),
}

/// What the compiler says of a class.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    /// Bytes of an object.
    size: usize,
    /// What each slot holds, as far as it has a name.
    slots: Vec<String>,
}

/// Compares every slot of `headers` with the compiler's vtables.
pub(super) fn check(workspace: &Workspace, headers: &Headers) -> Result<Outcome> {
    if Command::new("g++")
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_err()
    {
        return Ok(Outcome::Skipped("there is no g++".to_owned()));
    }
    let layouts = layouts_of(&dump(workspace, headers)?);
    let declarations = &headers.declarations;
    let (mut classes, mut slots) = (0, 0);
    for name in virtual_classes(declarations).chain(INTERFACES) {
        let layout = layouts
            .get(name)
            .with_context(|| format!("g++ shows no class {name}"))?;
        let functions = functions_in_slots(declarations, name)?;
        let expected = functions
            .iter()
            .map(|(slot, _)| slot + 1)
            .max()
            .unwrap_or(2);
        if layout.slots.len() != expected {
            bail!(
                "{name}: expected {expected} slots, g++ has {}",
                layout.slots.len()
            );
        }
        for (slot, function) in &functions {
            let found = &layout.slots[*slot];
            if found.rsplit("::").next() != Some(&function.name) {
                bail!(
                    "{name}: expected {} in slot {slot}, g++ has {found}",
                    function.name
                );
            }
        }
        classes += 1;
        slots += layout.slots.len();
    }
    check_sizes(headers, &layouts)?;
    Ok(Outcome::Checked { classes, slots })
}

/// An object is its vtable's address and one address for each part of its implementation.
fn check_sizes(headers: &Headers, layouts: &BTreeMap<String, Layout>) -> Result<()> {
    let context = types::Context::new([&headers.declarations, &headers.declarations]);
    for (name, object) in &context.objects {
        let size = layouts.get(name).map(|layout| layout.size);
        let expected = 8 * (object.member + 1);
        if size != Some(expected) {
            bail!("{name}: expected {expected} bytes, g++ has {size:?}");
        }
    }
    Ok(())
}

/// Runs the compiler on all headers at once.
fn dump(workspace: &Workspace, headers: &Headers) -> Result<String> {
    let folder = workspace
        .target
        .join("tensorrt")
        .join("slots")
        .join(format!("{}-{}", headers.line, headers.version));
    std::fs::create_dir_all(&folder)?;
    for entry in headers.folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "h") {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_name().context("a file without a name")?;
            std::fs::write(folder.join(name), without_pure_functions(&text))?;
        }
    }
    let source = folder.join("all.cpp");
    std::fs::write(&source, "#include \"NvInfer.h\"\n")?;
    let output = folder.join("classes.txt");
    output_of(
        Command::new("g++")
            .args(["-std=c++17", "-w", "-fsyntax-only"])
            .arg(format!("-fdump-lang-class={}", output.display()))
            .arg("-I")
            .arg(stub_folder(workspace)?)
            .arg(&source),
    )?;
    std::fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))
}

/// Leaves out each `= 0` that makes a function pure.
fn without_pure_functions(text: &str) -> String {
    let mut parts = text.split('=');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends_function = [")", "noexcept", "const", "override"]
            .iter()
            .any(|end| result.trim_end().ends_with(end));
        let is_zero = part
            .trim_start()
            .strip_prefix('0')
            .is_some_and(|rest| rest.trim_start().starts_with(';'));
        if ends_function && is_zero {
            result.push_str(part.trim_start().trim_start_matches('0'));
        } else {
            result.push('=');
            result.push_str(part);
        }
    }
    result
}

/// Reads the compiler's dump: classes by their last name, the first of a name.
fn layouts_of(dump: &str) -> BTreeMap<String, Layout> {
    let mut layouts: BTreeMap<String, Layout> = BTreeMap::new();
    for paragraph in dump.split("\n\n") {
        let mut lines = paragraph.trim_start().lines();
        let Some(title) = lines.next() else { continue };
        if let Some(class) = title.strip_prefix("Vtable for ") {
            let slots = lines.filter_map(slot).collect();
            let layout = layouts.entry(last_name(class)).or_default();
            if layout.slots.is_empty() {
                layout.slots = slots;
            }
        } else if let Some(class) = title.strip_prefix("Class ") {
            let size = lines
                .next()
                .and_then(|line| line.trim().strip_prefix("size="))
                .and_then(|line| line.split_whitespace().next()?.parse().ok());
            let layout = layouts.entry(last_name(class)).or_default();
            if layout.size == 0 {
                layout.size = size.unwrap_or_default();
            }
        }
    }
    layouts
}

/// `32    (int (*)(...))nvinfer1::F::f`; the two words at 0 and 8 are no slots.
fn slot(line: &str) -> Option<String> {
    let (offset, value) = line.split_once(char::is_whitespace)?;
    let offset = offset.parse::<usize>().ok()?;
    let value = value.trim();
    let value = value.strip_prefix("(int (*)(...))").unwrap_or(value);
    (offset >= 16).then(|| value.to_owned())
}

fn last_name(class: &str) -> String {
    let class = class.split_whitespace().next().unwrap_or(class);
    class.rsplit("::").next().unwrap_or(class).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\
Vtable for nvinfer1::apiv::VHost
nvinfer1::apiv::VHost::_ZTVN8nvinfer15VHostE: 5 entries
0     (int (*)(...))0
8     (int (*)(...))(& _ZTIN8nvinfer15VHostE)
16    (int (*)(...))nvinfer1::apiv::VHost::~VHost
24    (int (*)(...))nvinfer1::apiv::VHost::~VHost
32    (int (*)(...))nvinfer1::apiv::VHost::data

Class nvinfer1::apiv::VHost
   size=8 align=8
   base size=8 base align=8

Class std::nothing
";

    #[test]
    fn vtables_and_sizes_are_read_from_the_dump() {
        let layouts = layouts_of(DUMP);
        let host = &layouts["VHost"];
        assert_eq!(host.size, 8);
        assert_eq!(host.slots.len(), 3);
        assert!(host.slots[2].ends_with("VHost::data"));
        assert!(host.slots[0].ends_with("~VHost"));
        assert_eq!(layouts["nothing"], Layout::default());
    }

    #[test]
    fn only_pure_functions_lose_their_zero() {
        let text = "virtual int f() const noexcept\n    = 0; int x = 0; g() = default; h()=0 ;";
        let expected = "virtual int f() const noexcept\n    ; int x = 0; g() = default; h() ;";
        assert_eq!(without_pure_functions(text), expected);
    }
}
