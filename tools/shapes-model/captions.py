"""Writes held-out captions, and what they ask for.

    python captions.py OUT --count 500 --seed 2026

OUT gets ``captions.txt``, one caption a line, as ``tintype quantize`` reads them, and
``captions.json``, as ``judge.py`` reads them. With the defaults these are the captions of
``evaluate.py``. It draws and judges nothing.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from scenes import held_out_scenes

SEED = 2026


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    scenes = held_out_scenes(arguments.count, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = "".join(scene.caption + "\n" for scene in scenes)
    (arguments.out / "captions.txt").write_text(lines, encoding="utf-8")
    described = json.dumps([asdict(scene) for scene in scenes], indent=1)
    (arguments.out / "captions.json").write_text(described + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
