//! Version strings and linker flags of the cdylib.

fn main() {
    println!("cargo::rerun-if-env-changed=TOKUDB_BACKUP_PLUGIN_VERSION");
    let version = std::env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    let plugin = std::env::var("TOKUDB_BACKUP_PLUGIN_VERSION").unwrap_or_else(|_| version.clone());
    println!("cargo::rustc-env=TOKUDB_BACKUP_VERSION={version}");
    println!("cargo::rustc-env=TOKUDB_BACKUP_PLUGIN_VERSION={plugin}");
    // The library stays mapped for ever: threads may be inside a hook after UNINSTALL (P16).
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A preloaded byte copy must not take over this instance's own statics.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libHotBackup.so");
}
