"""Stands in for `python -m kindred train` where a test is about the sweep: the same files and exit status, in no time.

Its accuracy is 1 - |log10 tau| / 10 + seed / 1000. It fails at tau = 99, and while a file `hold` lies next to the sweep's
directory it runs until SIGTERM, upon which it ends as a training does that has written a checkpoint, or until the sweep is
gone.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

arguments = dict(a.split("=", 1) for a in sys.argv[1:])
going_on = "resume" in arguments
run = Path(arguments["resume"] if going_on else arguments["run_dir"])
if not going_on:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps(arguments))
asked = {"model.temperature": 0.5} | json.loads((run / "config.yaml").read_text())
sweeps = run.parents[2]
with (sweeps / "starts.txt").open("a") as file:
    file.write(f"{run.name} {'resume' if going_on else 'start'} {asked['model.temperature']} {asked['seed']}\n")
tau = float(asked["model.temperature"])
if tau == 99:
    print("many words\n\nerror: train/loss is not finite")
    sys.exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
parent = os.getppid()
while (sweeps / "hold").exists():
    time.sleep(0.02)
    if os.getppid() != parent:
        sys.exit(137)
accuracy = 1 - abs(math.log10(tau)) / 10 + float(asked["seed"]) / 1000
summary = {"val/knn_top1": accuracy, "val/linear_top1": accuracy / 2, "val/projector_uniformity": -3 + tau}
summary |= {"val/projector_tolerance": tau, "pixels/knn_top1": 0.4, "untrained/knn_top1": 0.5}
(run / "metrics.csv").write_text("step,epoch\n")
(run / "summary.json").write_text(json.dumps(summary))
