//! One folder of plans and several processes: who builds, and what is left of one that is killed.
//!
//! The test program starts itself again to be another process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tintype_tensorrt::plan::{PlanCache, PlanKey, Recipe};
use tintype_tensorrt_sys::{Abi, Newer};

/// Names the folder that another process works on.
const FOLDER: &str = "TINTYPE_TEST_PLAN_FOLDER";
/// How long it takes for a plan, in milliseconds.
const DURATION: &str = "TINTYPE_TEST_PLAN_DURATION";

fn key() -> PlanKey {
    let graph = tintype_ir::parse("graph g { input step %x: f32[2] output y = %x }").unwrap();
    let abi = Abi::of_number(10701, Newer::Refuse).unwrap();
    PlanKey::new(&graph, &Recipe::new(abi, "sm89"))
}

/// Not a test of its own: what the other processes do.
#[test]
fn another_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let duration: u64 = std::env::var(DURATION).unwrap().parse().unwrap();
    let mut entry = PlanCache::new(folder)
        .get_or_build(&key(), |plan| {
            plan.write_all(&vec![1; 3 << 20]).unwrap();
            println!("\nbuilding");
            std::io::stdout().flush().unwrap();
            std::thread::sleep(Duration::from_millis(duration));
            plan.write_all(&vec![2; 3 << 20]).unwrap();
            Ok(b"list".to_vec())
        })
        .unwrap();
    let mut plan = Vec::new();
    entry.read_to_end(&mut plan).unwrap();
    assert_eq!(plan.len(), 6 << 20);
    println!("\ndone");
}

fn start(folder: &Path, milliseconds: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process", "--nocapture"])
        .env(FOLDER, folder)
        .env(DURATION, milliseconds.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The lines that a process writes, up to one of this text or its end.
fn lines_up_to(child: &mut Child, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        let is_last = line == last;
        lines.push(line);
        if is_last {
            break;
        }
    }
    lines
}

fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = items
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn processes_that_want_one_plan_build_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (0..4).map(|_| start(folder.path(), 300)).collect();
    let lines: Vec<Vec<String>> = children
        .iter_mut()
        .map(|child| lines_up_to(child, "done"))
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let builders = lines
        .iter()
        .filter(|lines| lines.iter().any(|line| line == "building"));
    assert_eq!(builders.count(), 1);
    assert!(lines.iter().all(|lines| lines.last().unwrap() == "done"));
    assert_eq!(names(folder.path()), [format!("{}.plan", key())]);
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = start(folder.path(), 60_000);
    assert_eq!(
        lines_up_to(&mut killed, "building").last().unwrap(),
        "building"
    );
    // One that waits for the killed one goes on by itself.
    let mut waiting = start(folder.path(), 0);
    std::thread::sleep(Duration::from_millis(300));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(lines_up_to(&mut waiting, "done").contains(&"building".to_owned()));
    assert!(waiting.wait().unwrap().success());
    assert_eq!(names(folder.path()), [format!("{}.plan", key())]);

    let mut killed = start(&folder.path().join("other"), 60_000);
    lines_up_to(&mut killed, "building");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let cache = PlanCache::new(folder.path().join("other"));
    assert!(cache.get(&key()).is_none());
    assert_eq!(names(cache.folder()).len(), 2, "a temporary and a lock");
    cache.trim().unwrap();
    assert_eq!(names(cache.folder()), [""; 0]);
}
