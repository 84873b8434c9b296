#!/usr/bin/env python3
"""Searches each of 1,641 emoji of one artist among those of another: pairs.py PROGRAM NODE_MODULES [HALF].

Both draw the same things, in their own way, as a product's photo and a cutout of a video show the same thing. All emoji count but
flags, whose drawings are alike. The settings of the descriptor were chosen on the first, third, fifth ... pair (`tuning`); the rest
(`test`) must be found as well. Fails if recall at 10 is below 0.70.
"""
import json, subprocess, sys, tempfile
from pathlib import Path

RECALL_MIN = 0.70
PAIRS = 1641

program, modules = Path(sys.argv[1]), Path(sys.argv[2])
halves = sys.argv[3:] or ["all", "tuning", "test"]
folders = {artist: modules / f"emoji-datasource-{artist}" / "img" / artist / "64" for artist in ("google", "twitter")}
emoji = json.loads((modules / "emoji-datasource-google" / "emoji.json").read_text())
names = [one["image"] for one in emoji if one["category"] != "Flags"]
names = [name for name in names if all((folder / name).exists() for folder in folders.values())]
assert len(names) == PAIRS, f"{len(names)} pairs, and {PAIRS} are expected: the packages have changed"

failed = False
with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    file.write("\n".join(names))
    file.flush()
    for half in halves:
        command = [program, "compare", folders["google"], folders["twitter"], file.name, "--half", half]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(f"{half:7} {found['queries']:5} of {found['candidates']} pairs: "
              f"recall at 1 {found['recall_at_1']:.3f}, at 10 {found['recall_at_10']:.3f}", flush=True)
        failed |= found["recall_at_10"] < RECALL_MIN
if failed:
    sys.exit(f"recall at 10 is below {RECALL_MIN}")
