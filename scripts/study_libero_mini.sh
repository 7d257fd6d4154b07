#!/usr/bin/env bash
# The study of docs/results.md: the small 18-layer pi0 teacher of configs/quickstart/teacher, its students and its layer-skipped
# selections, in the LIBERO simulator, all on a CPU. Every cell is MODEL.CONDITION; its episodes are
# docs/results/MODEL.CONDITION.json, written when the run is complete, and such a cell is not run again, unless TRIALS asks for
# more than it has. Interrupted, it goes on where it was. teacher_round2.official trains the teacher once more, from the start.
#   usage: scripts/study_libero_mini.sh [--list | --table | CELL...]
#   --list    the cells in order of value, and how long each takes; runs nothing
#   --table   the tables of docs/results.md from docs/results
#   CELL...   only these, such as l6.official; default: all
#   JOBS=4 plays four episodes at once (default: 2); TRIALS=10 plays so many initial states per task in every cell
#   (default: all 50 official ones; 20 where objects are displaced or move, or answers are late)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$project"
runs=runs/libero_mini results=docs/results tasks=1,6,8
demos=data/libero_boxes jobs=${JOBS:-2}
trap 'kill ${server_PID:-} 2>/dev/null || true' EXIT
distill=build/bin/shallowpi-distill eval=build/bin/shallowpi-eval infer=build/bin/shallowpi-infer

cells=(teacher.official_steady l6.official_steady l6_task.official_steady l9.official_steady
  teacher.latency110_steady l6.latency110_steady l6_task.latency110_steady l9.latency110_steady teacher.latency364_steady
  teacher.displaced_steady l6.displaced_steady l6_task.displaced_steady l9.displaced_steady
  skip_uniform.official_steady skip_least.official_steady skip_cosine.official_steady
  skip_least17.official_steady skip_least15.official_steady skip_least12.official_steady skip_least9.official_steady
  teacher.moving_steady l6.moving_steady l6_task.moving_steady l9.moving_steady
  teacher.official_steady1 teacher.official_steady2 teacher.latency110_steady1 l6.latency110_steady1 l6.official_steady1
  teacher.official l6.official l6_task.official l9.official replay.official mean_action.official
  teacher.latency110 teacher.latency364 l6.latency110
  teacher_pi05.official_steady l6_pi05.official_steady teacher_pi05.latency110_steady l6_pi05.latency110_steady
  teacher_more.latency110_steady l6_half.official_steady l6_half.latency110_steady l6_seed8.official_steady
  l6_short{,_task,_kd,_attn}{,_seed8,_seed9}.official_steady
  l6_short_first.official_steady l6_short_last.official_steady l6_short_queries.official_steady
  teacher_first.official teacher_round1.official teacher_round2.official)

# What a condition changes; the official one has LIBERO's own 50 initial states. NAME_steady: chunks start from no noise;
# NAME_steady1: and are made in one Euler step.
condition_options() {
  local condition=${1%_steady*} options steps
  case $condition in
    official) options="--trials ${TRIALS:-50}" ;;
    displaced) options="--trials ${TRIALS:-20} --perturb target_xy=0.02" ;;
    moving) options="--trials ${TRIALS:-20} --move target=0.008" ;;
    latency*) options="--trials ${TRIALS:-20} --latency-ms ${condition#latency}" ;;
    *) die "unknown condition $1" ;;
  esac
  if [ "$condition" != "$1" ]; then
    steps=${1##*_steady}
    options+=" --noise-scale 0${steps:+ --steps $steps}"
  fi
  echo "$options"
}

# 60 disturbed demonstrations of each task, and 60 more of the hardest (cream cheese), objects displaced; the official initial
# states are never used. A third of them start where a grasp has just missed, so that a policy that misses knows how to go on.
collect() {
  collect_demos --episodes 60 --tasks $tasks --missed 0.3 --out $demos/seed0
  collect_demos --episodes 60 --tasks 1 --missed 0.4 --seed 1000 --out $demos/seed1000
}

# collect_led FOLDER SEED EPISODES POLICY: more of each task, which begin where that policy has led.
collect_led() {
  local url pid failed=0
  coproc server { exec $infer serve --checkpoint "$4" --threads 1 --port 0 --quiet; }
  pid=$server_PID
  read -r _ _ url <&"${server[0]}"   # listening on ws://...
  collect_demos --episodes "$3" --tasks $tasks --seed "$2" --policy "$url" --out "$1" || failed=$?
  kill "$pid"
  wait "$pid" || true
  return $failed
}

