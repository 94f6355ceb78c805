//! Folders of our own as whole systems.

use std::fs;

use super::*;

/// Empty files at `paths` below a new folder.
fn system(paths: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in paths {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    root
}

/// The files that are found, below the root; names of the system's search come before them.
fn found(environment: &Environment) -> Vec<String> {
    let root = &environment.root;
    let mut places = SearchPath::new(environment).into_places();
    if environment.explicit.is_none() {
        let names = places.drain(..FULL.len()).collect::<Vec<_>>();
        assert_eq!(names, FULL.map(Place::Name));
        places.retain(|place| !matches!(place, Place::Nothing(_)));
    }
    let show = |place: &Place| match place {
        Place::Name(name) => format!("name {name}"),
        Place::File(path) => path
            .strip_prefix(root)
            .unwrap_or(path)
            .display()
            .to_string(),
        Place::Nothing(path) => {
            format!(
                "nothing {}",
                path.strip_prefix(root).unwrap_or(path).display()
            )
        }
    };
    places.iter().map(show).collect()
}

fn environment(root: &tempfile::TempDir) -> Environment {
    Environment {
        root: root.path().to_owned(),
        ..Environment::default()
    }
}

#[test]
fn python_comes_before_the_sdk_and_lean_comes_last() {
    let root = system(&[
        "venv/lib/python3.9/site-packages/tensorrt_rtx_libs/libtensorrt_rtx.so.1",
        "venv/lib/python3.12/site-packages/tensorrt_lean_libs/libnvinfer_lean.so.11",
        "venv/lib/python3.12/site-packages/tensorrt_libs/libnvinfer.so.11",
        "home/.local/lib/python3.11/site-packages/tensorrt_rtx_libs/libtensorrt_rtx.so.1",
        "usr/lib/x86_64-linux-gnu/libnvinfer.so.11",
        "opt/tensorrt-rtx/lib/libtensorrt_rtx.so",
        "opt/tensorrt-rtx/lib/libother.so",
    ]);
    let environment = Environment {
        python: vec![root.path().join("venv")],
        home: Some(root.path().join("home")),
        ..environment(&root)
    };
    assert_eq!(
        found(&environment),
        [
            "venv/lib/python3.12/site-packages/tensorrt_libs/libnvinfer.so.11",
            "venv/lib/python3.9/site-packages/tensorrt_rtx_libs/libtensorrt_rtx.so.1",
            "home/.local/lib/python3.11/site-packages/tensorrt_rtx_libs/libtensorrt_rtx.so.1",
            "opt/tensorrt-rtx/lib/libtensorrt_rtx.so",
            "usr/lib/x86_64-linux-gnu/libnvinfer.so.11",
            "venv/lib/python3.12/site-packages/tensorrt_lean_libs/libnvinfer_lean.so.11",
        ]
    );
}

#[test]
fn what_is_named_is_looked_at_alone() {
    let root = system(&[
        "sdk/lib/libnvinfer.so.11",
        "sdk/lib/libnvinfer_lean.so.11",
        "empty/readme",
        "usr/lib64/libtensorrt_rtx.so.1",
    ]);
    let cases: [(&str, &[&str]); 4] = [
        (
            "sdk",
            &["sdk/lib/libnvinfer.so.11", "sdk/lib/libnvinfer_lean.so.11"],
        ),
        (
            "sdk/lib/libnvinfer_lean.so.11",
            &["sdk/lib/libnvinfer_lean.so.11"],
        ),
        ("empty", &["nothing empty"]),
        ("missing", &["missing"]),
    ];
    for (explicit, expected) in cases {
        let environment = Environment {
            explicit: Some(root.path().join(explicit)),
            ..environment(&root)
        };
        assert_eq!(found(&environment), expected, "{explicit}");
    }
}

#[test]
fn an_empty_system_has_only_names() {
    let root = system(&[]);
    assert_eq!(found(&environment(&root)), [""; 0]);
}

#[test]
fn folders_without_a_library_are_told() {
    let root = system(&[
        "usr/lib/python3/dist-packages/six.py",
        "usr/local/TensorRT/lib/libnvinfer.so.11",
    ]);
    let places = SearchPath::new(&environment(&root)).into_places();
    let nothing = |path: &str| places.contains(&Place::Nothing(root.path().join(path)));
    assert!(nothing("usr/lib/python3/dist-packages"));
    assert!(nothing("opt/tensorrt-rtx"));
    assert!(!nothing("usr/local/TensorRT"));
}

#[test]
fn an_environment_is_found_by_its_python() {
    let root = system(&["venv/bin/python3", "other/bin/ls"]);
    let path =
        std::env::join_paths(["venv/bin", "other/bin"].map(|folder| root.path().join(folder)));
    assert_eq!(pythons_on(&path.unwrap()), [root.path().join("venv")]);
}
