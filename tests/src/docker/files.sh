# What a container writes and the host sees, and the other way about.
up box busybox sh -c 'trap "exit 0" TERM; echo one >/written; mkdir /folder; rm /etc/hosts.allow 2>/dev/null; echo up; while :; do sleep 0.05; done'
until_ok said box up
step cp-out sh -c 'docker cp box:/written - | tar -xO'
step diff sh -c 'docker diff box | sort'
echo from-the-host >"$FOLDER/given"
step cp-in docker cp "$FOLDER/given" box:/folder/given
step cp-in-is-seen docker exec box cat /folder/given
echo changed >"$FOLDER/given"
step cp-over docker cp "$FOLDER/given" box:/folder/given
step cp-over-is-seen docker exec box sh -c 'n=0; until grep changed /folder/given; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.05; done'
step commit sh -c 'docker commit box committed >/dev/null'
step committed once committed cat /written /folder/given
step export sh -c 'docker export box | tar -t | grep -E "^(written|folder/given)$"'
docker rm -f box >/dev/null
docker rmi committed >/dev/null
mkdir -p "$FOLDER/bind-$RT" && echo host >"$FOLDER/bind-$RT/file"
step bind once -v "$FOLDER/bind-$RT:/b" busybox sh -c 'cat /b/file; echo inside >/b/new'
step bind-on-the-host cat "$FOLDER/bind-$RT/new"
step bind-ro once -v "$FOLDER/bind-$RT:/b:ro" busybox sh -c 'cat /b/file; echo x >/b/new'
step bind-file once -v "$FOLDER/bind-$RT/file:/etc/one" busybox cat /etc/one
step mount-bind once --mount "type=bind,source=$FOLDER/bind-$RT,target=/b,readonly" busybox sh -c 'ls /b; touch /b/x'
step mount-tmpfs once --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700 busybox sh -c 'grep " /t " /proc/mounts | cut -d " " -f 3; df -k /t | tail -1 | tr -s " " | cut -d " " -f 2; stat -c %a /t'
step tmpfs once --tmpfs /t:size=1m,noexec busybox sh -c 'dd if=/dev/zero of=/t/f bs=1k count=2000 2>/dev/null; echo $?'
step volume sh -c 'docker volume create v >/dev/null
  docker run --rm --network none --runtime "$RT" -v v:/v busybox sh -c "echo kept >/v/file"
  docker run --rm --network none --runtime "$RT" -v v:/v:ro busybox sh -c "cat /v/file; touch /v/x"
  docker volume rm v'
step volume-of-the-image once -v /bin busybox sh -c 'ls /bin | wc -l'
up first -v /data busybox sh -c 'echo shared >/data/file; echo up; sleep 1000'
until_ok said first up
step volumes-from once --volumes-from first busybox cat /data/file
docker rm -f -v first >/dev/null
step shm-size once --shm-size 1m busybox sh -c 'df -k /dev/shm | tail -1 | tr -s " " | cut -d " " -f 2'
step etc-files once --hostname box --add-host a.example:10.0.0.1 busybox sh -c 'cat /etc/hostname; grep a.example /etc/hosts; test -e /etc/resolv.conf && echo resolv'
