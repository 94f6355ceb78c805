"""Times Tintype and diffusers in turn on one machine and writes one JSON result.

    python benches/peers/side_by_side.py --pipeline target/width512 --rounds 3 --out benches/results/NAME.json

Both run the same pipeline, size, steps and number of threads, one after the other, round by round,
so that both see the same weather. A figure is the median over the rounds of each round's median.
Peak memory is that of the whole process, interpreter and libraries included.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def last_json(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def tintype(arguments):
    command = [arguments.tintype, "bench", "--model", arguments.pipeline, "--backend", "cpu", "--json"]
    command += ["--height", str(arguments.size), "--width", str(arguments.size), "--steps", str(arguments.steps)]
    command += ["--max-sequence-length", str(arguments.max_sequence_length), "--runs", "3"]
    result = last_json(command, arguments.threads)
    seconds = result["median_seconds"]
    step = seconds["step"] + seconds["prepare"] / arguments.steps
    whole = seconds["encode"] + seconds["prepare"] + arguments.steps * seconds["step"] + seconds["decode"]
    return {"forward": step, "pipeline": whole, "peak": result["peak_resident_bytes"], "raw": result}


def diffusers(arguments, what):
    command = [sys.executable, str(HERE / "bench_diffusers.py"), "--run", arguments.pipeline, "--what", what]
    command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads), "--size", str(arguments.size)]
    command += ["--max-sequence-length", str(arguments.max_sequence_length)]
    return last_json(command, arguments.threads)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--tintype", default="target/release/tintype")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--max-sequence-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        ours = tintype(arguments)
        forward = diffusers(arguments, "transformer")
        whole = diffusers(arguments, "pipeline")
        rounds.append({
            "tintype": {key: ours[key] for key in ("forward", "pipeline", "peak")},
            "diffusers": {
                "forward": forward["seconds_median"],
                "pipeline": whole["seconds_median"],
                "peak_forward": forward["peak_rss_bytes"],
                "peak": whole["peak_rss_bytes"],
            },
            "load_average": os.getloadavg()[0],
        })
        print(json.dumps(rounds[-1]), file=sys.stderr)
    middle = lambda peer, key: statistics.median(one[peer][key] for one in rounds)
    summary = {
        f"{key}_{unit}": {
            "tintype": middle("tintype", key),
            "diffusers": middle("diffusers", key),
            "ratio": middle("tintype", key) / middle("diffusers", key),
        }
        for key, unit in [("forward", "seconds"), ("pipeline", "seconds"), ("peak", "bytes")]
    }
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {arguments.threads} threads",
        "command": "python benches/peers/side_by_side.py " + " ".join(sys.argv[1:]),
        "size": f"{arguments.size}x{arguments.size}, {arguments.max_sequence_length} text tokens, f32",
        "versions": {"tintype": ours["raw"]["version"], **whole["versions"]},
        "summary": summary,
        "rounds": rounds,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        pathlib.Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(arguments.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
