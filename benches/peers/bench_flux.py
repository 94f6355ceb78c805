"""Times FLUX.1-dev's transformer in Tintype and its peers in turn on one GPU, and writes one JSON.

Nothing is read but the programs: weights and inputs are computed (``flux_weights.py``). Each part
is a process with a time limit of its own; what a part found is written at once, and a part that fails
or is cut off is said and left behind. A file that is there is gone on with: its parts are kept
unless they run again.

    python bench_flux.py --program tintype-conformance --out flux.json
    python bench_flux.py --program tintype-conformance --out flux.json --parts profile,bandwidth
    python bench_flux.py --program tintype-conformance --out try.json --small --backend cpu

| part | runs |
|---|---|
| eager | PyTorch eager fp16 and bf16, batch 1 and 2 |
| ours | Tintype bf16, batch 1 |
| ours-fp8, ours-fp8-attention | Tintype with linears in FP8; with attention, too; batch 1 and 2 |
| compile | torch.compile bf16 |
| compile-fp8 | torch.compile with torchao's dynamic FP8, per tensor and per row |
| ours-batch2, ours-f16 | Tintype with two pictures; in f16 |
| ours-branches, ours-branches-batch2 | Tintype with text and image side by side |
| again | eager fp16 and Tintype once more, to see what the weather did |
| profile-fp8, profile-fp8-attention | where Tintype's time goes in FP8 |
| fidelity-fp8, swap-fp8 | as fidelity and swap, with linears in FP8 |
| profile, bandwidth | where Tintype's time goes; its own kernels against a copy |
| fidelity | one step of both against PyTorch's f32, five inputs |
| swap, swap-peers | LoRAs exchanged by Tintype, by diffusers |
| swap-tensorrt | LoRAs exchanged by the backend tensorrt; builds a plan first (minutes) |
| compile-max | torch.compile with max-autotune, and with fused projections (minutes) |
| pictures | whole pictures of both; needs --model, see flux_weights.py --make |
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
STEP = "a step, with its share of the request: median"
QUERY = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active"


class Weather(threading.Thread):
    """Clocks, power, temperature and reasons of throttling, twice a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rows, self.is_done = [], False

    def run(self):
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
        while not self.is_done:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            except (OSError, subprocess.SubprocessError):
                return
            self.rows.append([field.strip() for field in done.stdout.splitlines()[0].split(",")])
            time.sleep(0.5)

    def summary(self):
        self.is_done = True
        found = {}
        for index, name in enumerate(QUERY.split(",")[:4]):
            values = []
            for row in self.rows:
                try:
                    values.append(float(row[index]))
                except (ValueError, IndexError):
                    pass
            if values:
                found[name] = {"least": min(values), "most": max(values), "mean": sum(values) / len(values)}
        reasons = sorted({row[4] for row in self.rows if len(row) > 4})
        return dict(found, throttle_reasons=reasons, samples=len(self.rows)) if self.rows else {}


