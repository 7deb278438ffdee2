"""The driver of a training as a process of its own, so that a test can kill it: drive.py DATASET OUT."""

import sys
from pathlib import Path

from made_dataset import experiment

from xray_det.data.cluster import connect
from xray_det.orchestrate.trainer import train

if __name__ == "__main__":
    connect(num_cpus=3, include_dashboard=False, log_to_driver=False)
    result = train(experiment(sys.argv[1], Path(sys.argv[2])), max_failures=20)
    print(result.seconds, flush=True)
