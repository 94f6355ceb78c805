//! `tintype repl` with lines from a pipe, on the model inside the program: each picture is the
//! one that `generate` makes, errors end nothing, and no file is overwritten.
#![cfg(feature = "shapes")]
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Bench, Ran};
use tintype::Image;

const PROMPT: &str = "a red circle above a blue square";
const SETTINGS: [&str; 8] = [
    "--backend",
    "cpu",
    "--seed",
    "1",
    "--steps",
    "1",
    "--height",
    "64",
];

fn repl(bench: &Bench, lines: &str) -> Ran {
    let arguments = [
        &["repl", "--width", "64", "-o", "out/out.png"],
        &SETTINGS[..],
    ]
    .concat();
    bench.run_lines(&arguments, lines.as_bytes())
}

/// The pixels that `generate` makes.
fn generated(bench: &Bench, arguments: &[&str]) -> Image {
    let fixed = ["generate", PROMPT, "-o", "one.png"];
    let arguments = [&fixed[..], arguments].concat();
    let ran = bench.run(&arguments);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    Image::read_png(&bench.path("one.png")).unwrap()
}

fn drawn(bench: &Bench, number: usize) -> Image {
    Image::read_png(&bench.path(&format!("out/out-{number:04}.png"))).unwrap()
}

#[test]
fn pictures_are_those_of_generate_after_any_changes() {
    let bench = Bench::new("dev");
    let lines = format!(
        "{PROMPT}\n/lora neon=0.5\n\n/scale neon 1 single=0.25\n\n/scale neon 0.5\n/lora chalk\n\n\
         /unload neon\n/unload chalk\n/size 48x80\n/steps 2\n/seed 9\n\n/quit\nnever drawn\n"
    );
    let ran = repl(&bench, &lines);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(bench.files("out").len(), 5);
    let with = |further: &[&str]| {
        generated(
            &bench,
            &[&["--width", "64"], &SETTINGS[..], further].concat(),
        )
    };
    assert!(drawn(&bench, 1) == with(&[]));
    assert!(drawn(&bench, 2) == with(&["--lora", "neon=0.5"]));
    assert!(drawn(&bench, 3) != drawn(&bench, 2));
    assert!(drawn(&bench, 4) == with(&["--lora", "neon=0.5", "--lora", "chalk"]));
    let other = [
        "--width", "48", "--height", "80", "--steps", "2", "--seed", "9",
    ];
    assert!(drawn(&bench, 5) == generated(&bench, &other));
    let told: Vec<&str> = ran.stdout.lines().collect();
    assert!(told[0].starts_with("out/out-0001.png ") && told[0].ends_with(", seed 1"));
    assert!(told[1].starts_with("neon 0.5: ") && told[1].contains(" bytes moved, "));
    assert!(
        told[3].starts_with("neon 1 single.all=0.25: "),
        "{}",
        told[3]
    );
}

#[test]
fn errors_keep_the_session_alive_and_are_told_in_the_end() {
    let bench = Bench::new("dev");
    bench.write("out/out-0002.png", "mine");
    bench.write("broken.safetensors", "{}");
    let lines = format!(
        "\n{PROMPT}\n/scale neon 2\n/lora broken.safetensors\n/size 3\n\n/size\n/steps many\n/lora neon=0.5\n\
         /scale neon loud\n/show\n/size 64\n\n"
    );
    let ran = repl(&bench, &lines);
    assert_eq!(ran.status, Some(1));
    let told: Vec<&str> = ran.stderr.lines().collect();
    for (line, expected) in told.iter().zip([
        "error: expected a prompt",
        "error: /scale: expected a LoRA that is loaded (), found neon",
        "error: the change was refused, and all weights are those before it: broken.safetensors",
        "error: width: expected 16",
        "error: /steps: expected a number",
        "error: /scale: expected a finite number",
        "error: 6 of the lines failed",
    ]) {
        assert!(line.starts_with(expected), "{line}");
    }
    assert_eq!(told.len(), 7);
    let names = ["out-0001.png", "out-0002.png", "out-0003.png"];
    assert_eq!(bench.files("out"), names);
    assert_eq!(bench.read("out/out-0002.png"), b"mine");
    assert!(ran.stdout.contains("lora      neon 0.5"), "{}", ran.stdout);
    let expected = [&["--width", "64", "--lora", "neon=0.5"], &SETTINGS[..]].concat();
    assert!(drawn(&bench, 3) == generated(&bench, &expected));
}

#[test]
fn lines_need_be_neither_text_nor_there() {
    let bench = Bench::new("dev");
    let ran = bench.run_lines(&["repl", "--backend", "cpu"], b"");
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), ""));
    let ran = bench.run_lines(&["repl", "--backend", "cpu"], b"\xff\xfe\n/help");
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.starts_with("error: expected a line in UTF-8"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("/unload NAME"), "{}", ran.stdout);
}
