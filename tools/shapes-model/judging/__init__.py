"""The parts of the judge. ``judge.py`` beside this folder is the entry; what is here is used through it.

| module | idea |
|---|---|
| `styles` | how each style paints, and what counts as its paint |
| `pixels` | masks and distances of pixels; knows no shapes |
| `backgrounds` | form and colours of the background |
| `groups` | pixels of one colour that may be one shape |
| `covers` | how much of each pixel a group covers |
| `fitting` | the best place of every kind of shape for a cover |
| `patterns` | stripes and dots inside a shape |
| `reader` | all of these in turn: a picture to its shapes |
| `relations` | left of, above, inside, overlapping |
| `properties` | what a style's LoRA changes |
| `verdicts` | the verdict, its table, scenes as JSON |
"""
