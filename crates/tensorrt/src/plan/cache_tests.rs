//! The folder of plans: found, built once, damaged, let go, abandoned.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

fn cache() -> (TempDir, PlanCache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = PlanCache::new(folder.path().join("plans"));
    (folder, cache)
}

fn key(name: &str) -> PlanKey {
    PlanKey::of_name(name)
}

fn put(cache: &PlanCache, name: &str, plan: &[u8]) -> PlanEntry {
    let build = |writer: &mut (dyn Write + Send)| {
        writer.write_all(plan).unwrap();
        Ok(name.as_bytes().to_vec())
    };
    cache.get_or_build(&key(name), build).unwrap()
}

fn text(mut entry: PlanEntry) -> String {
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    text
}

/// The names of all files in the folder.
fn files(cache: &PlanCache) -> Vec<String> {
    let items = fs::read_dir(cache.folder()).unwrap();
    let names = items.map(|item| item.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn is_there(cache: &PlanCache, name: &str) -> bool {
    cache.path(&key(name)).exists()
}

#[test]
fn a_plan_is_built_once_and_found_afterwards() {
    let (_folder, cache) = cache();
    assert!(cache.get(&key("a")).is_none());
    let built = put(&cache, "a", b"plan");
    assert!(built.is_new());
    assert_eq!(built.manifest(), b"a");
    assert_eq!(text(built), "plan");
    let found = cache.get_or_build(&key("a"), |_| panic!("it is there"));
    let found = found.unwrap();
    assert!(!found.is_new());
    assert_eq!(found.manifest(), b"a");
    assert_eq!(text(found), "plan");
    assert_eq!(files(&cache), [format!("{}.plan", key("a"))]);
}

#[test]
fn threads_that_want_one_plan_build_it_once() {
    let (_folder, cache) = cache();
    let builds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let entry = cache.get_or_build(&key("a"), |writer| {
                    builds.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(50));
                    writer.write_all(b"plan").unwrap();
                    Ok(Vec::new())
                });
                assert_eq!(text(entry.unwrap()), "plan");
            });
        }
    });
    assert_eq!(builds.into_inner(), 1);
    assert_eq!(files(&cache).len(), 1, "neither locks nor temporaries stay");
}

#[test]
fn threads_that_want_different_plans_do_not_wait_for_each_other() {
    let (_folder, cache) = cache();
    let entry = cache.get_or_build(&key("a"), |writer| {
        put(&cache, "b", b"inner");
        writer.write_all(b"outer").unwrap();
        Ok(Vec::new())
    });
    assert_eq!(text(entry.unwrap()), "outer");
    assert_eq!(text(cache.get(&key("b")).unwrap()), "inner");
}

