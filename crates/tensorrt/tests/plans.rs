//! Builds plans of graphs on the CPU through the cache, where the library has been fetched.
//!
//! `cargo xtask test` fetches it (`cargo xtask fetch tensorrt` by hand). Where it is not there,
//! each of these tests is reported as ignored, by its name, and the reason is printed.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[path = "../../tensorrt-sys/tests/support/fetched.rs"]
mod fetched;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_ir::{Graph, Overlay, Stage, StagedGraph, parse, verify};
use tintype_tensorrt::backend::{BuildOptions, BuiltPlan, build_plans};
use tintype_tensorrt::lower::SizeRange;
use tintype_tensorrt::plan::PlanCache;
use tintype_tensorrt::{Error, Newer, Target, Tensorrt};

type Test = (&'static str, fn(&Tensorrt) -> Result<(), Failed>);

const TESTS: [Test; 10] = [
    ("a plan for each program and target", for_each_target),
    ("plans that are there are found", found_again),
    ("a folder is looked into first", folder_first),
    ("another weight program has the same plans", same_plans),
    ("a damaged plan is built anew", damaged),
    ("fewer sizes are another plan", fewer_sizes),
    (
        "a target that is not built for is refused first",
        bad_target,
    ),
    ("a target without f8 is refused first", without_f8),
    ("a build that is stopped leaves no plan", stopped),
    ("a program without weights has a plan", without_weights),
];

fn main() {
    let arguments = Arguments::from_args();
    let library = fetched::find_for(TESTS.len());
    let trial = |(name, test): Test| {
        let path = library.clone();
        let run = move || {
            let path = path.ok_or("the library was not fetched")?;
            test(&Tensorrt::open(&path, Newer::Refuse)?)
        };
        Trial::test(name, run).with_ignored_flag(library.is_none())
    };
    libtest_mimic::run(&arguments, Vec::from(TESTS.map(trial))).exit();
}

const MODEL: &str = r#"graph "model" {
  dim tokens = 1..=64
  param @modulation: bf16[32, 32]
  param @proj.weight: bf16[32, 32]
  param @proj.bias: bf16[32]
  input request %text: bf16[1, 32]
  input step %x: bf16[tokens, 32]
  %0: bf16[1, 32] = linear %text, @modulation  # modulation
  %1: bf16[1, 32] = silu %0
  %2: bf16[tokens, 32] = mul %x, %1
  %3: bf16[32, 32] = neg @proj.weight
  %4: bf16[tokens, 32] = linear %2, %3, @proj.bias  # proj
  %5: bf16[tokens, 32] = layer_norm %4 {epsilon = 1e-6}
  output y = %5
}"#;

fn graph(text: &str) -> Result<Graph, Failed> {
    let graph = parse(text)?;
    verify(&graph)?;
    Ok(graph)
}

fn sm(text: &str) -> Target {
    text.parse().expect("a target")
}

struct Folder {
    folder: tempfile::TempDir,
    options: BuildOptions,
}

fn folder() -> Result<Folder, Failed> {
    let folder = tempfile::tempdir()?;
    let options = BuildOptions::new(PlanCache::new(folder.path()));
    Ok(Folder { folder, options })
}

fn build(
    tensorrt: &Tensorrt,
    text: &str,
    options: &BuildOptions,
) -> Result<Vec<BuiltPlan>, Failed> {
    let staged = StagedGraph::split(&graph(text)?)?;
    Ok(build_plans(tensorrt, &staged, &[sm("sm89")], options)?)
}

fn paths(plans: &[BuiltPlan]) -> Vec<&Path> {
    plans.iter().map(|plan| plan.path.as_path()).collect()
}

fn for_each_target(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder { folder, options } = folder()?;
    let staged = StagedGraph::split(&graph(MODEL)?)?;
    let plans = build_plans(tensorrt, &staged, &[sm("sm80"), sm("sm120")], &options)?;
    let built: Vec<(Target, Stage)> = plans.iter().map(|plan| (plan.target, plan.stage)).collect();
    let expected = ["sm80", "sm120"]
        .map(|target| [Stage::Request, Stage::Step].map(|stage| (sm(target), stage)))
        .concat();
    assert_eq!(built, expected);
    for plan in &plans {
        assert!(plan.is_new && plan.bytes > 1000, "{plan:?}");
        assert!(plan.plan_bytes > 5 * plan.bytes, "{plan:?}");
        assert_eq!(fs::metadata(&plan.path)?.len(), plan.bytes);
    }
    // The weight of the modulation; the weight and bias of the projection, at least.
    assert!(plans[0].weights >= 1 && plans[1].weights >= 2, "{plans:?}");
    assert_eq!(fs::read_dir(folder.path())?.count(), 4);
    Ok(())
}

fn found_again(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder {
        options,
        folder: _folder,
    } = folder()?;
    let builds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&builds);
    let options = options.with_follow(Arc::new(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    }));
    let built = build(tensorrt, MODEL, &options)?;
    let told = builds.load(Ordering::Relaxed);
    assert!(told > 0, "progress is told");
    let found = build(tensorrt, MODEL, &options)?;
    assert_eq!(paths(&found), paths(&built));
    assert!(found.iter().all(|plan| !plan.is_new));
    assert_eq!(builds.load(Ordering::Relaxed), told, "nothing was built");
    // Another form of the activation is in the request program alone.
    let other = build(tensorrt, &MODEL.replace("silu", "gelu_erf"), &options)?;
    assert_eq!([other[0].is_new, other[1].is_new], [true, false]);
    Ok(())
}

