//! On logs in both formats.

use std::path::PathBuf;

use super::sample::{Begin, SIZE};
use super::*;

const OLD: &[u8] = b"/vol/e/d/t.ibd";

/// A log in a directory of its own.
struct Scene {
    scratch: tempfile::TempDir,
    bytes: Vec<u8>,
}

fn in_a_ring(shift: u64) -> Begin {
    Begin { format: IN_A_RING, shift }
}

fn in_blocks(shift: u64) -> Begin {
    Begin { format: IN_BLOCKS, shift }
}

impl Scene {
    /// A log with these mini-transactions since its checkpoint, and that of the checkpoint.
    fn new(begin: Begin, records: &[Vec<u8>]) -> Scene {
        Scene { scratch: tempfile::tempdir().unwrap(), bytes: sample::log(begin, records) }.written()
    }

    fn written(self) -> Scene {
        std::fs::write(self.path(), &self.bytes).unwrap();
        self
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("ib_logfile0")
    }

    fn refused(&self) -> Error {
        let error = turned_in(&self.path(), &directories_to("../ts"), &[]).unwrap_err();
        assert_eq!(std::fs::read(self.path()).unwrap(), self.bytes, "{error}");
        assert!(error.to_string().contains(&self.path().display().to_string()), "{error}");
        error
    }

    /// Behind the end, at `sound`, comes what the buffer held before: a block with whole mini-transactions at the same
    /// places. Returns where in the file that is, and how much.
    fn leave_over(&mut self, shift: u64, sound: u64) -> (usize, usize) {
        const BLOCK: usize = 512;
        let end = 0x3000 + ((shift + sound) % 4096) as usize;
        let rest = BLOCK - end % BLOCK;
        assert!((64..BLOCK).contains(&rest), "{rest}");
        let earlier = (end - 0x3000 + 4096 - 2 * BLOCK) % 4096 + 0x3000;
        self.bytes.copy_within(earlier..earlier + rest, end);
        (end, rest)
    }

    fn work(&self) -> Work {
        let work = visit(&File::open(self.path()).unwrap(), &self.path(), None).unwrap();
        assert!(work.is_complete);
        work
    }
}

fn turned_in(path: &Path, directories: &Directories, tablespaces: &[Tablespace]) -> Result<()> {
    let file = File::options().read(true).write(true).open(path).unwrap();
    turn_names(&file, path, directories, tablespaces)
}

fn directories_to(to: &str) -> Directories {
    [(b"/vol/e".to_vec(), to.to_owned())].into()
}

fn rename(old: &[u8], new: &[u8]) -> Vec<u8> {
    let body = [&[7, 0][..], old, &[0], new].concat();
    let mut record = names_file(7, &body[2..]);
    record[0] = 0xa0;
    assert!(record.ends_with(&body));
    record
}

/// A row that holds what would be a record of a file.
fn row() -> Vec<u8> {
    let mut row = names_file(3, OLD);
    let head = [0x30, row.len() as u8 + 5 - 15, 3, 9, 0x80, 100];
    row.splice(0..0, head);
    row
}

fn begins() -> impl Iterator<Item = Begin> {
    // The last ones wrap around at every place, more or less.
    let ring = (0..4096 * 2 + 7).step_by(151).chain((3800..4100).step_by(5)).map(in_a_ring);
    ring.chain((0..496 * 28 * 2).step_by(1009).chain((496 * 27..496 * 28).step_by(5)).map(in_blocks))
}

#[test]
fn names_are_turned_wherever_they_lie() {
    let inside = names_file(4, b"./d/inside.ibd");
    let records = [
        row(),
        names_file(300, OLD),
        [names_file(5, OLD), inside.clone()].concat(),
        rename(OLD, b"/vol/e/d/u.ibd"),
        row(),
    ];
    let new = b"../ts//d/t.ibd".as_slice();
    let turned = |directory: &[u8]| {
        let file = |name: &[u8]| [directory, name].concat();
        [
            row(),
            names_file(300, &file(b"/d/t.ibd")),
            [names_file(5, &file(b"/d/t.ibd")), inside.clone()].concat(),
            rename(&file(b"/d/t.ibd"), &file(b"/d/u.ibd")),
            row(),
        ]
    };
    assert_eq!(records, turned(b"/vol/e"));
    for begin in begins() {
        let scene = Scene::new(begin, &records);
        assert_eq!(
            directories(&File::open(scene.path()).unwrap(), &scene.path()).unwrap(),
            [b"/vol/e".to_vec()].into(),
            "{begin:?}"
        );
        turned_in(&scene.path(), &directories_to("../ts"), &[Tablespace { id: 5, name: new.to_vec() }])
            .unwrap();
        // What is written is what a server would have written.
        let expected = Scene::new(begin, &turned(b"../ts/"));
        let found = std::fs::read(scene.path()).unwrap();
        let differs = (0..SIZE).find(|&at| found[at] != expected.bytes[at]);
        assert_eq!(differs, None, "{begin:?}");
    }
}

