# docker exec.
up box busybox sh -c 'trap "exit 0" TERM; while :; do sleep 0.05; done'
step plain docker exec box echo hi
step options docker exec -u 5:6 -w /tmp -e X=y box sh -c 'id; pwd; echo $X; exit 7'
step stdin sh -c 'echo text | docker exec -i box cat'
step killed docker exec box sh -c 'kill -9 $$'
step no-such-program docker exec box nosuch
step not-executable docker exec box /etc/passwd
step privileges docker exec box sh -c 'grep -E "^Cap|NoNew" /proc/self/status'
step detached docker exec -d box sh -c 'echo there >/detached'
until_ok docker exec box grep there /detached
step detached-was-there docker exec box cat /detached
step sees-init docker exec box sh -c 'kill -0 1 && echo alive'
step no-such-container docker exec nosuch true
docker stop box >/dev/null
step stopped sh -c 'docker exec box true 2>&1 | sed "s/[0-9a-f]\{64\}/ID/"'
docker rm -f box >/dev/null
