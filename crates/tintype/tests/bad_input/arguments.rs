//! Arguments: out of range, not understood, or naming files that cannot be read or written.

use super::{Bench, Case, asked};

/// A file beside the model is broken.
const fn file(
    name: &'static str,
    breaks: fn(&Bench),
    arguments: &'static [&'static str],
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        breaks,
        arguments,
        status: 1,
        says,
    }
}

pub(crate) const CASES: &[Case] = &[
    asked(
        "height_0",
        &["fox", "--height", "0"],
        1,
        &["height", "expected 16 to 16384", "found 0"],
    ),
    asked(
        "width_8",
        &["fox", "--width", "8"],
        1,
        &["width", "expected 16 to 16384", "found 8"],
    ),
    asked(
        "height_too_large",
        &["fox", "--height", "16385"],
        1,
        &["height", "expected 16 to 16384", "found 16385"],
    ),
    asked(
        "width_huge",
        &["fox", "--width", "18446744073709551615"],
        1,
        &["width", "expected 16 to 16384", "18446744073709551615"],
    ),
    asked(
        "height_beyond_64_bits",
        &["fox", "--height", "18446744073709551616"],
        2,
        &["--height", "18446744073709551616"],
    ),
    asked(
        "height_negative",
        &["fox", "--height=-64"],
        2,
        &["--height", "-64"],
    ),
    asked(
        "sequence_600",
        &["fox", "--max-sequence-length", "600"],
        1,
        &["max_sequence_length", "expected 1 to 512", "found 600"],
    ),
    asked(
        "sequence_0",
        &["fox", "--max-sequence-length", "0"],
        1,
        &["max_sequence_length", "expected 1 to 512", "found 0"],
    ),
    asked(
        "steps_0",
        &["fox", "--steps", "0"],
        1,
        &["steps", "expected 1 to", "found 0"],
    ),
    asked(
        "steps_huge",
        &["fox", "--steps", "1000000000000"],
        1,
        &["steps", "expected 1 to", "found 1000000000000"],
    ),
    asked(
        "num_images_0",
        &["fox", "--num-images", "0"],
        1,
        &["num_images", "expected 1 to 64", "found 0"],
    ),
    asked(
        "num_images_1000",
        &["fox", "--num-images", "1000"],
        1,
        &["num_images", "expected 1 to 64", "found 1000"],
    ),
    asked(
        "num_images_huge",
        &["fox", "--num-images", "18446744073709551615"],
        1,
        &["num_images", "expected 1 to 64"],
    ),
    asked(
        "guidance_nan",
        &["fox", "--guidance", "nan"],
        1,
        &["guidance_scale", "expected a finite number", "found NaN"],
    ),
    asked(
        "guidance_infinite",
        &["fox", "--guidance=-inf"],
        1,
        &["guidance_scale", "expected a finite number", "found -inf"],
    ),
    asked(
        "true_cfg_scale_nan",
        &["fox", "--true-cfg-scale", "nan"],
        1,
        &["true_cfg_scale", "expected a finite number", "found NaN"],
    ),
    asked(
        "sigmas_above_1",
        &["fox", "--sigmas", "1.0,1.5"],
        1,
        &["sigmas", "expected values of 0 to 1", "found 1.5"],
    ),
    asked(
        "sigmas_negative",
        &["fox", "--sigmas=1.0,-0.5"],
        1,
        &["sigmas", "expected values of 0 to 1", "found -0.5"],
    ),
    asked(
        "sigmas_nan",
        &["fox", "--sigmas", "nan"],
        1,
        &["sigmas", "expected values of 0 to 1", "found NaN"],
    ),
    asked(
        "sigmas_of_another_count",
        &["fox", "--sigmas", "1.0,0.5", "--steps", "3"],
        1,
        &["sigmas", "expected 3", "found 2"],
    ),
    asked(
        "sigmas_of_words",
        &["fox", "--sigmas", "much"],
        2,
        &["--sigmas", "much"],
    ),
    asked("seed_negative", &["fox", "--seed=-1"], 2, &["--seed", "-1"]),
    asked(
        "negative_prompt_2_alone",
        &["fox", "--negative-prompt-2", "blur"],
        2,
        &["--negative-prompt"],
    ),
    asked(
        "strength_alone",
        &["fox", "--strength", "0.5"],
        2,
        &["--image"],
    ),
    asked("option_unknown", &["fox", "--stpes", "3"], 2, &["--stpes"]),
    asked("prompt_missing", &[], 2, &["<PROMPT>"]),
    asked("two_prompts", &["fox", "dog"], 2, &["dog"]),
    asked(
        "backend_unknown",
        &["fox", "--backend", "abacus"],
        2,
        &["abacus", "cpu"],
    ),
    asked(
        "backend_cuda",
        &["fox", "--backend", "cuda"],
        1,
        &["cuda", "not available"],
    ),
    asked(
        "backend_tensorrt",
        &["fox", "--backend", "tensorrt"],
        1,
        &["tensorrt", "not available"],
    ),
    asked(
        "dtype_unknown",
        &["fox", "--dtype", "f64"],
        2,
        &["f64", "bf16"],
    ),
    asked(
        "fp8_without_scales",
        &["fox", "--dtype", "fp8"],
        1,
        &["--dtype fp8", "scales.json", "tintype quantize", "--scales"],
    ),
    asked(
        "output_in_no_folder",
        &["fox", "--output", "nowhere/out.png"],
        1,
        &["nowhere/out.png", "cannot be written"],
    ),
    asked(
        "output_is_a_folder",
        &["fox", "--output", "out"],
        1,
        &["out: expected a file", "found a folder"],
    ),
    asked(
        "output_below_a_file",
        &["fox", "--output", "model/model_index.json/out.png"],
        1,
        &["model_index.json/out.png", "cannot be written"],
    ),
    asked(
        "output_without_a_name",
        &["fox", "--output", ""],
        2,
        &["--output", "a value is required"],
    ),
    asked(
        "output_in_a_system_folder",
        &["fox", "--output", "/proc/out.png"],
        1,
        &["/proc/out.png", "cannot be written"],
    ),
    file(
        "one_of_the_outputs_is_a_folder",
        |bench| std::fs::create_dir(bench.path("out/out-2.png")).unwrap(),
        &["fox", "--num-images", "2"],
        &["out/out-2.png", "expected a file", "found a folder"],
    ),
    asked(
        "save_tensors_in_no_folder",
        &["fox", "--save-tensors", "nowhere/t.safetensors"],
        1,
        &["nowhere/t.safetensors", "cannot be written"],
    ),
    asked(
        "save_tensors_is_a_folder",
        &["fox", "--save-tensors", "out"],
        1,
        &["out: expected a file", "found a folder"],
    ),
    asked(
        "image_missing",
        &["fox", "--image", "none.png"],
        1,
        &["none.png", "expected", "found nothing"],
    ),
    asked(
        "image_is_a_folder",
        &["fox", "--image", "model"],
        1,
        &["model"],
    ),
    asked(
        "image_is_no_png",
        &["fox", "--image", "model/model_index.json"],
        1,
        &["model/model_index.json", "expected a whole png", "found"],
    ),
    file(
        "image_cut",
        |bench| {
            bench.copy("cases/dev.png", "fox.png");
            bench.truncate("fox.png", 4000);
        },
        &["fox", "--image", "fox.png"],
        &["fox.png", "expected a whole png", "found"],
    ),
    file(
        "image_empty",
        |bench| bench.write("fox.png", ""),
        &["fox", "--image", "fox.png"],
        &["fox.png", "expected a whole png", "found"],
    ),
    file(
        "strength_2",
        |bench| bench.copy("cases/dev.png", "fox.png"),
        &["fox", "--image", "fox.png", "--strength", "2"],
        &["strength", "expected 0 to 1", "found 2"],
    ),
    file(
        "strength_0",
        |bench| bench.copy("cases/dev.png", "fox.png"),
        &["fox", "--image", "fox.png", "--strength", "0"],
        &["strength", "expected", "found 0"],
    ),
    file(
        "strength_nan",
        |bench| bench.copy("cases/dev.png", "fox.png"),
        &["fox", "--image", "fox.png", "--strength", "nan"],
        &["strength", "expected 0 to 1", "found NaN"],
    ),
];
