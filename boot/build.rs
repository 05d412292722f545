//! Link arguments of the images: no C runtime, no dynamic section, our own layout.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/image.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        &format!("-Wl,-T,{script}"),
        "-Wl,--build-id=none",
        "-Wl,-z,norelro,-z,max-page-size=4096",
        "-Wl,--no-eh-frame-hdr",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
