#!/usr/bin/env bash
# Plays many seeded histories in slices: SEEDS of the whole house and MODEL on the model, from SEED on. Each slice that
# is done is remembered, so that a run which was stopped goes on where it was, as long as the program is the same.
# Usage: soak.sh FOLDER, with SEED, SEEDS, MODEL and PARALLEL (histories of the house at once) in the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1
mkdir -p "$folder"
go test -c -trimpath -buildvcs=false -o "$folder/house.test" ./cmd/tollgate
go test -c -trimpath -buildvcs=false -o "$folder/model.test" ./aggregator
program=$(cat "$folder"/{house,model}.test | sha256sum | cut -c1-12)
done="$folder/$program"
mkdir -p "$done"

# play KIND TEST PACKAGE SLICE COUNT: all slices of one kind.
play() {
  local kind=$1 test=$2 package=$3 slice=$4 count=$5 from n name
  for ((from = SEED; from < SEED + count; from += slice)); do
    n=$((SEED + count - from < slice ? SEED + count - from : slice))
    name="$done/$kind-$from-$n"
    if [ ! -e "$name.ok" ] && [ ! -e "$name.failed" ]; then
      if (cd "$package" && TOLLGATE_SOAK_SEED=$from TOLLGATE_SOAK_ENGINE=$n TOLLGATE_SOAK_MODEL=$n \
        TOLLGATE_SOAK_PARALLEL=$PARALLEL "$folder/$kind.test" -test.timeout 12h -test.run "^$test\$") >"$name.log" 2>&1; then
        mv "$name.log" "$name.ok"
      elif grep -q 'replay it:' "$name.log"; then
        mv "$name.log" "$name.failed"
      else # it was stopped, or could not run at all: the next run plays it again
        cat "$name.log" >&2
        return 1
      fi
    fi
    echo "$(date +%H:%M:%S) $kind: seeds $SEED to $((from + n - 1)) of $((SEED + count - 1))," \
      "$(cat "$done/$kind"-*.failed 2>/dev/null | grep -c 'replay it:') failed"
  done
}

play model TestModelHistories aggregator 5000 "$MODEL"
play house TestIntegrationSoak cmd/tollgate 50 "$SEEDS"
failed=$(cat "$done"/*.failed 2>/dev/null | grep -c 'replay it:' || true)
grep -h -B3 'replay it:' "$done"/*.failed 2>/dev/null || true
echo "soak: $SEEDS histories of the whole house, $MODEL on the model, from seed $SEED on: $failed failed"
[ "$failed" = 0 ]
