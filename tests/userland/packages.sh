# dpkg and apt: what is installed, and a package of our own from a local folder, installed, upgraded and removed.
export DEBIAN_FRONTEND=noninteractive
dpkg -l | wc -l; dpkg -l bash | tail -1 | cut -c1-40; dpkg -S /bin/bash /usr/bin/git; dpkg -L dash | sort | head -5; dpkg -s tar | grep ^Version; dpkg --audit; dpkg -V coreutils bash 2>&1 | grep -v /usr/share | head
cd /tmp && mkdir -p repo && for version in 1 2; do
  mkdir -p p/DEBIAN p/usr/bin p/etc && printf '#!/bin/sh\necho greetings %s\n' $version > p/usr/bin/greet && chmod 755 p/usr/bin/greet && echo "level=$version" > p/etc/greet.conf
  printf 'Package: greet\nVersion: %s\nArchitecture: all\nMaintainer: T <t@example.org>\nDepends: bash\nDescription: greets\n' $version > p/DEBIAN/control
  echo /etc/greet.conf > p/DEBIAN/conffiles
  printf '#!/bin/sh\nset -e\necho "postinst $1"\n' > p/DEBIAN/postinst; printf '#!/bin/sh\necho "prerm $1"\n' > p/DEBIAN/prerm; chmod 755 p/DEBIAN/*inst p/DEBIAN/prerm
  dpkg-deb --root-owner-group -b p repo/greet_${version}_all.deb > /dev/null && rm -r p
done
dpkg-deb -c repo/greet_1_all.deb | awk '{ print $1, $2, $6 }'
dpkg -i repo/greet_1_all.deb | grep -v 'Reading database'; greet; cat /etc/greet.conf
(cd repo && for d in *.deb; do dpkg-deb -f $d; echo "Filename: ./$d"; echo "Size: $(stat -c %s $d)"; echo "SHA256: $(sha256sum $d | cut -d' ' -f1)"; echo; done > Packages)
echo 'deb [trusted=yes] file:/tmp/repo ./' > /etc/apt/sources.list
apt-get -q update 2>&1 | grep -v '^Get\|Ign\|Hit\|Fetched' ; echo "update $?"
apt-cache policy greet | head -3; apt-get -q -y upgrade 2>&1 | grep -v 'Reading database\|^Get\|Need to get\|After this\|Fetched'; greet
apt-get -q -y purge greet 2>&1 | grep -v 'Reading database\|After this'; command -v greet || echo gone; ls /etc/greet.conf 2>&1
apt-get -q -y install /tmp/repo/greet_1_all.deb 2>&1 | grep -v 'Reading database\|^Get\|Need to get\|After this\|Fetched'; greet; apt-mark showmanual | grep greet
