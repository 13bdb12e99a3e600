#!/bin/sh
# The main job: measure this machine's CPU, search a space under a latency budget, train the winner,
# export it, and measure the file. Minutes on two cores; everything is written under the current folder.
set -eu

hwnas profile --device cpu-onnxruntime --space "mobilenet(width=0.25,depth=0.5)" --data digits --quick
hwnas search --space "mobilenet(width=0.25,depth=0.5)" --data digits \
    --constraint "latency@cpu-onnxruntime <= 0.12ms" --supernet-epochs 40 --evaluations 200 --epochs 40 \
    --run runs/quickstart
hwnas report runs/quickstart
