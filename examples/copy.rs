//! scratch
use tokudb_backup::backup::*;
struct C;
impl Caller for C {
    fn poll(
        &mut self,
        s: &tokudb_backup::engine::progress::Snapshot,
    ) -> tokudb_backup::engine::error::Result<()> {
        eprintln!("{:?} {}/{}", s.phase, s.bytes_done, s.bytes_total);
        Ok(())
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let r = run(
        Request {
            sources: vec![Source { path: a[1].clone().into(), image: a[2].clone().into() }],
            exclude: Default::default(),
            links: Links::Copy,
            leave_out: vec![],
            gate_timeout: std::time::Duration::from_millis(100),
            without_capture: std::env::var_os("NOCAP").is_some(),
        },
        &mut C,
    );
    println!("{:?} {:?}", r, t.elapsed());
}
