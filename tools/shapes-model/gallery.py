"""Draws the pictures of the README with the program, and puts them on one sheet.

    python gallery.py ../../target/release/tintype ../../docs/pictures

Each picture is what the command beside it in the README draws.
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image

PICTURES = {
    "circle-square": ["a red circle above a blue square"],
    "star": ["a large dotted white star on a blue background"],
    "cross-hexagon": ["a green cross to the left of a yellow hexagon on black"],
    "row": ["from left to right, a pink circle, a blue triangle and a green square"],
    "inside": ["a small yellow star inside a large blue ring"],
    "overlapping": ["a striped red heart overlapping a yellow circle on purple"],
    "gradient": ["a large orange hexagon on a gradient from purple at the top to black at the bottom"],
    "column": ["a green square, a purple star and a red ring in a column from top to bottom"],
    "circle-square-neon": ["a red circle above a blue square", "--lora", "neon"],
    "row-neon": ["from left to right, a pink circle, a blue triangle and a green square", "--lora", "neon"],
    "circle-square-chalk": ["a red circle above a blue square", "--lora", "chalk"],
    "star-chalk": ["a large dotted white star on a blue background", "--lora", "chalk"],
}
SEED = "1"
COLUMNS, GAP = 6, 4


def main(program, out):
    out.mkdir(parents=True, exist_ok=True)
    rows = -(-len(PICTURES) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (128 + GAP) - GAP, rows * (128 + GAP) - GAP), "white")
    for index, (name, arguments) in enumerate(PICTURES.items()):
        path = out / f"{name}.png"
        subprocess.run([program, "generate", *arguments, "--seed", SEED, "--quiet", "--output", path], check=True)
        sheet.paste(Image.open(path), (index % COLUMNS * (128 + GAP), index // COLUMNS * (128 + GAP)))
    sheet.save(out / "sheet.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