#[test]
fn a_truncated_or_flipped_plan_is_a_miss_and_is_removed() {
    let (_folder, cache) = cache();
    put(&cache, "a", b"a plan of some length");
    let path = cache.path(&key("a"));
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() - 1], &whole[..10], &[], &flipped] {
        fs::write(&path, damaged).unwrap();
        assert!(cache.get(&key("a")).is_none());
        assert!(!path.exists());
        fs::write(&path, damaged).unwrap();
        assert!(put(&cache, "a", b"a plan of some length").is_new());
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn a_damaged_plan_that_is_being_built_anew_is_left_to_the_builder() {
    let (_folder, cache) = cache();
    put(&cache, "a", b"plan");
    let path = cache.path(&key("a"));
    fs::write(&path, b"damaged").unwrap();
    let lock = cache.lock(&key("a")).unwrap();
    assert!(cache.get(&key("a")).is_none());
    assert!(path.exists());
    drop(lock);
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let (_folder, cache) = cache();
    let plan = [7; 936];
    for name in ["a", "b", "c"] {
        put(&cache, name, &plan);
    }
    let each = fs::metadata(cache.path(&key("a"))).unwrap().len();
    let cache = cache.with_limit(3 * each);
    assert!(cache.get(&key("a")).is_some());
    put(&cache, "d", &plan);
    let there = |cache: &PlanCache| ["a", "b", "c", "d", "e"].map(|name| is_there(cache, name));
    assert_eq!(there(&cache), [true, false, true, true, false]);
    cache.get(&key("c")).unwrap();
    put(&cache, "e", &plan);
    assert_eq!(there(&cache), [false, false, true, true, true]);
    cache.clone().with_limit(each).trim().unwrap();
    assert_eq!(there(&cache), [false, false, false, false, true]);
}

#[test]
fn the_order_of_uses_holds_when_the_clock_is_turned_back() {
    let (_folder, cache) = cache();
    for name in ["a", "b", "c"] {
        put(&cache, name, b"plan");
    }
    // `b` was used while the clock was a year ahead.
    let ahead = SystemTime::now() + Duration::from_hours(24 * 365);
    let file = File::open(cache.path(&key("b"))).unwrap();
    file.set_modified(ahead).unwrap();
    cache.get(&key("c")).unwrap();
    cache.get(&key("a")).unwrap();
    let used = |name| {
        fs::metadata(cache.path(&key(name)))
            .unwrap()
            .modified()
            .unwrap()
    };
    assert!(used("b") < used("c") && used("c") < used("a"));
}

#[test]
fn a_plan_larger_than_the_cache_is_kept_until_the_next() {
    let (_folder, cache) = cache();
    let cache = cache.with_limit(10);
    assert!(put(&cache, "a", b"a plan").is_new());
    assert!(cache.get(&key("a")).is_some());
    assert!(put(&cache, "b", b"a plan").is_new());
    assert!(!is_there(&cache, "a") && is_there(&cache, "b"));
}

#[test]
fn a_plan_that_goes_while_it_is_read_can_be_read_to_its_end() {
    let (_folder, cache) = cache();
    let entry = put(&cache, "a", b"plan");
    fs::remove_file(cache.path(&key("a"))).unwrap();
    assert_eq!(text(entry), "plan");
}

#[test]
fn abandoned_temporaries_go_and_others_stay() {
    let (_folder, cache) = cache();
    put(&cache, "a", b"plan");
    let temporary = |name| cache.folder().join(format!("{}.x7Y.tmp", key(name)));
    for name in ["a", "b", "c"] {
        fs::write(temporary(name), b"half a plan").unwrap();
    }
    // `c` is being written.
    let lock = cache.lock(&key("c")).unwrap();
    // The builder of a key removes what lies there of that key, and eviction all the rest.
    put(&cache, "b", b"plan");
    assert!(!temporary("a").exists() && !temporary("b").exists());
    assert!(temporary("c").exists());
    drop(lock);
    cache.trim().unwrap();
    assert!(!temporary("c").exists());
    fs::write(cache.folder().join("notes.tmp"), b"not ours").unwrap();
    cache.trim().unwrap();
    assert_eq!(files(&cache).len(), 3, "two plans, and what is not ours");
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let (_folder, cache) = cache();
    let failed = cache.get_or_build(&key("a"), |writer| {
        writer.write_all(b"half a plan").unwrap();
        Err(Error::NoTarget { text: "sm1".into() })
    });
    assert!(matches!(failed, Err(Error::NoTarget { .. })));
    assert_eq!(files(&cache), [""; 0]);
}

/// Every write to this device fails for want of room.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_although_the_build_calls_it_a_success() {
    let (_folder, cache) = cache();
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let failed = |source| Error::Cache {
        path: cache.path(&key("a")),
        source,
    };
    let build = |writer: &mut (dyn Write + Send)| {
        let _ = writer.write_all(&vec![1; 4 << 20]);
        Ok(Vec::new())
    };
    let error = write(full(), &key("a"), build, &failed).unwrap_err();
    assert!(
        matches!(&error, Error::Cache { source, .. }
        if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
}

#[test]
fn without_a_folder_plans_are_built_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let cache = PlanCache::new(file);
    for _ in 0..2 {
        let entry = put(&cache, "a", b"plan");
        assert!(entry.is_new());
        assert_eq!(text(entry), "plan");
    }
}

#[test]
fn compiled_kernels_are_those_of_a_plan_and_a_gpu() {
    let (_folder, cache) = cache();
    let kernels = |name, gpu| cache.kernels(&key(name), gpu);
    let file = kernels("a", "NVIDIA H100");
    file.write(b"kernels").unwrap();
    assert_eq!(file.read().unwrap(), b"kernels");
    let name = format!("{}.nvidia-h100.kernels", key("a"));
    assert_eq!(file.path(), cache.folder().join(name));
    assert_eq!(kernels("b", "NVIDIA H100").read(), None);
    // Two names that give one file name are told apart by the checksum.
    assert_eq!(kernels("a", "NVIDIA/H100").path(), file.path());
    assert_eq!(kernels("a", "NVIDIA/H100").read(), None);
    fs::write(file.path(), b"damaged").unwrap();
    assert_eq!(file.read(), None);
    file.write(b"more kernels").unwrap();
    assert_eq!(file.read().unwrap(), b"more kernels");
    assert_eq!(files(&cache).len(), 1);
}

#[test]
fn compiled_kernels_go_with_their_plan() {
    let (_folder, cache) = cache();
    for name in ["a", "b"] {
        put(&cache, name, b"plan");
        cache.kernels(&key(name), "H100").write(b"kernels").unwrap();
    }
    let times = cache.timing_cache("enterprise-11.4.0", "NVIDIA H100");
    assert!(times.ends_with("enterprise-11.4.0-nvidia-h100.timing"));
    fs::write(&times, b"times").unwrap();
    cache.clone().with_limit(100).trim().unwrap();
    assert!(is_there(&cache, "b") && times.exists());
    assert_eq!(cache.kernels(&key("a"), "H100").read(), None);
    assert!(cache.kernels(&key("b"), "H100").read().is_some());
}
