# bash, feature by feature; what dash shares runs there too.
cd /tmp
diff <(seq 5) <(seq 2 6); cat < <(echo sub); echo out > >(sed 's/^/tee: /'); wait; tee >(wc -c > count) < <(printf 12345) > /dev/null; sleep 0.2; cat count
coproc up { while read -r line; do echo "${line^^}"; done; }; echo hello >&"${up[1]}"; read -r -u "${up[0]}" got; echo "$got"; eval "exec ${up[1]}>&-"; wait "$up_PID"; echo $?
(sleep 0.1; exit 3) & a=$!; (sleep 0.5; exit 4) & wait -n; echo $?; wait -n; echo $?; wait -n; echo $?; wait $a; echo $?
trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo child' CHLD; true & wait; trap - CHLD; (trap 'echo exit $?' EXIT; exit 7); (trap 'echo err $LINENO >/dev/null; echo err' ERR; false; true); (trap 'echo dbg' DEBUG; true) ; bash -c 'trap "echo term; exit 9" TERM; kill -TERM $$; sleep 5'; echo $?
a=(one two three); a[10]=ten; a+=(eleven); echo "${!a[@]} ${#a[@]} ${a[@]:1:2} ${a[-1]}"; declare -A m=([x]=1 [y]=2); for k in $(printf '%s\n' "${!m[@]}" | sort); do echo "$k=${m[$k]}"; done; unset 'a[0]'; echo "${a[*]}"; mapfile -t lines < <(seq 3); echo "${lines[@]}"; readarray -d : parts <<< a:b:c; echo "${#parts[@]}"; declare -n ref=a; echo "${ref[1]}"; declare -i n=3+4; echo $n; printf -v v '%05d' 42; echo $v
s='hello world'; echo "${s^^} ${s/o/0} ${s//o/0} ${s#* } ${s%% *} ${s:3:4} ${#s} ${s@Q} ${none:-def} ${none:+x} ${s/%d/D}"; [[ $s =~ ^(h.*)\ (w.*)$ ]] && echo "${BASH_REMATCH[2]}"; [[ abc == a*c && 3 -lt 10 && -e /tmp ]] && echo yes; case $s in h*) echo h;;& *w*) echo w;; esac; echo {a..e}{1..2} {01..10..3}; shopt -s extglob globstar nullglob; mkdir -p g/h/i; touch g/{a,b}.c g/h/i/c.c; echo g/**/*.c g/!(a).c *.none; (( x = 5, x **= 2, x <<= 1 )); echo $x $((x % 7)) $((16#ff)) $((x > 3 ? 1 : 0)); let y=x/3; echo $y
ulimit -n 50; ulimit -n; (ulimit -f 1; head -c 5000 /dev/zero > big; echo $?); (ulimit -t 1; while :; do :; done) 2>/dev/null; echo $?; (ulimit -v 100000; head -c 300M /dev/zero | sort 2>&1 | head -c 100 | wc -l); umask 027; touch masked; mkdir maskd; stat -c '%a %n' masked maskd; umask -S; umask 022
TIMEFORMAT='%R %U %S'; { time sleep 0.1; } 2>&1 | awk '{ print ($1 >= 0.1), NF }'; times | wc -l; exec 5> fd5; echo five >&5; exec 5>&-; cat fd5; exec 6<> fd5; read -r -u 6 l; echo $l; cat <<-X | tr a-z A-Z
	here $((1+1))
	X
cat <<< string; { echo a; echo b >&2; } 2>&1 | sort; set -o pipefail; false | true; echo $? ${PIPESTATUS[@]}; set +o pipefail; ! true; echo $?; set -e; (set -e; false; echo no) || true; set +e; set -u; (echo $undefined) 2>&1 | sed 's/.*: //'; set +u
f() { local v=in; echo "$v $# $*"; return 4; }; v=out; f a 'b c'; echo $? $v; declare -f f | head -1; fact() { (( $1 < 2 )) && echo 1 || echo $(( $1 * $(fact $(($1 - 1))) )); }; fact 10; set -- x y z; shift; echo $1 $#; while getopts ab: o -a -b val; do echo $o $OPTARG; done; IFS=: read -r p q <<< 'l:r:s'; echo $q; select w in one; do echo $w; break; done <<< 1 2>/dev/null; printf '%q %b %(%Y)T\n' 'a b' 'x\ty' 0; echo $'\x41\u00e9'; hash -r; type -t cd if f ls; command -v sh; enable -n echo; enable echo; eval 'echo eval'; source <(echo 'echo sourced'); alias q=x; alias; pushd /usr > /dev/null; dirs; popd > /dev/null; history | wc -l; read -t 0.1 z < <(sleep 1); echo $((  $? > 128 )); echo $BASHPID | grep -c .; echo "$RANDOM" | grep -c .; kill -l 9; disown -a; exec 3< <(echo proc); cat <&3; suspend 2>&1 | sed 's/.*: //'; set -m; sleep 0.3 & jobs | sed 's/ *$//'; fg > /dev/null; echo $?; sh -c 'kill -STOP $$; exit 6' & wait -f %% 2>/dev/null & sleep 0.5; kill -CONT %1; wait %1; echo $?
dash -c 'f() { echo "f $1"; return 3; }; f x; echo $?; trap "echo bye" EXIT; (exit 4) || echo $?; for i in 1 2; do echo $i; done; cat <<X
here
X
echo $(( 1 + 2 )) `echo bt`; set -- a b; echo $#; ulimit -n; umask 077; umask; { sleep 0.1; exit 5; } & wait $!; echo $?; case ab in a*) echo a;; esac; x=abc; echo ${x%c} ${#x}; read y <<X
val
X
echo $y; kill -0 $$ && echo alive; test -t 0 || echo notty; exec 3>&1; echo three >&3; command -v ls; times | wc -l'
