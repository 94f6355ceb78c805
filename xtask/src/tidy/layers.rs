//! Who may name whom: the crate table of the design, checked against `cargo metadata`.
//!
//! A normal or build dependency goes to a lower layer only. Dev-dependencies are free, except
//! that backends never name each other: what one backend's tests need of another belongs into
//! `conformance`.
//!
//! ```text
//! tintype (6) -> flux (5) -> models, lora, refit (4) -> backends (3) -> … -> tensor (0)
//! ```

use super::Finding;
use crate::workspace::{Dependency, Package, Workspace};

/// The layer of each package; the program's table, in the order of the design.
const LAYERS: [(&str, u8); 19] = [
    ("tintype-tensor", 0),
    ("tintype-ir", 1),
    ("tintype-weights", 1),
    ("tintype-backend", 2),
    ("tintype-device", 2),
    ("tintype-cpu", 3),
    ("tintype-tensorrt-sys", 3),
    ("tintype-tensorrt", 3),
    ("tintype-cuda", 3),
    ("tintype-quant", 3),
    ("tintype-refit", 4),
    ("tintype-lora", 4),
    ("tintype-models", 4),
    ("tintype-flux", 5),
    ("tintype-shapes", 5),
    ("tintype", 6),
    // Free to name anything; named by nothing.
    ("tintype-conformance", FREE),
    ("xtask", FREE),
    ("tintype-benches", FREE),
];

const FREE: u8 = u8::MAX;

/// Executes graphs; the program alone lists them.
const BACKENDS: [&str; 3] = ["tintype-cpu", "tintype-tensorrt", "tintype-cuda"];

/// The edges within a layer.
const WITHIN_A_LAYER: [(&str, &str); 2] = [
    ("tintype-tensorrt", "tintype-tensorrt-sys"),
    ("tintype-device", "tintype-backend"),
];

/// Checks every edge between packages of the workspace.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let place = workspace.relative(&package.manifest_path).display();
        let Some(layer) = layer_of(&package.name) else {
            let message = format!(
                "{} has no layer; add it to the table in xtask/src/tidy/layers.rs",
                package.name
            );
            findings.push(Finding::error(place, message));
            continue;
        };
        let objections = package
            .dependencies
            .iter()
            .filter(|dependency| is_member(workspace, &dependency.name))
            .filter_map(|dependency| objection(package, layer, dependency));
        findings.extend(objections.map(|message| Finding::error(&place, message)));
    }
    findings
}

fn objection(package: &Package, layer: u8, dependency: &Dependency) -> Option<String> {
    let (name, named) = (package.name.as_str(), dependency.name.as_str());
    if BACKENDS.contains(&name) && BACKENDS.contains(&named) && name != named {
        return Some(format!(
            "{name} names {named}: backends never name each other"
        ));
    }
    let is_development = dependency.kind.as_deref() == Some("dev");
    if is_development || layer == FREE || WITHIN_A_LAYER.contains(&(name, named)) {
        return None;
    }
    match layer_of(named) {
        // Without a layer it is reported where it is defined.
        None => None,
        Some(lower) if lower < layer => None,
        Some(FREE) => Some(format!("{name} names {named}, which nothing may name")),
        Some(other) => Some(format!(
            "{name} (layer {layer}) names {named} (layer {other}); only lower layers may be named"
        )),
    }
}

fn layer_of(name: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|entry| entry.0 == name)
        .map(|entry| entry.1)
}

fn is_member(workspace: &Workspace, name: &str) -> bool {
    workspace
        .packages
        .iter()
        .any(|package| package.name == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A package: its name, and its dependencies with their kinds.
    type Sketch<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn findings_of(packages: &[Sketch]) -> Vec<String> {
        let packages = packages.iter().map(|(name, dependencies)| {
            let dependencies = dependencies
                .iter()
                .map(|(name, kind)| json!({"name": name, "kind": kind}))
                .collect::<Vec<_>>();
            json!({
                "name": name, "license": null, "dependencies": dependencies, "targets": [],
                "manifest_path": format!("/repository/crates/{name}/Cargo.toml"),
            })
        });
        let metadata = json!({
            "workspace_root": "/repository", "target_directory": "/repository/target",
            "packages": packages.collect::<Vec<_>>(),
        });
        let workspace = Workspace::parse(&metadata.to_string()).unwrap();
        check(&workspace).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_to_lower_layers_pass() {
        let findings = findings_of(&[
            ("tintype-tensor", &[("half", None)]),
            ("tintype-ir", &[("tintype-tensor", None)]),
            ("tintype-tensorrt-sys", &[]),
            (
                "tintype-tensorrt",
                &[("tintype-tensorrt-sys", None), ("tintype-ir", None)],
            ),
            (
                "tintype-lora",
                &[("tintype-tensor", None), ("tintype-cpu", Some("dev"))],
            ),
            ("tintype-cpu", &[]),
            (
                "tintype-conformance",
                &[("tintype", None), ("tintype-cpu", None)],
            ),
            (
                "tintype",
                &[("tintype-lora", None), ("tintype-conformance", Some("dev"))],
            ),
        ]);
        assert_eq!(findings, [""; 0]);
    }

    #[test]
    fn edges_upwards_and_sideways_fail() {
        let findings = findings_of(&[
            ("tintype-tensor", &[("tintype-ir", None)]),
            ("tintype-ir", &[]),
            ("tintype-weights", &[("tintype-ir", Some("build"))]),
        ]);
        assert_eq!(
            findings,
            [
                "error: crates/tintype-tensor/Cargo.toml: tintype-tensor (layer 0) names \
                 tintype-ir (layer 1); only lower layers may be named",
                "error: crates/tintype-weights/Cargo.toml: tintype-weights (layer 1) names \
                 tintype-ir (layer 1); only lower layers may be named",
            ]
        );
    }

    #[test]
    fn backends_do_not_name_each_other_even_in_tests() {
        let findings = findings_of(&[
            ("tintype-cpu", &[]),
            ("tintype-cuda", &[("tintype-cpu", Some("dev"))]),
        ]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("backends never name each other"));
    }

    #[test]
    fn unknown_packages_and_free_ones_are_noticed() {
        let findings = findings_of(&[
            ("tintype-novel", &[]),
            ("tintype-conformance", &[]),
            ("tintype", &[("tintype-conformance", None)]),
        ]);
        assert_eq!(findings.len(), 2);
        assert!(findings[0].contains("tintype-novel has no layer"));
        assert!(findings[1].contains("which nothing may name"));
    }
}