collect_demos() {
  local python; python=$(./scripts/setup_libero.sh)
  "$python" scripts/collect_libero_demos.py --suite libero_object --displace 0.025 --disturb 0.18 \
    --render-every 3 --workers 2 "$@"
}

# choose NAME STEP...: of these checkpoints the one that succeeds most often on 30 displaced placements of another seed than
# any cell's.
choose() {
  local folder=$runs/$1 step best=-1 successes chosen
  for step in "${@:2}"; do
    rollout "$runs/choice/$1.$step" --checkpoint "$folder/checkpoints/step_$step" --trials 10 --perturb target_xy=0.02 --seed 100
    successes=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["summary"]["successes"])' \
      "$runs/choice/$1.$step/results.json")
    if [ "$successes" -ge "$best" ]; then best=$successes chosen=$step; fi
  done
  ln -sfn checkpoints/step_"$chosen" "$folder/chosen"
}

# Those of the teacher's first part, and others into which the teacher leads.
collect_for_students() { collect; collect_led "${demos}_led/students" 4000 50 configs/quickstart/teacher; }

train() { $distill --config "configs/libero_mini/$1.yaml" "${@:2}"; }

# student NAME CONFIG STEPS OPTIONS...: distils it, unless its last step is there; NAME_seed8 with that seed.
student() {
  model=$runs/$1/last
  [ "$(readlink "$model")" = "checkpoints/step_00$3" ] || {
    collect_for_students
    [[ $1 != *_seed* ]] || set -- "$@" seed="${1##*_seed}"
    train "$2" output_dir="$runs/$1" train.steps="$3" optimizer.decay_steps="$3" "${@:4}"
  }
}

# refine NAME BASE ROUND EPISODES: trains BASE on, with so many demonstrations more of each task, which it leads into.
refine() {
  [ -e "$runs/$1/chosen" ] || {
    make_model "$2"; collect_led "${demos}_led/round$3" $((1000 + 1000 * $3)) "$4" "$model"
    train teacher student.checkpoint="$model" output_dir="$runs/$1"; choose "$1" 003000 004000
  }
  model=$runs/$1/chosen
}

# Makes a model if it is not there; sets $model to its folder.
make_model() {
  case ${1%_seed*} in
    teacher_first | teacher_pi05)
      model=$runs/$1/chosen
      [ -e "$model" ] || {
        if [ "$1" = teacher_pi05 ]; then collect_for_students; else collect; fi
        train "$1"; choose "$1" 004500 006000 007500
      }
      ;;
    teacher_round1) refine "$1" teacher_first 1 50 ;;
    teacher_round2) refine "$1" teacher_round1 2 30 ;;
    teacher) model=configs/quickstart/teacher ;;   # the second round's
    teacher_more)   # the teacher trained on with its students' demonstrations: what these alone are worth
      model=$runs/$1/last
      [ "$(readlink "$model")" = checkpoints/step_004000 ] || {
        collect_for_students
        train teacher student.checkpoint=configs/quickstart/teacher output_dir="$runs/$1" \
          "data.files=[$demos/*/*.hdf5, {path: ${demos}_led/students/*.hdf5, weight: 2}]"
      }
      ;;
    l6 | l6_task | l9) student "$1" "${1%_seed*}" 4000 ;;
    l6_half) student "$1" l6 2000 ;;
    l6_pi05) make_model teacher_pi05; student "$1" l6 4000 teacher.checkpoint="$model" ;;
    # A quarter of the steps, where students are far from the ceiling and what a loss is worth can show (the paper's Table 1).
    l6_short) student "$1" l6 1000 ;;
    l6_short_task) student "$1" l6_task 1000 ;;
    l6_short_kd) student "$1" l6 1000 loss.attn=0 ;;
    l6_short_attn) student "$1" l6 1000 loss.kd=0 ;;
    l6_short_first | l6_short_last) student "$1" l6 1000 "loss.attn_placement=${1##*_}" ;;
    l6_short_queries) student "$1" l6 1000 loss.attn_queries=all ;;
    skip_*) skip_layers "$1" ;;
    *) die "unknown model $1" ;;
  esac
}

