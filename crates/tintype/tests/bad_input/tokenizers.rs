//! Tokenizers: broken files, and ids that the embedding does not have.

use serde_json::json;

use super::{Bench, Case, broken};

const VOCABULARY: &str = "model/tokenizer/vocab.json";
const MERGES: &str = "model/tokenizer/merges.txt";
const CLIP_SETTINGS: &str = "model/tokenizer/tokenizer_config.json";
const T5: &str = "model/tokenizer_2/tokenizer.json";
const PIECES: &str = "model/tokenizer_2/spiece.model";

pub(crate) const CASES: &[Case] = &[
    broken(
        "vocabulary_cut",
        |bench| bench.truncate(VOCABULARY, 1000),
        &[VOCABULARY, "JSON"],
    ),
    broken(
        "vocabulary_of_lists",
        |bench| bench.write(VOCABULARY, "{\"a\": []}"),
        &[VOCABULARY],
    ),
    broken(
        "vocabulary_missing",
        |bench| bench.remove(VOCABULARY),
        &["model/tokenizer", "vocab.json", "expected", "found"],
    ),
    broken(
        "merges_missing",
        |bench| bench.remove(MERGES),
        &["merges.txt", "expected", "found"],
    ),
    broken(
        "merges_of_one_word",
        |bench| bench.write(MERGES, "#version: 0.2\nalone\n"),
        &[MERGES, "expected", "alone"],
    ),
    broken(
        "settings_cut",
        |bench| bench.truncate(CLIP_SETTINGS, 50),
        &[CLIP_SETTINGS, "JSON"],
    ),
    broken(
        "id_beyond_the_embedding",
        |bench| {
            bench.edit_json(VOCABULARY, |vocabulary| {
                vocabulary["fox</w>"] = json!(100_000);
            });
        },
        &[
            "model/tokenizer",
            "100000",
            "text_encoder",
            "794",
            "expected",
        ],
    ),
    broken(
        "embedding_too_small_for_clip",
        |bench| {
            bench.edit_json("model/text_encoder/config.json", |config| {
                config["vocab_size"] = json!(700);
            });
        },
        &["model/tokenizer", "text_encoder", "700", "expected"],
    ),
    broken(
        "embedding_too_small_for_t5",
        |bench| {
            bench.edit_json("model/text_encoder_2/config.json", |config| {
                config["vocab_size"] = json!(2);
            });
        },
        &[
            "model/tokenizer_2",
            "text_encoder_2",
            "less than 2,",
            "expected",
        ],
    ),
    broken("t5_cut", |bench| bench.truncate(T5, 5000), &[T5]),
    broken("t5_no_tokenizer", |bench| bench.write(T5, "{}"), &[T5]),
    broken("pieces_cut", cut_pieces, &[PIECES, "expected", "found"]),
    broken(
        "pieces_of_text",
        text_pieces,
        &[PIECES, "expected", "found"],
    ),
    broken("pieces_empty", empty_pieces, &[PIECES, "expected", "found"]),
    broken(
        "t5_missing",
        |bench| {
            bench.remove(T5);
            bench.remove(PIECES);
        },
        &["model/tokenizer_2", "expected", "spiece.model", "found"],
    ),
];

fn cut_pieces(bench: &Bench) {
    bench.remove(T5);
    bench.truncate(PIECES, 4001);
}

fn text_pieces(bench: &Bench) {
    bench.remove(T5);
    bench.write(PIECES, "no protocol buffer, but words");
}

fn empty_pieces(bench: &Bench) {
    bench.remove(T5);
    bench.write(PIECES, "");
}
