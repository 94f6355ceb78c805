//! Builds that fail, and how they say so.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use tintype_tensor::DType;
use tintype_tensorrt::{Error, Newer, Target, Tensorrt};

use super::{SIZE, error_of, product, weightless};

/// Takes some bytes, then fails or panics.
struct Full {
    room: usize,
    panics: bool,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.panics {
            // As a panic, but without a report in the middle of the tests.
            std::panic::resume_unwind(Box::new("a panic"));
        }
        if self.room == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let count = bytes.len().min(self.room);
        self.room -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn failing_writer(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let error = build_into(
        tensorrt,
        &mut Full {
            room: 1000,
            panics: false,
        },
    )?;
    let Error::Write { source, .. } = &error else {
        return Err(format!("{error:?}").into());
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("writing a plan: "), "{error}");
    Ok(())
}

pub(super) fn panicking_writer(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let error = build_into(
        tensorrt,
        &mut Full {
            room: 0,
            panics: true,
        },
    )?;
    assert_eq!(error.to_string(), "writing a plan: the writer panicked");
    Ok(())
}

pub(super) fn panicking_follower(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    product(&network, 64)?;
    let mut config = weightless(&builder)?;
    config.on_progress(|_| std::panic::resume_unwind(Box::new("a panic")))?;
    let error = error_of(builder.build(&network, &config, &mut Vec::new()))?;
    assert!(error.starts_with("building a plan"), "{error}");
    Ok(())
}

pub(super) fn bad_targets(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let mut config = builder.config()?;
    let error = error_of(config.set_targets(&[Target::new(8, 9), Target::new(9, 0)]))?;
    let expected = format!(
        "{} does not build for sm90: it builds for sm75, sm80, sm86, sm89, sm120, sm121",
        tensorrt.abi()
    );
    assert_eq!(error, expected);
    Ok(())
}

pub(super) fn mistakes(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    let size = SIZE as i64;
    let x = network.input("x", DType::BF16, &[64, size])?;
    let error = error_of(network.input("x", DType::BF16, &[64, size]))?;
    assert!(error.starts_with("adding input `x` failed: "), "{error}");
    assert!(!error.contains("gives no reason"), "{error}");
    assert!(
        error.ends_with(&format!(", {})", tensorrt.abi())),
        "{error}"
    );
    let other = network.input("other", DType::BF16, &[63, 7])?;
    let product = network.matrix_multiply([x, other], [false, false]);
    let config = weightless(&builder)?;
    let built = product.and_then(|y| {
        network.mark_output("y", y)?;
        builder.build(&network, &config, &mut Vec::new())
    });
    let error = error_of(built)?;
    assert!(error.contains("imension"), "{error}");
    assert_eq!(error.matches("imension of input0").count(), 1, "{error}");
    Ok(())
}

pub(super) fn foreign(tensorrt: &Tensorrt) -> Result<(), Failed> {
    let (one, two) = (tensorrt.builder()?, tensorrt.builder()?);
    let network = one.network()?;
    product(&network, 64)?;
    let config = weightless(&two)?;
    let error = error_of(two.build(&network, &config, &mut Vec::new()))?;
    assert_eq!(
        error,
        "building a plan: the network belongs to another builder"
    );
    let error = error_of(one.build(&network, &config, &mut Vec::new()))?;
    assert_eq!(
        error,
        "building a plan: the configuration belongs to another builder"
    );
    let profile = one.profile()?;
    let mut config = two.config()?;
    assert!(error_of(config.add_profile(&profile))?.contains("another builder"));
    Ok(())
}

/// A library that says that it is 1.4 and aborts if anything else is called.
pub(super) fn old_version() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let library = fake_library(folder.path(), 10400)?;
    let error = error_of(Tensorrt::open(&library, Newer::Accept))?;
    let expected = format!(
        "version 1.4.0 of {} is not supported, expected TensorRT-RTX 1.5 to 1.7 or TensorRT 11",
        library.display()
    );
    assert_eq!(error, expected);
    Ok(())
}

fn fake_library(folder: &Path, version: i32) -> Result<PathBuf, Failed> {
    let source = folder.join("fake.rs");
    let functions = ["createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL"];
    let functions = functions.map(|name| {
        format!("#[unsafe(no_mangle)] extern \"C\" fn {name}() {{ std::process::abort() }}\n")
    });
    let functions = functions.concat();
    let code = format!(
        "#[unsafe(no_mangle)] extern \"C\" fn getInferLibVersion() -> i32 {{ {version} }}\n{functions}"
    );
    std::fs::write(&source, code)?;
    let library = folder.join("libtensorrt_rtx.so.1");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(compiler);
    command.args([
        "--edition",
        "2024",
        "--crate-type",
        "cdylib",
        "-A",
        "warnings",
        "-o",
    ]);
    let status = command.arg(&library).arg(&source).status()?;
    if !status.success() {
        return Err(format!("the fake library was not compiled: {status}").into());
    }
    Ok(library)
}

/// The error of a build into a writer.
fn build_into(tensorrt: &Tensorrt, writer: &mut Full) -> Result<Error, Failed> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    product(&network, 64)?;
    let config = weightless(&builder)?;
    match builder.build(&network, &config, writer) {
        Ok(_) => Err("expected an error".into()),
        Err(error) => Ok(error),
    }
}
