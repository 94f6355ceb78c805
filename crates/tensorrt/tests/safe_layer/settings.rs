//! The library itself, configurations and profiles.

use libtest_mimic::Failed;
use tintype_tensorrt::build::{MemoryPool, Verbosity};
use tintype_tensorrt::{Flag, Line, Support, Target, Tensorrt};

use super::error_of;

pub(super) fn identity(tensorrt: &Tensorrt) -> Result<(), Failed> {
    assert_eq!(tensorrt.line(), Line::Rtx);
    assert!(tensorrt.has_builder() && tensorrt.takes_targets() && tensorrt.has_runtime_cache());
    assert!(!tensorrt.has_timing_cache());
    // The folder of the package is called `rtx-1.7.1.116-cu13`.
    let path = tensorrt.path().to_string_lossy();
    assert!(
        path.contains(&format!("{}-", tensorrt.tag())),
        "{}",
        tensorrt.tag()
    );
    Ok(())
}

pub(super) fn probe(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let probe = tensorrt.probe();
    assert!(probe.has_builder);
    assert!(
        probe.to_string().contains("builds for sm75, sm80"),
        "{probe}"
    );
    let ada = Target::new(8, 9);
    assert_eq!(probe.support(ada), Support::Full(ada));
    assert_ne!(
        probe.support(Target::new(9, 0)),
        Support::Full(Target::new(9, 0))
    );
    Ok(())
}

pub(super) fn settings(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let mut config = builder.config()?;
    assert!(!config.flag(Flag::Tf32)?, "f32 means f32");
    for flag in [Flag::StripPlan, Flag::RefitIndividual, Flag::Tf32] {
        assert!(!config.flag(flag)?);
        config.set_flag(flag, true)?;
        assert!(config.flag(flag)?);
        config.set_flag(flag, false)?;
        assert!(!config.flag(flag)?);
    }
    config.set_memory_limit(MemoryPool::Workspace, 123 << 20)?;
    assert_eq!(config.memory_limit(MemoryPool::Workspace)?, 123 << 20);
    config.set_optimization_level(2)?;
    assert_eq!(config.optimization_level()?, 2);
    config.set_max_aux_streams(0)?;
    config.set_verbosity(Verbosity::Detailed)?;
    config.set_targets(&Target::RTX)?;
    config.set_targets(&[])?;
    Ok(())
}

pub(super) fn ranges(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let mut builder = tensorrt.builder()?;
    assert!(error_of(builder.set_max_threads(0))?.starts_with("allowing 0 threads failed"));
    builder.set_max_threads(2)?;
    let mut config = builder.config()?;
    let error = error_of(config.set_optimization_level(6))?;
    assert_eq!(error, "optimization level: expected 0 to 5, found 6");
    Ok(())
}

pub(super) fn profiles(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let mut profile = builder.profile()?;
    let error = error_of(profile.set_shape("x", &[4, 8], &[2, 8], &[8, 8]))?;
    assert!(error.contains("smallest ≤ usual ≤ largest"), "{error}");
    let error = error_of(profile.set_shape("x", &[1; 9], &[1; 9], &[1; 9]))?;
    assert!(error.contains("at most 8 dimensions"), "{error}");
    let error = error_of(profile.set_shape("x\0", &[1], &[1], &[1]))?;
    assert!(error.contains("cannot be a name"), "{error}");
    profile.set_shape("x", &[1, 8], &[2, 8], &[8, 8])?;
    profile.set_values("sizes", &[1], &[2], &[3])?;
    assert!(profile.is_valid()?);
    let mut config = builder.config()?;
    assert_eq!(config.add_profile(&profile)?, 0);
    assert_eq!(config.add_profile(&profile)?, 1);
    Ok(())
}

pub(super) fn timing_cache(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("times");
    let builder = tensorrt.builder()?;
    let mut config = builder.config()?;
    config.load_timing_cache(&path)?;
    config.save_timing_cache(&path)?;
    assert!(!path.exists());
    Ok(())
}
