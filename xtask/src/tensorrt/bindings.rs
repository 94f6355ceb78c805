//! Enums and plain structs, by bindgen.
//!
//! bindgen runs in a process of its own (`cargo xtask bindings`, hidden), because it finds
//! libclang by an environment variable. The newest headers of both lines give one file: a
//! constant that both have must be the same in both.
//!
//! ```text
//! enum class DataType : int32_t { kFLOAT = 0 };   ->   DataType::FLOAT == DataType(0)
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bindgen::callbacks::{EnumVariantValue, ItemInfo, ParseCallbacks};
use quote::ToTokens;

use super::headers::Headers;
use super::types::STRUCTS;
use super::{fetch, names, render};
use crate::process::output_of;
use crate::workspace::Workspace;

/// Enums that belong to plugins, or to the headers' own machinery.
const LEFT_OUT: [&str; 2] = ["Plugin", "EnumMax"];

/// The one alias that a struct needs.
const ALIAS: &str = "InterfaceKind";

/// The text of `types.rs`.
pub(super) fn generate(
    workspace: &Workspace,
    libclang: &Path,
    newest: [&Headers; 2],
) -> Result<String> {
    let mut merged = Items::default();
    for headers in newest {
        let program = std::env::current_exe().context("where is this program?")?;
        let text = output_of(
            Command::new(program)
                .arg("bindings")
                .arg(&headers.folder)
                .arg(stub_folder(workspace)?)
                .env("LIBCLANG_PATH", libclang),
        )?;
        merged
            .add(&text)
            .with_context(|| format!("{} {}", headers.line, headers.version))?;
    }
    let mut text = render::head("Enums and plain structs of the library's interface.");
    text.push_str(
        "#![allow(missing_docs, reason = \"the vendor documents its own names\")]\n\
         #![allow(unreachable_pub, reason = \"bindgen knows one kind of visibility\")]\n\n",
    );
    text.push_str(&merged.into_text());
    Ok(text)
}

/// Prints the bindings of the headers in `folder`: the hidden task.
pub(crate) fn print(folder: &Path, stubs: &Path) -> Result<()> {
    let mut builder = bindgen::builder()
        .header(folder.join("NvInfer.h").display().to_string())
        .clang_args(["-x", "c++", "-std=c++17", "-w"])
        .clang_args([
            format!("-I{}", folder.display()),
            format!("-I{}", stubs.display()),
        ])
        .clang_args(
            system_includes()
                .iter()
                .map(|path| format!("-isystem{path}")),
        )
        .allowlist_recursively(false)
        .default_enum_style(bindgen::EnumVariation::NewType {
            is_bitfield: false,
            is_global: false,
        })
        .derive_debug(true)
        .derive_eq(true)
        .derive_hash(true)
        .layout_tests(false)
        .generate_comments(false)
        .disable_header_comment()
        .ignore_functions()
        .ignore_methods()
        .formatter(bindgen::Formatter::None)
        .parse_callbacks(Box::new(Renaming));
    for name in names_in(folder)? {
        builder = builder.allowlist_type(format!("nvinfer1::(v_1_0::)?{name}"));
    }
    let bindings = builder.generate().context("bindgen failed")?;
    print!("{bindings}");
    Ok(())
}

/// Names of the enums and structs to ask for.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let mut declarations = super::parse::Declarations::default();
    for name in super::headers::FILES {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        declarations.read(&text)?;
    }
    let wanted = |name: &String| !LEFT_OUT.iter().any(|prefix| name.starts_with(prefix));
    let enums = declarations.enums.into_iter().filter(wanted);
    let others = STRUCTS.into_iter().chain([ALIAS]).map(str::to_owned);
    Ok(enums.chain(others).collect())
}

/// Gives the names that Rust has for them.
#[derive(Debug)]
struct Renaming;

impl ParseCallbacks for Renaming {
    fn item_name(&self, item: ItemInfo<'_>) -> Option<String> {
        Some(names::type_(item.name))
    }

    fn enum_variant_name(
        &self,
        _enum_name: Option<&str>,
        original: &str,
        _value: EnumVariantValue,
    ) -> Option<String> {
        Some(names::constant(original))
    }
}

/// Items of several runs of bindgen, by name.
#[derive(Default)]
struct Items {
    structs: BTreeMap<String, String>,
    /// Constants of each type, in the order of their values.
    constants: BTreeMap<String, Vec<(String, String)>>,
}

impl Items {
    fn add(&mut self, text: &str) -> Result<()> {
        let text = without_namespaces(text);
        for item in syn::parse_file(&text)
            .context("bindgen wrote no Rust")?
            .items
        {
            match item {
                syn::Item::Struct(mut item) => {
                    for field in &mut item.fields {
                        if let Some(name) = &mut field.ident {
                            *name = syn::Ident::new(&names::field(&name.to_string()), name.span());
                        }
                    }
                    let text = item.to_token_stream().to_string();
                    same(&mut self.structs, item.ident.to_string(), text)?;
                }
                syn::Item::Impl(item) => self.add_constants(&item)?,
                syn::Item::Type(item) if item.ident == ALIAS => {
                    let text = item.to_token_stream().to_string();
                    same(&mut self.structs, item.ident.to_string(), text)?;
                }
                // Other aliases, and static members that only the C++ side has a use for.
                syn::Item::Type(_) | syn::Item::Const(_) | syn::Item::ForeignMod(_) => {}
                other => bail!("an item that is not known: {}", other.to_token_stream()),
            }
        }
        Ok(())
    }