def lines_of(text):
    """The lines of JSON among others."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                pass
    return found


def run(command, limit, log):
    """Runs a program; its output goes to a file, too. Gives the output and how it ended."""
    print("$", " ".join(map(str, command)), flush=True)
    start = time.time()
    environment = dict(os.environ, PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1")
    with open(log, "w") as file:
        try:
            ended = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, timeout=limit,
                                   env=environment).returncode
        except subprocess.TimeoutExpired:
            ended = f"cut off after {limit} s"
        except OSError as error:
            ended = str(error)
    text = pathlib.Path(log).read_text(errors="replace")
    if ended != 0:
        print("\n".join(text.splitlines()[-12:]))
    return text, {"ended": ended, "seconds": time.time() - start}


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = options.logs or pathlib.Path(tempfile.mkdtemp(prefix="bench-flux-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.document = {"parts": {}}
        if options.out.is_file():
            self.document = json.loads(options.out.read_text())
        self.document["command"] = "python " + " ".join(sys.argv)
        self.document["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.document["small"] = options.small
        self.document["machine"] = {"processor": platform.machine(), "cores": os.cpu_count()}

    def peer(self, part, script, *arguments):
        if self.options.small:
            arguments += ("--small",)
        command = [self.options.python, HERE / script, *arguments]
        text, how = run(command, self.options.limit, self.folder / f"{part}.log")
        return {"lines": lines_of(text), **how}

    def ours(self, part, section, *arguments):
        out = self.folder / f"{part}.json"
        out.unlink(missing_ok=True)
        if "--backend" not in arguments:
            arguments += ("--backend", self.options.backend)
        command = [self.options.program, "--only", section, "--json", out, *arguments]
        command += shlex.split(self.options.more)
        if self.options.small:
            command.append("--small")
        if self.options.layers:
            command += ["--layers", self.options.layers]
        _, how = run(command, self.options.limit, self.folder / f"{part}.log")
        found = json.loads(out.read_text()) if out.is_file() else {}
        return {"found": found, **how}

    def steps(self, part, dtype="bf16", batch=1, *more):
        sizes = ("--dtype", dtype, "--batch", str(batch), "--runs", str(self.options.runs))
        return self.ours(part, "steps", *sizes, *more)

    def parts(self):
        """What each part runs."""
        layers = ("--layers", self.options.layers) if self.options.layers else ()
        model = ("--model", str(self.options.model))
        tensors = self.folder / "samples.safetensors"
        runs = ("--runs", str(self.options.runs))

        def fidelity(name, dtype):
            def compare():
                first = self.ours(name, "fidelity", "--dtype", dtype, "--tensors", tensors)
                second = self.peer(f"{name}-peer", "flux_torch.py", "fidelity", "--ours", tensors, *layers)
                return {"ours": first, "peer": second}
            return compare

        def narrow(dtype):
            return lambda: {"batch1": self.steps(f"ours-{dtype}", dtype),
                            "batch2": self.steps(f"ours-{dtype}-batch2", dtype, batch=2)}

        def pictures():
            if not self.options.model:
                return {"ended": "no pipeline: --model"}
            first = self.peer("pictures-peer", "flux_torch.py", "picture", *model, "--runs", "3")
            return {"peer": first, "ours": self.ours("pictures", "pictures", *model, "--runs", "3")}

        def again():
            peer = self.peer("again-peer", "flux_torch.py", "steps", "--variants", "eager-fp16", *runs, *layers)
            return {"peer": peer, "ours": self.steps("again")}

        def compiled(variants):
            arguments = ("--variants", variants, "--batches", "1", *runs, *layers)
            return lambda: self.peer("compile", "flux_torch.py", "steps", *arguments)

        eager = ("--variants", "eager-fp16,eager-bf16", "--batches", "1,2", *runs, *layers)
        return {
            "eager": lambda: self.peer("eager", "flux_torch.py", "steps", *eager),
            "ours": lambda: self.steps("ours"),
            "compile": compiled("compile-bf16"),
            "compile-fp8": compiled("compile-fp8,compile-rows-fp8"),
            "ours-fp8": narrow("fp8"),
            "ours-fp8-attention": narrow("fp8-attention"),
            "profile-fp8": lambda: self.ours("profile-fp8", "profile", "--dtype", "fp8"),
            "profile-fp8-attention": lambda: self.ours("profile-fp8-attention", "profile", "--dtype", "fp8-attention"),
            "fidelity-fp8": fidelity("fidelity-fp8", "fp8"),
            "swap-fp8": lambda: self.ours("swap-fp8", "swap", "--dtype", "fp8"),
            "ours-batch2": lambda: self.steps("ours-batch2", batch=2),
            "ours-f16": lambda: self.steps("ours-f16", "f16"),
            "ours-branches": lambda: self.steps("ours-branches", "bf16", 1, "--branches"),
            "ours-branches-batch2": lambda: self.steps("ours-branches-batch2", "bf16", 2, "--branches"),
            "again": again,
            "profile": lambda: self.ours("profile", "profile"),
            "bandwidth": lambda: self.ours("bandwidth", "bandwidth"),
            "fidelity": fidelity("fidelity", "bf16"),
            "swap": lambda: self.ours("swap", "swap"),
            "swap-tensorrt": lambda: self.ours("swap-tensorrt", "swap", "--backend", "tensorrt"),
            "swap-peers": lambda: self.peer("swap-peers", "lora_swap.py"),
            "compile-max": compiled("compile-fused-bf16,compile-max-bf16"),
            "pictures": pictures,
        }

    def run(self):
        known, wanted = self.parts(), self.options.parts.split(",")
        unknown = [part for part in wanted if part not in known]
        if unknown:
            sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}")
        for part in wanted:
            weather, started = Weather(), time.time()
            weather.start()
            found = known[part]()
            self.document["parts"][part] = {"started": started, "took": time.time() - started,
                                            "weather": weather.summary(), **found}
            self.write()
        print(table(self.document))
        print(f"logs: {self.folder}")

    def write(self):
        summary(self.document)
        text = json.dumps(self.document, indent=1) + "\n"
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.options.out.with_suffix(".part")
        unfinished.write_text(text)
        unfinished.replace(self.options.out)
        self.options.out.with_suffix(".svg").write_text(chart(self.document["steps_ms"]))


def figures(part):
    """Figures of a part of ours by name."""
    return {one["name"]: one["value"] for one in part.get("found", {}).get("figures", [])}


def summary(document):
    """Sums up what is there: steps, ratios, targets."""
    parts = document["parts"]
    steps = {}
    peers = [("eager", None), ("compile", None), ("compile-fp8", None), ("compile-max", None), ("again", "peer")]
    for name, key in peers:
        part = parts.get(name, {})
        for line in (part.get(key, {}) if key else part).get("lines", []):
            if "step_ms" in line:
                suffix = " (again)" if name == "again" else ""
                steps[f"{line['peer']}, batch {line['batch']}{suffix}"] = line["step_ms"]
    for name, key, label in [("ours", None, "Tintype bf16, batch 1"), ("ours-batch2", None, "Tintype bf16, batch 2"),
                             ("ours-f16", None, "Tintype f16, batch 1"),
                             ("ours-fp8", "batch1", "Tintype fp8, batch 1"),
                             ("ours-fp8", "batch2", "Tintype fp8, batch 2"),
                             ("ours-fp8-attention", "batch1", "Tintype fp8 with attention, batch 1"),
                             ("ours-fp8-attention", "batch2", "Tintype fp8 with attention, batch 2"),
                             ("ours-branches", None, "Tintype bf16, batch 1, branches"),
                             ("ours-branches-batch2", None, "Tintype bf16, batch 2, branches"),
                             ("again", "ours", "Tintype bf16, batch 1 (again)")]:
        part = parts.get(name, {})
        found = figures(part.get(key, {}) if key else part)
        if STEP in found:
            steps[label] = found[STEP]
    document["steps_ms"] = steps
    found = [target for target in targets(parts, steps) if target["found"] is not None]
    # Of a small transformer there is nothing to meet.
    document["targets"] = [] if document.get("small") else found


def targets(parts, steps):
    """Every target with what was found; None where nothing was."""

    def target(name, found, least=None, most=None):
        met = None
        if found is not None:
            met = (least is None or found >= least) and (most is None or found <= most)
        return {"target": name, "found": found, "least": least, "most": most, "met": met}

    def ratio(peer, ours):
        return steps[peer] / steps[ours] if peer in steps and ours in steps else None

    ours, twice = "Tintype bf16, batch 1", "Tintype bf16, batch 2"
    yield target("milliseconds a step", steps.get(ours), most=118)
    yield target("times as fast as eager fp16", ratio("eager-fp16, batch 1", ours), least=1.55)
    yield target("times as fast as eager bf16", ratio("eager-bf16, batch 1", ours))
    yield target("times as fast as torch.compile bf16", ratio("compile-bf16, batch 1", ours), least=1.12)
    yield target("batch 2: times as fast as eager fp16", ratio("eager-fp16, batch 2", twice), least=1.55)
    narrow, whole = "Tintype fp8, batch 1", "Tintype fp8 with attention, batch 1"
    yield target("fp8: milliseconds a step", steps.get(narrow), most=80)
    yield target("fp8 with attention: milliseconds a step", steps.get(whole), most=75)
    yield target("fp8 with attention: times as fast as eager fp16", ratio("eager-fp16, batch 1", whole), least=2.4)
    whole = "Tintype fp8 with attention, batch 2"
    yield target("batch 2: fp8 with attention: times as fast as eager fp16", ratio("eager-fp16, batch 2", whole),
                 least=2.4)
    yield target("fp8: times as fast as torch.compile with torchao", ratio("compile-fp8, batch 1", narrow))
    shares = parts.get("bandwidth", {}).get("found", {}).get("tables", {}).get("bandwidth", [])
    least = min((row["share"] for row in shares), default=None)
    yield target("least share of a copy's rate, own kernels", least, least=0.8)
    lines = parts.get("fidelity", {}).get("peer", {}).get("lines", [])
    errors = [line["median_ratio"] for line in lines if line.get("median_ratio") is not None]
    yield target("error over PyTorch's bf16, against f32", errors[-1] if errors else None, most=1.05)
    lines = parts.get("fidelity-fp8", {}).get("peer", {}).get("lines", [])
    for whose in ("tintype", "torch"):
        found = [line[f"median_{whose}"] for line in lines if line.get(f"median_{whose}") is not None]
        name = "fp8: error of a step against f32" if whose == "tintype" else "PyTorch's bf16: error of a step against f32"
        yield target(name, found[-1] if found else None)
    swaps = figures(parts.get("swap", {}))
    yield target("milliseconds a LoRA swap, cuda", swaps.get("cuda, device: a swap, p50"), most=60)
    swaps = figures(parts.get("swap-fp8", {}))
    yield target("milliseconds a LoRA swap in fp8, cuda", swaps.get("cuda, device: a swap, p50"), most=90)
    swaps = figures(parts.get("swap-tensorrt", {}))
    yield target("milliseconds a LoRA swap, tensorrt", swaps.get("tensorrt, device: a swap, p50"), most=1500)
    pictures = parts.get("pictures", {})
    own = figures(pictures.get("ours", {})).get("a picture: median")
    theirs = [line["seconds"] for line in pictures.get("peer", {}).get("lines", []) if "picture" in line]
    yield target("picture: times as fast as eager bf16", theirs[-1] / own if own and theirs else None, least=1.5)


def table(document):
    """For people."""
    rows = [f"{value:9.2f} ms  {name}" for name, value in sorted(document["steps_ms"].items(), key=lambda row: row[1])]
    for one in document["targets"]:
        limits = [f"{word} {one[key]}" for word, key in (("at least", "least"), ("at most", "most")) if one[key] is not None]
        verdict = ("met" if one["met"] else "MISSED") if limits else ""
        rows.append(f"{one['found']:9.3f} {one['target']:45} {' '.join(limits):15} {verdict}")
    for name, part in document["parts"].items():
        pieces = (part, *(part.get(key, {}) for key in ("ours", "peer", "batch1", "batch2")))
        ends = [piece.get("ended") for piece in pieces if "ended" in piece]
        failed = [line for line in part.get("lines", []) if "failed" in line or "skipped" in line]
        if any(end != 0 for end in ends) or failed:
            rows.append(f"part {name}: ended with {ends} {failed}")
    return "\n".join(rows)


def chart(steps):
    """Bars of milliseconds a step as SVG."""
    height, most = 26, max(steps.values(), default=1)
    rows = []
    for index, (name, value) in enumerate(sorted(steps.items(), key=lambda row: row[1])):
        top, width = 10 + index * height, 380 * value / most
        color = "#c2410c" if name.startswith("Tintype") else "#94a3b8"
        rows.append(f'<rect x="250" y="{top}" width="{width:.1f}" height="18" fill="{color}"/>'
                    f'<text x="242" y="{top + 14}" text-anchor="end">{name}</text>'
                    f'<text x="{256 + width:.1f}" y="{top + 14}">{value:.1f} ms</text>')
    size = 20 + len(rows) * height
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{size}" font-family="sans-serif" '
            f'font-size="13" fill="#475569">{"".join(rows)}</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, type=pathlib.Path, help="tintype-conformance")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, diffusers and peft")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--logs", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--parts", default="eager,ours,compile,ours-batch2,ours-f16,again,profile,bandwidth")
    parser.add_argument("--limit", type=float, default=300, help="seconds of a process")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layers", metavar="DOUBLE,SINGLE", help="fewer blocks, to try it")
    parser.add_argument("--model", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--more", default="", help="arguments for tintype-conformance, as '--target sm80 --plans DIR'")
    parser.add_argument("--small", action="store_true")
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    main()
