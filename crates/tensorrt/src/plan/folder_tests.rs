//! Folders that go with modules: what is written is what the cache has, and reading changes nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::SystemTime;

use super::*;
use crate::plan::PlanCache;

fn key(name: &str) -> PlanKey {
    PlanKey::of_name(name)
}

fn build(cache: &PlanCache, name: &str, plan: &[u8]) -> PlanEntry {
    let build = |writer: &mut (dyn Write + Send)| {
        writer.write_all(plan).unwrap();
        Ok(name.as_bytes().to_vec())
    };
    cache.get_or_build(&key(name), build).unwrap()
}

/// Names, bytes and times of all files.
fn all(folder: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let items = fs::read_dir(folder).unwrap().map(|item| item.unwrap());
    let files = items.map(|item| {
        let bytes = fs::read(item.path()).unwrap();
        let modified = item.metadata().unwrap().modified().unwrap();
        (item.file_name().into_string().unwrap(), (bytes, modified))
    });
    files.collect()
}

#[test]
fn what_is_saved_is_what_the_cache_has() {
    let [cache_folder, saved] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let cache = PlanCache::new(cache_folder.path());
    let entry = build(&cache, "a", &[7; 10_000]);
    let kernels = cache.kernels(&key("a"), "GPU");
    let folder = PlanFolder::new(saved.path());
    kernels.write(b"kernels").unwrap();
    let timing = cache.timing_cache("enterprise-11.4.0", "GPU");
    assert_eq!(folder.put_file(&timing).unwrap(), None);
    fs::write(&timing, b"times").unwrap();
    let names = [
        folder.put(&key("a"), &entry).unwrap(),
        folder.put_kernels(&kernels, b"kernels").unwrap(),
        folder.put_file(&timing).unwrap().unwrap(),
    ];
    let files = all(saved.path());
    assert_eq!(files.len(), 3, "no locks, no temporary files");
    for name in &names {
        let kept = fs::read(cache_folder.path().join(name)).unwrap();
        assert!(files[name].0 == kept, "{name}");
    }
    // A cache takes the folder's files as its own.
    let other = PlanCache::new(saved.path());
    assert!(other.get(&key("a")).is_some());
    assert_eq!(other.kernels(&key("a"), "GPU").read().unwrap(), b"kernels");
}

#[test]
fn looking_changes_nothing() {
    let [cache_folder, saved] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let cache = PlanCache::new(cache_folder.path());
    let folder = PlanFolder::new(saved.path());
    folder.put(&key("a"), &build(&cache, "a", b"plan")).unwrap();
    folder
        .put(&key("b"), &build(&cache, "b", b"other"))
        .unwrap();
    let path = folder.path(&key("b"));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = all(saved.path());
    let mut found = folder.get(&key("a")).unwrap();
    let mut plan = String::new();
    found.read_to_string(&mut plan).unwrap();
    assert_eq!((plan.as_str(), found.manifest()), ("plan", &b"a"[..]));
    assert!(!found.is_new());
    assert!(folder.get(&key("b")).is_none(), "damaged");
    assert!(folder.get(&key("c")).is_none());
    // Under another name it is another's.
    assert!(folder.kernels(&key("a"), "GPU").read().is_none());
    assert_eq!(all(saved.path()), before);
    fs::rename(folder.path(&key("a")), folder.path(&key("c"))).unwrap();
    assert!(folder.get(&key("c")).is_none());
}

#[test]
fn a_folder_that_is_not_there_is_an_error_when_it_is_written() {
    let place = tempfile::tempdir().unwrap();
    let cache = PlanCache::new(place.path().join("cache"));
    let folder = PlanFolder::new(place.path().join("none"));
    assert!(folder.get(&key("a")).is_none());
    let error = folder.put(&key("a"), &build(&cache, "a", b"plan"));
    assert!(error.unwrap_err().to_string().contains("none"));
}