    fn add_constants(&mut self, item: &syn::ItemImpl) -> Result<()> {
        let ty = item.self_ty.to_token_stream().to_string();
        let known = self.constants.entry(ty.clone()).or_default();
        for item in &item.items {
            let syn::ImplItem::Const(item) = item else {
                bail!("{ty}: {}", item.to_token_stream());
            };
            let (name, text) = (item.ident.to_string(), item.to_token_stream().to_string());
            match known.iter().find(|(known, _)| *known == name) {
                Some((_, other)) if *other != text => {
                    bail!("{ty}: expected `{other}` as in the other line, found `{text}`")
                }
                Some(_) => {}
                None => known.push((name, text)),
            }
        }
        Ok(())
    }

    fn into_text(self) -> String {
        let mut text = String::new();
        for (name, item) in &self.structs {
            text.push_str(item);
            if let Some(constants) = self.constants.get(name) {
                let constants = constants.iter().map(|(_, text)| text.as_str());
                let constants = constants.collect::<Vec<_>>().join("\n");
                text.push_str(&format!("\nimpl {name} {{\n{constants}\n}}\n"));
            }
        }
        // What crosses the border as it is: the alias is a pointer and needs no word.
        let plain = self.structs.keys().filter(|name| *name != ALIAS);
        let plain = plain.map(String::as_str).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("\ncrate::object::plain!({plain});\n"));
        text
    }
}

/// Renames what bindgen's callback does not reach: types where they are used.
fn without_namespaces(text: &str) -> String {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    let mut result = String::new();
    for part in text.split_inclusive(|character| !is_name(character)) {
        let end = part.trim_end_matches(|character| !is_name(character)).len();
        result.push_str(&names::type_(&part[..end]));
        result.push_str(&part[end..]);
    }
    result
}

fn same(items: &mut BTreeMap<String, String>, name: String, text: String) -> Result<()> {
    match items.get(&name) {
        Some(other) if *other != text => {
            bail!("{name}: expected `{other}` as in the other line, found `{text}`")
        }
        _ => {
            items.insert(name, text);
            Ok(())
        }
    }
}

/// A folder with what stands for CUDA's header: two pointer types are all that is used of it.
pub(super) fn stub_folder(workspace: &Workspace) -> Result<PathBuf> {
    const STUB: &str = "#pragma once\n#include <cstddef>\n#include <cstdint>\n\
                        typedef struct CUevent_st* cudaEvent_t;\n\
                        typedef struct CUstream_st* cudaStream_t;\n";
    let folder = workspace.target.join("tensorrt").join("stubs");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("cuda_runtime_api.h"), STUB)?;
    Ok(folder)
}

/// Where the C++ compiler keeps its headers: libclang alone has none.
fn system_includes() -> Vec<String> {
    let output = Command::new("g++")
        .args(["-E", "-x", "c++", "-v", "/dev/null"])
        .output();
    let Ok(output) = output else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines()
        .skip_while(|line| !line.starts_with("#include <"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.trim().to_owned())
        .collect()
}

/// The folder of a libclang: the one named, an installed one, or one fetched with pip.
pub(super) fn find_libclang(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("LIBCLANG_PATH") {
        return Ok(PathBuf::from(named));
    }
    let mut folders = vec![
        PathBuf::from("/usr/lib/x86_64-linux-gnu"),
        PathBuf::from("/usr/lib/aarch64-linux-gnu"),
        PathBuf::from("/usr/lib64"),
    ];
    let versions = Path::new("/usr/lib").read_dir().into_iter().flatten();
    folders.extend(versions.filter_map(|entry| {
        let path = entry.ok()?.path();
        let is_llvm = path.file_name()?.to_str()?.starts_with("llvm-");
        is_llvm.then(|| path.join("lib"))
    }));
    match folders.into_iter().find(|folder| has_libclang(folder)) {
        Some(folder) => Ok(folder),
        None => fetch::libclang(workspace),
    }
}

fn has_libclang(folder: &Path) -> bool {
    let is_libclang = |name: &OsStr| {
        let name = name.to_string_lossy();
        name == "libclang.so"
            || name.starts_with("libclang.so.")
            || name.starts_with("libclang-")
                && !name.starts_with("libclang-cpp")
                && name.contains(".so")
    };
    folder.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|e| is_libclang(&e.file_name())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "pub struct A(pub i32); impl A { pub const X: A = A(0); }";

    #[test]
    fn two_lines_give_the_union_of_their_constants() {
        let mut items = Items::default();
        items.add(ONE).unwrap();
        items
            .add("pub struct A(pub i32); impl A { pub const X: A = A(0); pub const Y: A = A(1); } pub struct B { pub x: i64 }")
            .unwrap();
        let text = items.into_text().replace(' ', "");
        assert!(text.contains("constX:A=A(0);\npubconstY:A=A(1);"), "{text}");
        assert!(text.contains("pubstructB"));
    }

    #[test]
    fn types_lose_their_namespaces_where_they_are_used() {
        let text = "pub const X: A = nvinfer1_v_1_0_A(0); d: nvinfer1_Dims64, é";
        let expected = "pub const X: A = A(0); d: Dims, é";
        assert_eq!(without_namespaces(text), expected);
    }

    #[test]
    fn a_constant_that_differs_is_an_error() {
        let cases = [
            "impl A { pub const X: A = A(1); }",
            "pub struct A(pub u32);",
            "pub fn f() {}",
            "no rust",
        ];
        for other in cases {
            let mut items = Items::default();
            items.add(ONE).unwrap();
            assert!(items.add(other).is_err(), "{other}");
        }
    }
}
