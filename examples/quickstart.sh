#!/bin/sh
# The main job: measure this machine's CPU, search a space under a latency budget, train the winner,
# export it, and measure the file. Some minutes on two cores; the run is written to runs/quickstart.
set -eu

space="mobilenet(width=0.25,depth=0.5)"
hwnas profile --device cpu-onnxruntime --space "$space" --data digits --quick
if [ -e runs/quickstart ]; then # it was run before
    hwnas search --resume runs/quickstart
else
    hwnas search --space "$space" --data digits --constraint "latency@cpu-onnxruntime <= 0.12ms" \
        --supernet-epochs 60 --evaluations 200 --run runs/quickstart
fi
hwnas report runs/quickstart
