# What every script begins with. RT is the runtime; a step is one line of the comparison: its output, then its errors (the
# two come over different ways, in no order), and its status.
step() {
  echo "## $1"
  shift
  "$@" </dev/null 2>"$FOLDER/errors"
  status=$?
  cat "$FOLDER/errors"
  echo "-> $status"
}
# A step that says nothing unless it succeeds with runc.
works() {
  step "$@"
  [ "$status" = 0 ] || echo "must succeed"
}
run() { docker run --network none --runtime "$RT" "$@"; }
once() { run --rm "$@"; }
sh_once() { once "$@" </dev/null; }
# A container in the background, by name; its id is nobody's business.
up() { run -d --name "$@" >/dev/null; }
# Waits until a command succeeds.
until_ok() {
  n=0
  until "$@" >/dev/null 2>&1; do
    n=$((n + 1))
    [ "$n" -lt 600 ] || { echo "never: $*"; return 1; }
    sleep 0.05
  done
}
said() { docker logs "$1" 2>&1 | grep -q "$2"; }
state() { docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}}' "$1"; }
