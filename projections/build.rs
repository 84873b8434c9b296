//! Compiles the layer of SQLite that checks the pages of the read models.

fn main() {
    let source = "src/sql/page_checksums.c";
    println!("cargo::rerun-if-changed={source}");
    let include = std::env::var("DEP_SQLITE3_INCLUDE").expect("libsqlite3-sys names the folder of sqlite3.h");
    cc::Build::new()
        .file(source)
        .include(include)
        // It runs for each page, also in builds for tests.
        .opt_level(2)
        // No Rust code calls it: it registers itself.
        .link_lib_modifier("+whole-archive")
        .compile("matchbook_page_checksums");
}