#[test]
fn what_the_log_does_not_name_is_added_to_blocks() {
    let more: Vec<_> = (1000..1030)
        .map(|id| Tablespace {
            id,
            name: format!("../tablespaces/d/{}.ibd", "x".repeat(id as usize - 990)).into(),
        })
        .collect();
    for begin in begins().filter(|begin| begin.format == IN_BLOCKS) {
        let scene = Scene::new(begin, &[names_file(1000, b"./d/t.ibd")]);
        turned_in(&scene.path(), &Directories::new(), &more).unwrap();
        let added = more[1..].iter().map(|tablespace| names_file(tablespace.id, &tablespace.name));
        let records: Vec<_> = [names_file(1000, b"./d/t.ibd")].into_iter().chain(added).collect();
        let (found, expected) = (scene.work(), Scene::new(begin, &records).work());
        assert_eq!((found.end, found.named), (expected.end, expected.named), "{begin:?}");
    }
    // Nothing has to be known in the newer format.
    let scene = Scene::new(in_a_ring(0), &[]);
    turned_in(&scene.path(), &Directories::new(), &more).unwrap();
    assert_eq!(std::fs::read(scene.path()).unwrap(), scene.bytes);
}

#[test]
fn a_cut_off_end_is_written_over() {
    for shift in [0, 300, 480] {
        let records =
            [names_file(5, b"./d/t.ibd"), names_file(6, &[b"./", &[b'x'; 800][..], b"/t.ibd"].concat())];
        let mut scene = Scene::new(in_blocks(shift), &records);
        // The last block was not written.
        let whole = scene.work().end;
        let last = 2048 + (shift as usize + whole as usize) / 496 * 512;
        scene.bytes[last..last + 512].fill(0);
        let scene = scene.written();
        assert!(scene.work().end < whole);
        turned_in(&scene.path(), &Directories::new(), &[Tablespace { id: 9, name: b"./d/n.ibd".to_vec() }])
            .unwrap();
        let named = scene.work().named;
        assert_eq!(named, [5, 9].into());
    }
}

#[test]
fn a_log_that_is_too_full_is_left_alone() {
    let filler = names_file(5, &[b"./", &[b'x'; 500][..], b"/t.ibd"].concat());
    let scene = Scene::new(in_blocks(0), &vec![filler; 26]);
    let tablespace = Tablespace { id: 9, name: [b"./", &[b'n'; 100][..], b"/t.ibd"].concat() };
    let error = turned_in(&scene.path(), &Directories::new(), &[tablespace]).unwrap_err();
    assert_eq!(error.errno, libc::ENOSPC, "{error}");
}

#[test]
fn what_is_not_understood_is_refused() {
    for begin in [in_a_ring(50), in_blocks(50)] {
        let named = || Scene::new(begin, &[names_file(5, OLD)]);
        assert!(turned_in(&named().path(), &directories_to("../ts"), &[]).is_ok());
        let with = |change: &dyn Fn(&mut [u8])| {
            let mut scene = named();
            change(&mut scene.bytes);
            scene.written()
        };
        let encrypted = with(&|bytes| bytes[0] |= 0x80);
        assert_eq!(encrypted.refused().errno, libc::ENOTSUP);
        assert!(is_known(&encrypted.path()).unwrap_err().message.contains("innodb_encrypt_log"));
        assert_eq!(with(&|bytes| bytes[3] ^= 1).refused().errno, libc::ENOTSUP);
        assert!(with(&|bytes| bytes[100] ^= 1).refused().message.contains("header"));
        let checkpoints = [0x1000, 0x2000, 512, 1536];
        let without = with(&|bytes| checkpoints.iter().for_each(|&at| bytes[at] ^= 1));
        assert!(without.refused().message.contains("checkpoint"));
        let place = if begin.format == IN_A_RING { 0x3000 + 55 } else { 2048 + 12 + 55 };
        assert!(with(&|bytes| bytes[place] ^= 1).refused().message.contains("ends before"));

        let unknown = Scene::new(begin, &[names_file(5, OLD), vec![0x63, 0, 0, 7]]);
        assert!(unknown.refused().message.contains("not known"));
        let odd = Scene::new(begin, &[names_file(5, b"/vol/e//t.ibd")]);
        assert!(odd.refused().message.contains("/vol/e//t.ibd"));
        let elsewhere = Scene::new(begin, &[names_file(5, b"/x/d/t.ibd")]);
        assert!(elsewhere.refused().message.contains("/x/d/t.ibd"), "nobody said where to");
        let error = turned_in(&named().path(), &directories_to("../long"), &[]).unwrap_err();
        assert!(error.message.contains("/vol/e/d/t.ibd"), "{error}");
    }
    let two = Scene::new(in_blocks(0), &[]);
    std::fs::write(two.scratch.path().join("ib_logfile1"), "").unwrap();
    assert!(two.refused().message.contains("more than one"));
}

