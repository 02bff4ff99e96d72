# docker build, whose RUN lines are containers of the default runtime; and what the daemon tells.
mkdir -p "$FOLDER/context" && echo data >"$FOLDER/context/data"
cat >"$FOLDER/context/Dockerfile" <<'DOCKERFILE'
FROM busybox
ENV GREETING=hello
COPY data /data
RUN echo "$GREETING $(cat /data)" >/made && echo user:x:1000:1000::/home/user:/bin/sh >>/etc/passwd
RUN mkdir -p /home/user/x && chown user /home/user/x
USER user
WORKDIR /home/user
RUN echo mine >x/file
ENTRYPOINT ["sh", "-c"]
CMD ["cat /made x/file; id -un"]
DOCKERFILE
works build docker build -q --no-cache --force-rm --network none -t built "$FOLDER/context"
works built sh -c 'docker run --rm --network none built'
works built-by sh -c 'docker create --name made built >/dev/null; [ "$(docker inspect -f "{{.HostConfig.Runtime}}" made)" = "$RT" ] && echo default; docker rm made'
echo 'FROM busybox
RUN exit 7' >"$FOLDER/context/Dockerfile"
step build-fails sh -c 'docker build -q --no-cache --force-rm --network none "$1" 2>&1 | tail -1' - "$FOLDER/context"
docker rmi -f built >/dev/null
since=$(date +%s)
sh_once --name evented busybox true
works events sh -c 'docker events --since "$1" --until "$(($(date +%s) + 1))" --filter container=evented --format "{{.Action}}"' - "$since"
