//! The end of the image: a panic, or a fault of its own code.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use ring0::fatal::{self, Report};

use crate::host;

/// Status of a sandbox whose image has panicked; the host half has the report.
const STATUS: u64 = 255;

static PANICKED: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let here = fatal::Here::capture();
    end(format_args!("{info}\n{here}"), fatal::frame_pointer(), None)
}

/// Reports a fault.
pub fn fault(report: &Report<'_>) -> ! {
    let frame = report.frame;
    end(format_args!("{report}"), frame.rbp, Some((frame.rip, frame.rsp)))
}

fn end(what: fmt::Arguments<'_>, rbp: u64, at: Option<(u64, u64)>) -> ! {
    if PANICKED.swap(true, Ordering::SeqCst) {
        // The report itself panicked, or another CPU is at it; that one ends the sandbox.
        host::early("the image panicked while it reported a panic\n");
        host::exit_now(STATUS);
    }
    let mut text = Text { buffer: [0; 3500], len: 0 };
    // A report that does not fit is cut short.
    let _cut = writeln!(text, "{what}");
    let _cut = write!(text, "backtrace:");
    if let Some((ip, _)) = at {
        let _cut = write!(text, " {ip:#x}");
    }
    fatal::backtrace(rbp, |ip| {
        let _cut = write!(text, " {ip:#x}");
    });
    if let Some((_, rsp)) = at {
        let _cut = write!(text, "\nstack:");
        for word in fatal::stack_words(rsp) {
            let _cut = write!(text, " {word:#x}");
        }
    }
    host::report_panic(&text.buffer[..text.len]);
    host::exit_now(STATUS)
}

struct Text {
    buffer: [u8; 3500],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let free = &mut self.buffer[self.len..];
        let n = s.len().min(free.len());
        free[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        if n == s.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
