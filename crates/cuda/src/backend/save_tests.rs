//! Saving what was chosen and compiled, and looking there first.

use super::*;

#[test]
fn what_the_sizes_that_were_met_need_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let options = CompileOptions::default().with_folder("module");
    let (host, executable) = with_options(Host::new(LARGE), &options);
    assert_eq!(host.take_log(), ["look into module"]);
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    assert!(executable.save(folder.path()).unwrap().is_empty());
    Run::new(&executable, weights).check(1);
    let names = executable.save(folder.path()).unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = files.collect();
    files.sort();
    assert!(names.contains(&"linear.step".to_owned()), "{names:?}");
    assert_eq!(names, files);
    let error = executable.save(&folder.path().join("none")).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error}");
}
