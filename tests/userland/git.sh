# git on five thousand files: commits, branches, merges, gc, fsck, clone.
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@example.org
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_CONFIG_GLOBAL=/dev/null
cd /tmp && git init -q -b main repo && cd repo
for d in $(seq 50); do mkdir d$d; for f in $(seq 100); do echo "file $d/$f" > d$d/f$f; done; done
git add . && git commit -q -m 'five thousand files' && git rev-parse HEAD && git ls-files | wc -l
git checkout -q -b side && for d in $(seq 1 5 50); do echo side >> d$d/f1; done && git commit -q -a -m side
git checkout -q main && git rm -q -r d50 && echo new > new && git add new && git commit -q -m main
git merge -q -m merge side 2>&1; git status --short | head; git rev-parse HEAD
git mv d1 moved && git commit -q -m move && git log --oneline --stat -1 | tail -1 && git diff --stat HEAD~3 | tail -1
git stash list; echo dirty >> d2/f2 && git stash -q && git status --short && git stash pop -q && git status --short && git checkout -q .
git tag -a v1 -m tag && git describe --always
git gc -q 2>&1; git fsck --full 2>&1; git count-objects -v | grep -v size; ls .git/objects/pack | sed 's/-.*\././' | sort
git clone -q . ../clone && git -C ../clone rev-parse HEAD && git -C ../clone ls-files | sha256sum
git clone -q --bare --no-local . ../bare.git && git -C ../bare.git fsck 2>&1 && git push -q ../bare.git main:other && git -C ../bare.git branch | cat
git archive main d3 | tar -t | wc -l; git grep -c 'file 7/1$' | head -3; git blame -s new; git bisect start -q HEAD HEAD~3 2>&1 | tail -1
git worktree add -q ../tree side && git -C ../tree status --short | wc -l
