//! Link arguments of the image and of the hostile one; nothing else of this package needs any.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=image.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for arg in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        &format!("-Wl,-T,{dir}/image.ld"),
        "-Wl,--gc-sections",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,noexecstack",
        "-Wl,-z,norelro",
        "-Wl,--build-id=none",
    ] {
        for bin in ["image", "hostile"] {
            println!("cargo:rustc-link-arg-bin={bin}={arg}");
        }
    }
}