/// Where a log begins, and of how many of [`write`]'s it is then: it ends within a block, and may wrap around.
const ENDS: [(u64, usize); 5] = [(70, 20), (70, 35), (70 + 1024, 43), (4096 - 200, 21), (3 * 4096 - 30, 27)];

/// 64 bytes of a log: a record on a page, with what follows it.
fn write(stamp: u8) -> Vec<u8> {
    [&[0x30, 59 - 16, 5, 3][..], &[stamp; 55]].concat()
}

#[test]
fn leftovers_of_an_earlier_block_are_no_part_of_the_log() {
    for (shift, count) in ENDS {
        let stamps = || (0..count).map(|stamp| write(stamp as u8));
        let mut scene = Scene::new(in_a_ring(shift), &stamps().collect::<Vec<_>>());
        let sound = scene.work().end;
        let end_of = |scene: &Scene| {
            let file = File::options().read(true).write(true).open(scene.path()).unwrap();
            (end_before_leftovers(&file, &scene.path()).unwrap(), scene.work().end)
        };
        assert_eq!(end_of(&scene), (0, sound));
        assert_eq!(std::fs::read(scene.path()).unwrap(), scene.bytes, "nothing to mend");
        let (end, rest) = scene.leave_over(shift, sound);
        let scene = scene.written();
        let wrong = scene.work().end;
        assert_eq!(wrong, sound + (rest / 64 * 64) as u64, "{shift}, {count}: taken for a part of the log");
        assert_eq!(end_of(&scene), (wrong - sound, sound), "{shift}, {count}");
        let mended = std::fs::read(scene.path()).unwrap();
        let changed: Vec<_> = (0..SIZE).filter(|&at| mended[at] != scene.bytes[at]).collect();
        assert_eq!(changed, [end], "one byte");
        assert_eq!(end_of(&scene), (0, sound), "once");
    }
}

/// What the server has told to be durable ends before the byte that ends the log, however much of the block looks
/// like an earlier one.
#[test]
fn what_lies_before_the_end_is_never_cut() {
    for (shift, count) in ENDS {
        // All alike, so that each lies in its block where another did in the block before.
        let mut scene = Scene::new(in_a_ring(shift), &vec![write(7); count]);
        let sound = scene.work().end;
        let (end, _) = scene.leave_over(shift, sound);
        scene.bytes[end] = ring::END;
        let scene = scene.written();
        assert_eq!(scene.work().end, sound);
        let file = File::options().read(true).write(true).open(scene.path()).unwrap();
        assert_eq!(end_before_leftovers(&file, &scene.path()).unwrap(), 0, "{shift}, {count}");
        assert_eq!(std::fs::read(scene.path()).unwrap(), scene.bytes);
    }
}

#[test]
fn logs_without_leftovers_stay() {
    for begin in begins().chain([in_blocks(7)]) {
        let scene = Scene::new(begin, &[row(), names_file(300, OLD), write(1), write(1), write(1)]);
        let file = File::options().read(true).write(true).open(scene.path()).unwrap();
        assert_eq!(end_before_leftovers(&file, &scene.path()).unwrap(), 0);
        assert_eq!(std::fs::read(scene.path()).unwrap(), scene.bytes, "{begin:?}");
    }
}

#[test]
fn parts_of_a_name() {
    assert_eq!(outside(b"./d/t.ibd"), Some(None));
    assert_eq!(outside(b"./d/a..b.ibd"), Some(None));
    assert_eq!(outside(b"/e/d/t.ibd"), Some(Some(2)));
    assert_eq!(outside(b"../tablespaces//d/t.ibd"), Some(Some(15)));
    assert_eq!(outside(b"/t.ibd"), None);
    assert_eq!(outside(b"/e/d/./t.ibd"), None, "which schema?");
    assert_eq!(turned(b"/vol/e/d/t.ibd", "../t").unwrap(), b"../t///d/t.ibd");
    assert_eq!(turned(b"/e/d/t.ibd", "../tablespaces").unwrap(), b"../tablespaces/d/t.ibd");
}
