"""A process that pretends to measure a cell, for `test_gpu_schedule`: what it does, the settings say by the cell's number of images."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    cell, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    behaviour = settings.get(str(cell["images"]), "measures")
    if cell["kind"] == "step":
        if behaviour == "hangs":
            time.sleep(60)
        print(json.dumps({"ready": True}), flush=True)
        if not sys.stdin.readline():
            sys.exit("nobody waits")
        # Two that are here at once would find each other's file.
        os.close(os.open(settings["device"], os.O_CREAT | os.O_EXCL))
        time.sleep(0.05)
        Path(settings["device"]).unlink()
    if behaviour == "crashes":
        sys.exit("something\nSegmentation fault, nearly")
    if behaviour == "is full":
        print(json.dumps({"status": "out of memory", "values": {}, "why": "OOM when allocating"}))
    elif cell["kind"] == "count":
        print(json.dumps({"status": "done", "values": {"multiply_adds": 5 * 10**11, "height": 800, "width": 1333, "parameters": 7}}))
    elif cell["kind"] == "parity":
        worst = {"stage 1": 1e-5, "losses": 2e-4}
        print(json.dumps({"status": "done", "values": {"rows": 9, "hold": 8, "worst": worst, "beyond": ["losses 2e-4 of 1e-4"]}}))
    else:
        # Fixed 2 GB, and 3 GB an image; as many images, as many seconds.
        images = cell["images"]
        values = {"seconds_per_step": float(images), "input_wait": 0.25, "peak_bytes": (2 + 3 * images) * 10**9}
        print(json.dumps({"status": "done", "values": values | {"first_step_seconds": 9.0, "steps": 3, "finite": 3.0}}))
