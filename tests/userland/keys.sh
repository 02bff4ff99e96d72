# Keys and digests: ssh-keygen, openssl, gpg. What is random is not shown, only that it fits together.
cd /tmp
for kind in ed25519 ecdsa rsa; do
  ssh-keygen -q -t $kind -N pass -C comment -f key-$kind && ssh-keygen -y -P pass -f key-$kind | cmp - <(cut -d' ' -f1-3 key-$kind.pub) && echo "$kind fits"
  stat -c '%a %n' key-$kind key-$kind.pub
done
echo text > text && ssh-keygen -q -Y sign -P pass -n file -f key-ed25519 text 2>&1; echo "me $(cat key-ed25519.pub)" > signers
ssh-keygen -Y verify -f signers -I me -n file -s text.sig < text | sed 's/SHA256:.*/SHA256/'
openssl version; openssl speed -seconds 1 -bytes 1024 sha256 2>&1 | sed 's/[0-9][0-9.]*/N/g' | grep -c 'sha256'
openssl genrsa -out rsa.pem 2048 2>/dev/null && openssl rsa -in rsa.pem -check -noout 2>&1
openssl req -x509 -new -key rsa.pem -subj /CN=test -days 10 -out cert.pem && openssl verify -CAfile cert.pem cert.pem
openssl ecparam -name prime256v1 -genkey -noout -out ec.pem && openssl dgst -sha256 -sign ec.pem -out sig text && openssl dgst -sha256 -verify <(openssl ec -in ec.pem -pubout 2>/dev/null) -signature sig text
echo secret | openssl enc -aes-256-cbc -pbkdf2 -k pw | openssl enc -d -aes-256-cbc -pbkdf2 -k pw; openssl rand -hex 16 | wc -c
export GNUPGHOME=/tmp/gnupg; mkdir -m 700 $GNUPGHOME
gpg --batch --quiet --pinentry-mode loopback --passphrase pw --quick-generate-key 'Test <t@example.org>' ed25519 default never 2>/dev/null; echo "generated $?"
gpg --list-keys --with-colons 2>/dev/null | grep -v ^tru | cut -d: -f1,4 | sort
gpg --batch --quiet --pinentry-mode loopback --passphrase pw --quick-add-key "$(gpg --list-keys --with-colons 2>/dev/null | awk -F: '/^fpr/ { print $10; exit }')" cv25519 encr never; echo "added $?"
gpg --batch --quiet --trust-model always -r t@example.org -o text.gpg -e text && gpg --batch --quiet --pinentry-mode loopback --passphrase pw -d text.gpg
gpg --batch --quiet --pinentry-mode loopback --passphrase pw --clearsign text && gpg --verify text.asc 2>&1 | grep -o 'Good signature.*'
gpgconf --list-dirs homedir; gpgconf --kill all; echo "killed $?"
