//! A source, an image, a backup of the one to the other, and what it called back.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use twin::compare;
use twin::library::{Callbacks, Library, c_string};

/// The library, loaded once.
pub fn library() -> Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    *LIBRARY.get_or_init(|| Library::open(&Library::find().unwrap()).unwrap())
}

/// One backup runs at a time in a process, hence one test.
static ALONE: Mutex<()> = Mutex::new(());

/// Directories of one test, removed at its end.
pub struct Scene {
    pub base: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// What came of a backup.
#[derive(Debug, Default)]
pub struct Outcome {
    pub value: i32,
    pub errors: Vec<(i32, String)>,
    pub polls: Vec<(f32, String)>,
    /// In the order of the calls.
    pub stops: Vec<&'static str>,
}

impl Outcome {
    /// Fails the test unless the backup succeeded.
    pub fn ok(self) -> Outcome {
        assert_eq!((self.value, &self.errors[..]), (0, &[][..]), "{self:?}");
        assert_eq!(self.stops, ["before", "after"]);
        self
    }

    /// Fails the test unless the backup was refused before it began, with this number and a text that has all these.
    pub fn refused(self, value: i32, texts: &[&str]) {
        self.failed(value, texts, &[]);
    }

    /// Fails the test unless the backup failed on its way.
    pub fn broken(self, value: i32, texts: &[&str]) {
        self.failed(value, texts, &["before", "after"]);
    }

    fn failed(self, value: i32, texts: &[&str], stops: &[&str]) {
        assert_eq!(self.value, value, "{self:?}");
        assert_eq!(self.errors.len(), 1, "exactly one call of error_fun: {self:?}");
        assert_eq!(self.errors[0].0, value, "{self:?}");
        for text in texts {
            assert!(self.errors[0].1.contains(text), "{text:?} is not in {:?}", self.errors[0].1);
        }
        assert_eq!(self.stops, stops, "{self:?}");
    }
}

impl Scene {
    /// With an empty `source` and an empty `image`.
    pub fn new() -> Scene {
        Scene::in_directory(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// The same, below this directory.
    pub fn in_directory(directory: &Path) -> Scene {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = directory.join(format!("capi-{}-{number}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let scene = Scene { base: base.canonicalize().unwrap(), _alone: alone };
        fs::create_dir(scene.source()).unwrap();
        fs::create_dir(scene.image()).unwrap();
        scene
    }

    pub fn source(&self) -> PathBuf {
        self.base.join("source")
    }

    pub fn image(&self) -> PathBuf {
        self.base.join("image")
    }

    /// A path in the source.
    pub fn at(&self, name: &str) -> PathBuf {
        self.source().join(name)
    }

    /// The same as C takes it.
    pub fn c(&self, name: &str) -> CString {
        c_string(&self.at(name))
    }

    /// Writes a file of the source.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Content of a file of the image.
    pub fn copy(&self, name: &str) -> Vec<u8> {
        fs::read(self.image().join(name)).unwrap()
    }

    /// A backup of `source` to `image`; `before_stop` runs while everything is copied and capture is on.
    pub fn backup_with(&self, mut before_stop: impl FnMut()) -> Outcome {
        let mut callbacks = Given { before_stop: Some(&mut before_stop), ..Given::default() };
        run(&[(&self.source(), &self.image())], &mut callbacks)
    }

    /// A backup of `source` to `image`.
    pub fn backup(&self) -> Outcome {
        self.backup_with(|| ())
    }

    /// Backs up while `change` is made, and compares: the whole point.
    pub fn hot(&self, change: impl FnMut()) {
        self.backup_with(change).ok();
        self.same();
    }

    /// Fails the test unless the image is the source.
    pub fn same(&self) {
        let differences = compare::differences(&self.source(), &self.image(), &|_| false, 20);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    /// An empty image again, for a second backup.
    pub fn clear_image(&self) {
        fs::remove_dir_all(self.image()).unwrap();
        fs::create_dir(self.image()).unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Also after a failure: else the next test's backup hangs.
        library().throttle(u64::MAX);
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.base);
        }
    }
}

/// What a test has the callbacks do, beside being recorded.
#[derive(Default)]
#[allow(clippy::type_complexity)]
pub struct Given<'a> {
    pub poll: Option<&'a mut dyn FnMut(f32, &str) -> i32>,
    pub exclude: Option<&'a mut dyn FnMut(&Path) -> bool>,
    pub before_stop: Option<&'a mut dyn FnMut()>,
    pub after_stop: Option<&'a mut dyn FnMut()>,
}

/// A backup that takes longer hangs, and ends with this.
const HANGS: Duration = Duration::from_secs(300);

/// A backup of these sources to these images.
pub fn run(pairs: &[(&Path, &Path)], given: &mut Given<'_>) -> Outcome {
    let outcome = std::cell::RefCell::new(Outcome::default());
    let Given { poll, exclude, before_stop, after_stop } = given;
    let begun = Instant::now();
    let callbacks = Callbacks {
        poll: Some(Box::new(|progress, text| {
            assert!(begun.elapsed() < HANGS, "the backup hangs: {text:?}");
            let text = text.to_string_lossy().into_owned();
            let value = poll.as_mut().map_or(0, |poll| poll(progress, &text));
            outcome.borrow_mut().polls.push((progress, text));
            value
        })),
        error: Some(Box::new(|number, text| {
            outcome.borrow_mut().errors.push((number, text.to_string_lossy().into_owned()))
        })),
        exclude: exclude.as_mut().map(|exclude| -> Box<dyn FnMut(&Path) -> bool> { Box::new(exclude) }),
        before_stop: Some(Box::new(|| {
            outcome.borrow_mut().stops.push("before");
            if let Some(before_stop) = before_stop {
                before_stop();
            }
        })),
        after_stop: Some(Box::new(|| {
            outcome.borrow_mut().stops.push("after");
            if let Some(after_stop) = after_stop {
                after_stop();
            }
        })),
    };
    let value = library().backup(pairs, callbacks);
    let mut outcome = outcome.into_inner();
    outcome.value = value;
    outcome
}

/// A file opened for reading and writing.
pub fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Its number.
pub fn fd(file: &File) -> RawFd {
    file.as_raw_fd()
}

/// What a call must not return.
#[track_caller]
pub fn done<T: Copy + Into<i64>>(value: T) -> i64 {
    let value: i64 = value.into();
    assert!(value >= 0, "{}", std::io::Error::last_os_error());
    value
}
