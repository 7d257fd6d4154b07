#!/usr/bin/env bash
# Builds the programs, distils a small 18-layer policy into 6 layers on demonstrations of a scripted expert, recorded in the
# LIBERO simulator, and reports. At most 15 minutes on 2 cores beyond the downloads; seconds where nothing changed.
#   usage: scripts/quickstart.sh [--cuda|--cpu] [--no-install]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$project"
for argument in "$@"; do
  case $argument in
    --cuda | --cpu | --no-install) ;;
    -h | --help) usage ;;
    *) die "unknown option $argument (see --help)" ;;
  esac
done
./scripts/build.sh "$@"

teacher=configs/quickstart/teacher
runs=runs/quickstart
student=$runs/student/last
inputs=$(cat configs/quickstart.yaml configs/quickstart/*.hdf5 $teacher/manifest.json | sha256sum)
[ "$inputs" = "$(cat $runs/inputs.stamp 2>/dev/null)" ] || rm -rf $runs   # another teacher, other data or settings
mkdir -p $runs
echo "$inputs" >$runs/inputs.stamp

say "distilling 18 layers into 6"
build/bin/shallowpi-distill --config configs/quickstart.yaml
[ -e $runs/skipped ] || build/bin/shallowpi-distill --config configs/quickstart.yaml --init-only $runs/skipped

say "comparing on the demonstrations that neither has seen"
stamp=$(cat $student/manifest.json $teacher/manifest.json build/bin/shallowpi-eval | sha256sum)
if [ "$stamp" != "$(cat $runs/report.stamp 2>/dev/null)" ]; then
  build/bin/shallowpi-eval offline --teacher $teacher --held-out configs/quickstart.yaml \
    --checkpoint teacher=$teacher --checkpoint skipped=$runs/skipped --checkpoint distilled=$student \
    --frames 96 --out $runs/report.json >$runs/report.txt.tmp
  mv $runs/report.txt.tmp $runs/report.txt
  echo "$stamp" >$runs/report.stamp
fi
cat $runs/report.txt
cat <<MESSAGE

  teacher     18 layers, trained on these tasks
  skipped     its layers 0, 3, 6, 9, 12, 15 without training: plain layer skipping
  distilled   the same six layers after distillation: $student

Next: see the teacher act in the simulator, or distil your own policy (README.md).
MESSAGE
