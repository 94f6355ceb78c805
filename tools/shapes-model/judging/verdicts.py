"""Verdicts, their table, and scenes as JSON; nothing is measured here.

Example: ``print(table([judge(picture, scene) for picture, scene in pairs]))``.
"""

from dataclasses import asdict, dataclass, field

from scenes import Background, Scene, Shape

@dataclass
class Verdict:
    """What was measured. ``position_right`` is None where the caption has no relation."""

    shapes_right: bool
    position_right: bool | None
    background_right: bool
    sizes_right: bool
    patterns_right: bool
    details: dict = field(default_factory=dict)


def scene_to_json(scene):
    """A scene as a JSON-able dict."""
    return asdict(scene)


def scene_from_json(data):
    """The scene of ``scene_to_json``; placements may be absent."""
    return Scene(
        [Shape(**shape) for shape in data["shapes"]],
        [tuple(relation) for relation in data["relations"]],
        Background(**data["background"]),
        data["layout"],
        data.get("caption", ""),
    )


COLUMNS = ["shapes_right", "position_right", "background_right", "sizes_right", "patterns_right"]


def table(verdicts):
    """Markdown: shares of right shapes, positions, backgrounds, sizes, patterns, overall and by content."""
    rows = {"all": list(verdicts)}
    for verdict in verdicts:
        asked = verdict.details["asked"]
        keys = {f"{len(asked['shapes'])} shapes", f"background {asked['background']['form']}"}
        keys |= {f"kind {shape['kind']}" for shape in asked["shapes"]}
        keys |= {f"relation {relation[1]}" for relation in asked["relations"]}
        for key in keys:
            rows.setdefault(key, []).append(verdict)
    lines = ["| captions | count | shapes | position | background | sizes | patterns |", "|---|---|---|---|---|---|---|"]
    for name in sorted(rows, key=lambda key: (key != "all", key)):
        cells = [share([getattr(verdict, column) for verdict in rows[name]]) for column in COLUMNS]
        lines.append(f"| {name} | {len(rows[name])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share(values):
    """The share of true ones in percent, as text; None does not count."""
    counted = [value for value in values if value is not None]
    return f"{100 * sum(counted) / len(counted):.1f} %" if counted else "–"
