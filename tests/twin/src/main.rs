//! `twin`: random multi-threaded file programs under capture. See the library part of this crate.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs};

use twin::arguments::Arguments;
use twin::library::Library;
use twin::ops::{Table, data};
use twin::round::{PATIENCE, Program};
use twin::shared::Stats;
use twin::{filesystems, report, shrink};

fn main() -> ExitCode {
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("twin: {error}");
            return ExitCode::from(2);
        }
    };
    println!("twin: seed {}", arguments.seed);
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("twin: {error}");
            println!("twin: 0 rounds, 1 failed, seed {}", arguments.seed);
            ExitCode::FAILURE
        }
    }
}

/// The number of failures.
fn run(arguments: &Arguments) -> Result<u64, String> {
    if let Some(only) = &arguments.filesystems {
        return filesystems::run_on_each(arguments, only.as_deref());
    }
    if let Some(seconds) = arguments.shrink {
        return shrink::run(arguments, seconds);
    }
    for name in ["TOKUDB_BACKUP_TEST", "TOKUDB_BACKUP_TEST_IDENTITY"] {
        if env::var_os(name).is_none() {
            // SAFETY: no other thread runs yet.
            unsafe { env::set_var(name, "1") };
        }
    }
    let library = Library::open(&arguments.lib)?;
    println!("twin: {} is version {}", arguments.lib.display(), library.version());
    let base = if arguments.as_is { real(&arguments.dir)? } else { own(&arguments.dir)? };
    let (images, late) = (own(&arguments.images)?, own(&env::temp_dir())?.join("late"));
    env::set_current_dir(&base).map_err(|error| format!("cannot enter {}: {error}", base.display()))?;
    let table = Table::new(&arguments.shape.only)?;
    let stats = Stats::new(table.operations.len());
    let program = Program {
        library,
        table: &table,
        stats: &stats,
        late: copies_of_late(&arguments.lib, &late)?,
        base: base.clone(),
        images: images.clone(),
        seed: arguments.seed,
        shape: arguments.shape.clone(),
        pulse: AtomicU64::new(0),
        backups: AtomicU64::new(0),
    };
    limit_file_size();
    end_on_panic(arguments.seed);
    let (mut ran, mut failed) = (0, 0);
    std::thread::scope(|scope| {
        let (done, over) = std::sync::mpsc::channel::<()>();
        let program = &program;
        scope.spawn(move || watch(program, &over, arguments.seed));
        for round in arguments.first..arguments.first + arguments.rounds {
            ran += 1;
            let outcome = program.round(round);
            match outcome {
                Ok(()) => println!("twin: round {round} ok"),
                Err(error) => {
                    failed += 1;
                    println!("twin: round {round} FAILED: {error}");
                    set_aside(&[&base, &images], round);
                }
            }
            let _ = std::io::stdout().flush();
            if failed > 0 && arguments.fail_fast {
                break;
            }
        }
        drop(done);
    });
    let never = report::print(&table, &stats, &base, ran);
    if !never.is_empty() {
        failed += 1;
        println!("twin: never succeeded: {}", never.join(", "));
    }
    println!("twin: {} backups ended well", program.backups.load(Ordering::Relaxed));
    let _ = fs::remove_dir_all(&late);
    let _ = late.parent().map(fs::remove_dir);
    if failed == 0 {
        let _ = fs::remove_dir_all(&images);
        let _ = fs::remove_dir_all(&base);
    } else {
        println!("twin: what failed is kept below {}", base.display());
    }
    println!("twin: {ran} rounds, {failed} failed, seed {}", arguments.seed);
    Ok(failed)
}

/// A directory of this process below `directory`, with its real path.
fn own(directory: &Path) -> Result<PathBuf, String> {
    let path = directory.join(format!("twin-{}", std::process::id()));
    fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    real(&path)
}

fn real(directory: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(directory).map_err(|error| format!("{}: {error}", directory.display()))
}

/// Keeps the trees of a failed round out of the next one's way.
fn set_aside(directories: &[&PathBuf], round: u64) {
    for directory in directories {
        let kept = directory.join(format!("failed-{round}"));
        let _ = fs::create_dir_all(&kept);
        for index in 0..4 {
            for name in [format!("source{index}"), format!("image{index}")] {
                let _ = fs::rename(directory.join(&name), kept.join(&name));
            }
        }
        let _ = fs::remove_dir_all(directory.join("outside"));
    }
}

/// Writes beyond this are cut short or fail; the signal that tells so is not wanted.
fn limit_file_size() {
    // SAFETY: a signal number and a constant.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let limit = data::LIMIT as u64;
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: a limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
}

/// A thread that panics would leave the others waiting for it.
fn end_on_panic(seed: u64) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        println!("twin: the test itself panicked: {panic}");
        println!("twin: 0 rounds, 1 failed, seed {seed}");
        let _ = std::io::stdout().flush();
        std::process::exit(4);
    }));
}

/// Several copies of the shared object to load late: each file is an object of its own to the loader.
fn copies_of_late(lib: &Path, directory: &Path) -> Result<Vec<PathBuf>, String> {
    fs::create_dir_all(directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let found = [program.as_path(), lib].into_iter().filter_map(Path::parent).flat_map(|directory| {
        ["", "deps", ".."].map(|between| directory.join(between).join("libtwin_late.so"))
    });
    let object = found.into_iter().find(|path| path.exists());
    let object = object.ok_or("libtwin_late.so is not beside this program: build the package twin_late")?;
    let bytes = fs::read(&object).map_err(|error| format!("cannot read {}: {error}", object.display()))?;
    (0..3)
        .map(|index| {
            let copy = directory.join(format!("late{index}.so"));
            fs::write(&copy, &bytes).map_err(|error| format!("cannot write {}: {error}", copy.display()))?;
            Ok(copy)
        })
        .collect()
}

/// Ends the program, with a word on where, when nothing moves any more.
fn watch(program: &Program<'_>, over: &std::sync::mpsc::Receiver<()>, seed: u64) {
    let mut seen = (u64::MAX, u64::MAX);
    loop {
        match over.recv_timeout(PATIENCE) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        let now = (program.pulse.load(Ordering::Relaxed), program.stats.total());
        if now.0 == seen.0 {
            let (pulse, total) = (now.0, now.1.wrapping_sub(seen.1));
            println!("twin: HANGS after {pulse} backups; {total} operations in the last {PATIENCE:?}");
            println!("twin: 0 rounds, 1 failed, seed {seed}");
            let _ = std::io::stdout().flush();
            std::process::exit(3);
        }
        seen = now;
    }
}
