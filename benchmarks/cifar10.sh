#!/usr/bin/env bash
# The CIFAR-10 table that two cores can make: the four methods, convnet, 50,000 images, 30 epochs, 2 seeds, last epoch.
#
#   bash benchmarks/cifar10.sh          trains, judges on test, and writes benchmarks/results/cifar10.md after each run
#
# 12 to 26 minutes each of the eight on one core of an AMD EPYC, evaluation included: about an hour and a half, two at a time.
# Cut, the same command goes on; once all is done it writes the table and no more. What follows goes to methods.py too, as
# `--seeds 0` or `data.source.root=...`, a folder with train/<class>/*.jpg and test/<class>/*.jpg. In monitoring nothing is
# chosen: the trainings are not evaluated before their last epoch, and the table is of `kindred evaluate --brief`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" benchmarks/methods.py --data imagefolder --name cifar10 --evaluate --seeds 0 1 \
    --output benchmarks/results --work logs/methods trainer=cpu encoder=convnet \
    data.source.root=data/cifar10-jpg data.batch_size=256 data.val_size=0 \
    model.hidden_dim=512 model.warmup_epochs=1 trainer.max_epochs=30 trainer.check_val_every_n_epoch=30 \
    "~callbacks.linear_probe" "$@"