fn folder_first(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let (first, saved, second) = (folder()?, tempfile::tempdir()?, folder()?);
    let built = build(tensorrt, MODEL, &first.options)?;
    for plan in &built {
        let name = plan.path.file_name().ok_or("a plan has a name")?;
        fs::copy(&plan.path, saved.path().join(name))?;
    }
    let options = second.options.with_folder(saved.path());
    let found = build(tensorrt, MODEL, &options)?;
    assert!(found.iter().all(|plan| !plan.is_new), "{found:?}");
    assert!(found.iter().all(|plan| plan.path.starts_with(saved.path())));
    assert_eq!(fs::read_dir(saved.path())?.count(), 2, "no locks");
    // What is damaged there is built, and goes into the cache.
    let mut bytes = fs::read(&found[1].path)?;
    bytes.pop();
    fs::write(&found[1].path, &bytes)?;
    let again = build(tensorrt, MODEL, &options)?;
    assert_eq!([again[0].is_new, again[1].is_new], [false, true]);
    assert!(again[1].path.starts_with(second.folder.path()));
    assert_eq!(fs::read(&found[1].path)?, bytes);
    Ok(())
}

fn same_plans(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder {
        options,
        folder: _folder,
    } = folder()?;
    build(tensorrt, MODEL, &options)?;
    let lora = r#"graph "lora" {
  param @base: bf16[32, 32]
  param @up: f32[32, 4]
  param @down: f32[4, 32]
  %0: f32[32, 32] = matmul @up, @down
  %1: f32[32, 32] = cast @base
  %2: f32[32, 32] = add %1, %0
  %3: bf16[32, 32] = cast %2
  output weight = %3
}"#;
    let overlay = Overlay::new("proj.weight", graph(lora)?)?;
    let attached = Overlay::attach(&graph(MODEL)?, &[overlay])?;
    let staged = StagedGraph::split(&attached)?;
    let plans = build_plans(tensorrt, &staged, &[sm("sm89")], &options)?;
    assert!(plans.iter().all(|plan| !plan.is_new), "{plans:?}");
    Ok(())
}

fn damaged(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder {
        options,
        folder: _folder,
    } = folder()?;
    let built = build(tensorrt, MODEL, &options)?;
    let path = &built[1].path;
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, &bytes)?;
    let again = build(tensorrt, MODEL, &options)?;
    assert_eq!([again[0].is_new, again[1].is_new], [false, true]);
    let found = build(tensorrt, MODEL, &options)?;
    assert!(found.iter().all(|plan| !plan.is_new));
    Ok(())
}

fn fewer_sizes(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder {
        options,
        folder: _folder,
    } = folder()?;
    let all = build(tensorrt, MODEL, &options)?;
    let fixed = options.clone().with_range("tokens", SizeRange::fixed(16));
    let fixed = build(tensorrt, MODEL, &fixed)?;
    assert_ne!(fixed[1].path, all[1].path);
    let level = build(tensorrt, MODEL, &options.clone().with_optimization_level(0))?;
    assert_ne!(level[1].path, all[1].path);
    let staged = StagedGraph::split(&graph(MODEL)?)?;
    let wider = options.with_range("tokens", SizeRange::fixed(65));
    let error = build_plans(tensorrt, &staged, &[sm("sm89")], &wider).unwrap_err();
    assert!(error.to_string().contains("`tokens`"), "{error}");
    Ok(())
}

fn bad_target(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder { options, folder } = folder()?;
    let staged = StagedGraph::split(&graph(MODEL)?)?;
    let error = build_plans(tensorrt, &staged, &[sm("sm89"), sm("sm90")], &options).unwrap_err();
    assert!(error.to_string().contains("sm90"), "{error}");
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

fn without_f8(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder { options, folder } = folder()?;
    let text = "graph codes { param @w: f8e4m3[32, 32] param @s: f32[] input step %x: bf16[4, 32] \
        %0: f32[32, 32] = cast @w %1: f32[32, 32] = mul %0, @s %2: bf16[32, 32] = cast %1 \
        %3: bf16[4, 32] = linear %x, %2 output y = %3 }";
    let staged = StagedGraph::split(&graph(text)?)?;
    for target in ["sm75", "sm80", "sm86"] {
        let error = build_plans(tensorrt, &staged, &[sm("sm89"), sm(target)], &options);
        let text = error.unwrap_err().to_string();
        assert!(text.contains(target) && text.contains("`codes`"), "{text}");
        assert!(text.contains("sm89, sm120, sm121"), "{text}");
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

fn stopped(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder { options, folder } = folder()?;
    let stops = options.with_follow(Arc::new(|_, _| ControlFlow::Break(())));
    let staged = StagedGraph::split(&graph(MODEL)?)?;
    let error = build_plans(tensorrt, &staged, &[sm("sm89")], &stops).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

fn without_weights(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let Folder {
        options,
        folder: _folder,
    } = folder()?;
    let text = "graph g { input step %x: f32[2] %0: f32[2] = exp %x output y = %0 }";
    let plans = build(tensorrt, text, &options)?;
    // The request program has no outputs and so no plan.
    assert_eq!(plans.len(), 1);
    assert_eq!((plans[0].stage, plans[0].weights), (Stage::Step, 0));
    Ok(())
}
