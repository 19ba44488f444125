//! What `cargo xtask` says about its own use, and how it ends when it is used wrongly.

#[test]
fn usage() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
