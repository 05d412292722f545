//! Lines on the console, each with the image's name in front.

use core::fmt::{self, Write};

use spin::Once;
use xen_pv::console::Writer;

static IMAGE: Once<&'static str> = Once::new();

/// Writes a line to the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::write_line(format_args!($($argument)*)) };
}

/// Writes a line to the console: see [`say!`](crate::say).
pub fn write_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(Writer, "{}: {line}", image());
}

/// The image's name.
pub(crate) fn image() -> &'static str {
    IMAGE.get().copied().unwrap_or("boot")
}

/// Names the image.
pub(crate) fn set_image(name: &'static str) {
    IMAGE.call_once(|| name);
}