# The layers that a rule keeps (six, or as many as the name ends with), found on the students' held-out demonstrations, as [0,3,...].
ranking() {
  local command=skip path='["sets"][0]["kept"]' options=(--no-greedy) layers=${1##*[a-z]}
  if [ "$1" = skip_cosine ]; then command=similarity path='["rankings"]["backbone"]["kept"]' options=(); fi
  $eval $command --checkpoint configs/quickstart/teacher --held-out configs/libero_mini/l6.yaml --layers "${layers:-6}" --threads 1 \
    --out "$runs/$1.json" "${options[@]}" >&2
  python3 -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))'"$path"', separators=(",", ":")))' "$runs/$1.json"
}

# skip_layers NAME: the layers of the teacher that the name's rule keeps, as they are.
skip_layers() {
  local map=uniform layers=${1##*[a-z]}
  model=$runs/$1
  [ ! -e "$model" ] || return 0
  collect_for_students
  [ "$1" = skip_uniform ] || map=$(ranking "$1")
  $distill --config configs/libero_mini/l6.yaml "student.layer_map=$map" student.layers="${layers:-6}" --init-only "$model"
}

# rollout FOLDER OPTIONS...: one torch thread per process, the simulator draws 128 pixels as in the demonstrations.
rollout() {
  local folder=$1; shift
  $eval rollout --suite libero_object --tasks $tasks --image-size 128 --threads 1 --workers "$jobs" --out "$folder" "$@"
}

run_cell() {
  local name=${1%.*} folder=$runs/rollouts/$1 policy
  case $name in
    replay) collect; policy=(--policy "replay:$demos/seed0/*.hdf5#trial") ;;
    mean_action) collect; policy=(--policy "mean-action:$demos/seed0/*.hdf5") ;;
    *) make_model "$name"; policy=(--checkpoint "$model") ;;
  esac
  # Episodes that are known already are not played again.
  if [ ! -e "$folder/results.json" ] && [ -e "$results/$1.json" ]; then
    mkdir -p "$folder"; cp "$results/$1.json" "$folder/results.json"
  fi
  # shellcheck disable=SC2046  # options, word by word
  rollout "$folder" "${policy[@]}" $(condition_options "${1#*.}")
  mkdir -p $results
  cp "$folder/results.json" "$results/$1.json.tmp" && mv "$results/$1.json.tmp" "$results/$1.json"
}

wanted_episodes() { echo $(($(condition_options "${1#*.}" | cut -d' ' -f2) * 3)); }

played_episodes() {
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["summary"]["episodes"])' "$results/$1.json"
}

# is_done CELL: has it the episodes that it was run for, and those that TRIALS asks for now?
is_done() {
  [ -e "$results/$1.json" ] && { [ -z "${TRIALS:-}" ] || [ "$(played_episodes "$1")" -ge "$(wanted_episodes "$1")" ]; }
}

# Minutes on two cores: an episode is 3.5 to 5 s of simulation with the policy's own time.
list_cells() {
  local cell episodes
  for cell in "${cells[@]}"; do
    if is_done "$cell"; then
      printf '%-33s %4d episodes, done\n' "$cell" "$(played_episodes "$cell")"
      continue
    fi
    episodes=$(wanted_episodes "$cell")
    printf '%-33s %4d episodes, about %2d min on two cores\n' "$cell" "$episodes" $((episodes * 4 / 60))
  done
  echo "before the first of each: demonstrations 20 min, those where the teacher has led 20 to 30 min, a student 40 to 70 min,"
  echo "one with a quarter of the steps (l6_short*) 6 to 15 min;"
  echo "teacher_first, teacher_round1 and teacher_round2 together 80 to 140 min, and 20 min for choosing their checkpoints"
}

# Each condition's cells against the first, its teacher's; those of the pi0.5 policies apart.
tables() {
  local condition kind cell runs_of
  for condition in official displaced moving latency; do
    for kind in "" _pi05; do
      runs_of=()
      for cell in "${cells[@]}"; do
        [[ $cell == *$kind.$condition* && ( -n $kind || $cell != *_pi05.* ) && -e $results/$cell.json ]] || continue
        runs_of+=("$cell=$results/$cell.json")
      done
      [ ${#runs_of[@]} -lt 2 ] || { say "$condition${kind/_/, }"; $eval compare "${runs_of[@]}"; }
    done
  done
}

case ${1:-} in
  --list) list_cells; exit ;;
  --table) tables; exit ;;
  -h | --help) usage ;;
esac
for cell in "$@"; do
  [[ " ${cells[*]} " == *" $cell "* ]] || die "unknown cell $cell (see --list)"
done
for cell in "${@:-${cells[@]}}"; do
  if is_done "$cell"; then say "$cell: done"; else say "$cell"; run_cell "$cell"; fi
done
tables
