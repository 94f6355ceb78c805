"""Trains the two tokenizers on captions: a byte-level BPE for CLIP, a unigram model for T5.

Both fold case. Words of the grammar become one token each; any other text falls to pieces
and single letters, never to an error. No randomness beyond the captions' seed.

Example: ``python make_tokenizers.py OUT`` leaves ``tokenizer`` and ``tokenizer_2`` in OUT.
"""

import base64
import io
import json
import math
import random
import sys
from collections import Counter
from pathlib import Path

import regex
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers.convert_slow_tokenizer import bytes_to_unicode

from model import CLIP_TOKENS
from scenes import sample
from spec import CAPTION_TOKENS

CAPTIONS = 20_000
MERGES = CLIP_TOKENS - 2 - 512
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-&"
CHARACTER_SCORE = -15.0
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")


def corpus():
    rng = random.Random(11)
    return [sample(rng).caption for _ in range(CAPTIONS)]


def merge_word(word, pair):
    """Replaces each occurrence of ``pair`` in ``word`` by its concatenation."""
    merged, index = [], 0
    while index < len(word):
        step = 2 if word[index : index + 2] == pair else 1
        merged.append("".join(word[index : index + step]))
        index += step
    return tuple(merged)


def train_merges(captions):
    """The most frequent pairs in order, as many as the model has tokens for; ties go to the pair that sorts first."""
    symbols = bytes_to_unicode()
    words = Counter()
    for caption in captions:
        for word in WORDS.findall(caption.lower()):
            encoded = [symbols[byte] for byte in word.encode()]
            words[tuple(encoded[:-1] + [encoded[-1] + "</w>"])] += 1
    merges = []
    while len(merges) < MERGES:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            raise ValueError(f"tokenizer of CLIP: expected {MERGES} merges, found only {len(merges)} before all words are whole")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({merge_word(word, best): count for word, count in words.items()})
    return merges


def write(path, value, indent=2):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_clip(folder, captions):
    """vocab.json, merges.txt and the two configuration files."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = list(bytes_to_unicode().values())
    merges = train_merges(captions)
    tokens = alphabet + [symbol + "</w>" for symbol in alphabet]
    tokens += list(dict.fromkeys("".join(pair) for pair in merges)) + [START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    write(folder / "vocab.json", vocab, indent=None)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    described = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    write(
        folder / "special_tokens_map.json",
        {**{name: {"content": token, **described} for name, token in special.items()}, "pad_token": END},
    )
    added = {str(vocab[token]): {"content": token, **described, "special": True} for token in (START, END)}
    write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            **special,
            "pad_token": END,
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": CAPTION_TOKENS,
            "tokenizer_class": "CLIPTokenizer",
        },
    )


def fold_case(folder):
    """sentencepiece's compiled map of capital letters to small ones, and of odd white space to spaces."""
    rules = [(ord(letter), ord(letter.lower())) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    rules += [(code, 0x20) for code in (0x09, 0x0A, 0x0D, 0xA0)]
    table = folder / "rules.tsv"
    table.write_text("".join(f"{old:X}\t{new:X}\n" for old, new in rules), encoding="utf-8")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b"]),
        model_writer=model,
        vocab_size=8,
        hard_vocab_limit=False,
        normalization_rule_tsv=str(table),
        minloglevel=2,
    )
    table.unlink()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    proto = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def unigram_pieces(captions):
    """T5's three special pieces, a piece for each word with its log frequency, and one for each character."""
    counts = Counter(word.strip(",.") for caption in captions for word in caption.lower().split())
    total = sum(counts.values())
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    pieces += [("▁" + word, round(math.log(count / total), 4)) for word, count in words]
    known = {piece for piece, _ in pieces}
    characters = [character for character in "▁" + CHARACTERS if character not in known]
    return pieces + [(character, CHARACTER_SCORE) for character in characters]


def write_t5(folder, captions):
    """tokenizer.json and the two configuration files; ids as T5's: pad 0, end 1, unknown 2."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(Unigram(unigram_pieces(captions), unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(base64.b64decode(fold_case(folder)))
    marks = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write(
        folder / "tokenizer_config.json",
        {
            **special,
            "additional_special_tokens": [],
            "clean_up_tokenization_spaces": True,
            "extra_ids": 0,
            "legacy": True,
            "model_max_length": CAPTION_TOKENS,
            "tokenizer_class": "T5Tokenizer",
        },
    )
    write(folder / "special_tokens_map.json", {"additional_special_tokens": [], **special})


def main(out):
    captions = corpus()
    write_clip(out / "tokenizer", captions)
    write_t5(out / "tokenizer_2", captions)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
