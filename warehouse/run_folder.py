"""Names in a training run's folder, which training writes and what looks for runs reads."""

from __future__ import annotations

RUN = "run.json"
"""What is trained, and on which dataset; it is there from the start."""
METRICS = "metrics.jsonl"
"""An event a line: steps with their loss, and losses on held-out clips."""
WEIGHTS = "weights.safetensors"
"""The averaged weights of a finished run."""
DONE = "done.json"
"""The report of a finished run, written last."""
SAMPLES = "samples"
"""The folder of videos that are sampled from the run, where no other is named."""
PROMPTS = "prompts.json"
"""In a folder of samples: the prompts in the order of the videos."""
