# Programs that own a terminal, driven through a pseudo-terminal: less, vim, top, htop, tmux, bash's job control, script.
cat > /tmp/drive.py <<'P'
import fcntl, os, pty, re, select, signal, struct, sys, termios, time

class Screen:
    """A program on a pseudo-terminal, and what it has written."""
    def __init__(self, argv, rows=24, cols=80):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM='xterm', SHELL='/bin/bash', PS1='$ ', LC_ALL='C.UTF-8')
            time.sleep(0.1)
            os.execvp(argv[0], argv)
        self.size(rows, cols)
        self.text = ''
    def size(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))
    def send(self, keys):
        os.write(self.fd, keys.encode())
    def expect(self, what, pattern, seconds=30):
        """Waits for the pattern in what comes, escape sequences taken out, and says whether it came."""
        end = time.monotonic() + seconds
        while True:
            plain = re.sub(r'\x1b(\[[0-9;?>=!]*[a-zA-Z@`]|[()][A-Z0-9]|\][^\x07]*\x07|[=>78cM])|\x0f|\r', '', self.text)
            m = re.search(pattern, plain)
            if m:
                print('ok', what)
                self.text = ''
                return m
            left = end - time.monotonic()
            try:
                if left <= 0 or not select.select([self.fd], [], [], left)[0]: raise OSError('nothing came')
                data = os.read(self.fd, 65536)
                if not data: raise OSError('end')
                self.text += data.decode(errors='replace')
            except OSError as e:
                print('MISSING', what, ascii(plain[-600:]), e)
                return None
    def end(self, seconds=30):
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                print('ended', os.waitstatus_to_exitcode(status))
                return
            if select.select([self.fd], [], [], 0.05)[0]:
                try: os.read(self.fd, 65536)
                except OSError: time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL); os.waitpid(self.pid, 0); os.close(self.fd)
        print('KILLED')
P
cd /tmp; echo 'set -g assume-paste-time 0' > tmux.conf; seq -f 'line %g of the file' 500 > lines
cat > all.py <<'P'
from drive import *
s = Screen(['less', 'lines'])
s.expect('less first page', r'line 23 of the file'); s.send(' '); s.expect('less second page', r'line 46 of'); s.send('/line 300\n'); s.expect('less search', r'line 322 of')
s.send('G'); s.expect('less end', r'\(END\)'); s.size(10, 80); time.sleep(1); s.send('g'); s.expect('less smaller', r'line 9 of'); s.send('q'); s.end()

s = Screen(['vim', '-u', 'NONE', '-N', 'note'])
s.expect('vim opens', r'note.*\[New'); s.send('ihello from vim\x1byyp:s/hello/again/\r'); s.expect('vim edits', 'again')
s.send(':!echo shell $((6*7))\r'); s.expect('vim shell', 'shell 42'); s.send('\r'); s.send(':wq\r'); s.end(); print(open('note').read())

s = Screen(['top', '-d', '0.5'])
s.expect('top header', r'top - .*load average'); s.expect('top processes', r'python3'); s.expect('top again', r'%Cpu'); s.send('q'); s.end()

s = Screen(['htop', '-d', '5'])
s.expect('htop header', r'Tasks: '); s.expect('htop processes', r'python3'); s.send('q'); s.end()

s = Screen(['bash', '--norc', '--noprofile', '-i'])
s.expect('prompt', r'\$ $'); s.send('sleep 100\n'); s.expect('echo', 'sleep 100\n'); time.sleep(0.3); s.send('\x03'); s.expect('interrupted', r'\^C\n\$ $')
s.send('sleep 100\n'); s.expect('echo', 'sleep 100\n'); time.sleep(0.3); s.send('\x1a'); s.expect('stopped', r'\[1\]\+ +Stopped +sleep 100')
s.send('bg\n'); s.expect('bg', r'\[1\]\+ sleep 100 &'); s.send('jobs\n'); s.expect('running', r'Running +sleep 100')
s.send('fg\n'); s.expect('fg', r'fg\nsleep 100'); time.sleep(0.3); s.send('\x03'); s.expect('interrupted again', r'\^C'); s.send('echo $?\n'); s.expect('status', '130')
s.send('stty size\n'); s.expect('size', '24 80'); s.size(30, 100); s.send('stty size; echo $LINES\n'); s.expect('new size', '30 100')
s.send('cat | cat\n'); s.expect('echo', 'cat \\| cat\n'); time.sleep(0.3); s.send('typed\n'); s.expect('pipeline reads', 'typed\ntyped'); s.send('\x04'); s.expect('back', r'\$ $')
s.send('stty -a | head -1\n'); s.expect('stty', 'speed 38400 baud; rows 30; columns 100'); s.send('exit 3\n'); s.end()

s = Screen(['script', '-q', '-e', '-c', 'tty; echo in script; exit 5', 'typescript'])
s.expect('script', 'in script'); s.end(); print('in script' in open('typescript').read())

s = Screen(['tmux', '-f', 'tmux.conf', '-L', 'test', 'new-session', 'bash --norc --noprofile'])
s.expect('tmux status', r'\[0\] 0:bash'); s.send('\x02'); time.sleep(0.3); s.send('%'); s.expect('tmux splits', '│'); time.sleep(0.5); s.send("PS1='% '; tput cols\n"); s.expect('tmux half', r'39'); 
s.send('echo right\\ pane\n'); s.expect('tmux right', 'right pane'); s.send('\x02'); time.sleep(0.3); s.send('o'); time.sleep(0.3); s.send('echo left\\ pane\n'); s.expect('tmux left', 'left pane')
os.system("tmux -L test list-panes -F '#{pane_index} #{pane_width}x#{pane_height}'"); os.system('tmux -L test kill-server'); s.end()
P
# The listing of panes and the script's own lines in the order they were written.
PYTHONUNBUFFERED=1 python3 -u all.py 2>&1
