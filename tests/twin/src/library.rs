//! `libHotBackup.so`, loaded by `dlopen`, as a safe interface.

use std::env;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_ulong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

type Poll = unsafe extern "C" fn(f32, *const c_char, *mut c_void) -> c_int;
type Failed = unsafe extern "C" fn(c_int, *const c_char, *mut c_void);
type Exclude = unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int;
type Stop = unsafe extern "C" fn(*mut c_void);
type Directories = *const *const c_char;

/// `tokubackup_create_backup`.
pub type CreateBackup = unsafe extern "C" fn(
    Directories,
    Directories,
    c_int,
    Option<Poll>,
    *mut c_void,
    Option<Failed>,
    *mut c_void,
    Option<Exclude>,
    *mut c_void,
    Option<Stop>,
    *mut c_void,
    Option<Stop>,
    *mut c_void,
) -> c_int;

/// The loaded library. It is never unloaded.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// The function itself, for calls that [`Library::backup`] would not make.
    pub create_backup: CreateBackup,
    throttle: unsafe extern "C" fn(c_ulong),
    version: *const *const c_char,
}

// SAFETY: functions that any thread may call, and a constant.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// What a backup calls back; what is `None` is handed over as NULL.
#[derive(Default)]
#[allow(clippy::type_complexity)]
pub struct Callbacks<'a> {
    /// Progress and text; not 0 ends the backup.
    pub poll: Option<Box<dyn FnMut(f32, &CStr) -> c_int + 'a>>,
    /// Number and text of the error.
    pub error: Option<Box<dyn FnMut(c_int, &CStr) + 'a>>,
    /// Whether a source path is left out.
    pub exclude: Option<Box<dyn FnMut(&Path) -> bool + 'a>>,
    /// `before_stop_capt_fun`.
    pub before_stop: Option<Box<dyn FnMut() + 'a>>,
    /// `after_stop_capt_fun`.
    pub after_stop: Option<Box<dyn FnMut() + 'a>>,
}

impl Library {
    /// Where the library is: `TOKUDB_BACKUP_LIB`, or beside the running program as cargo builds it.
    pub fn find() -> Result<PathBuf, String> {
        if let Some(given) = env::var_os("TOKUDB_BACKUP_LIB") {
            return Ok(given.into());
        }
        let program =
            env::current_exe().map_err(|cause| format!("cannot tell where this program is: {cause}"))?;
        let here = program.parent().unwrap_or(Path::new("."));
        ["libtokudb_backup.so", "deps/libtokudb_backup.so", "plugin/libHotBackup.so"]
            .iter()
            .map(|name| here.join(name))
            .find(|path| path.exists())
            .ok_or(format!("no library beside {}: give TOKUDB_BACKUP_LIB or --lib", program.display()))
    }

    /// Loads the library.
    pub fn open(path: &Path) -> Result<Library, String> {
        let name = c_string(path);
        // SAFETY: a C string; the library's constructor does nothing to this program.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err(loader_error());
        }
        let find = |name: &CStr| {
            // SAFETY: a handle of dlopen and a C string.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if address.is_null() { Err(loader_error()) } else { Ok(address) }
        };
        crate::allocator::know(path);
        // SAFETY: the function of this name has this type (include/tokubackup.h).
        let create_backup =
            unsafe { std::mem::transmute::<*mut c_void, CreateBackup>(find(c"tokubackup_create_backup")?) };
        // SAFETY: the function of this name has this type (include/tokubackup.h).
        let throttle = unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_ulong)>(find(
                c"tokubackup_throttle_backup",
            )?)
        };
        let version = find(c"tokubackup_version_string")?.cast_const().cast();
        Ok(Library { create_backup, throttle, version })
    }

    /// `tokubackup_version_string`.
    pub fn version(&self) -> String {
        // SAFETY: the symbol is a `const char *` that points to a constant.
        unsafe { CStr::from_ptr(*self.version) }.to_string_lossy().into_owned()
    }

    /// `tokubackup_throttle_backup`.
    pub fn throttle(&self, bytes_per_second: u64) {
        // SAFETY: a number.
        unsafe { (self.throttle)(bytes_per_second) }
    }

    /// `tokubackup_create_backup` of each directory to the one beside it.
    pub fn backup(&self, directories: &[(&Path, &Path)], mut callbacks: Callbacks<'_>) -> c_int {
        let sources: Vec<CString> = directories.iter().map(|(source, _)| c_string(source)).collect();
        let images: Vec<CString> = directories.iter().map(|(_, image)| c_string(image)).collect();
        let source_pointers: Vec<*const c_char> = sources.iter().map(|path| path.as_ptr()).collect();
        let image_pointers: Vec<*const c_char> = images.iter().map(|path| path.as_ptr()).collect();
        let mut given = Given { callbacks: &mut callbacks, panicked: None };
        let has = [
            given.callbacks.poll.is_some(),
            given.callbacks.error.is_some(),
            given.callbacks.exclude.is_some(),
            given.callbacks.before_stop.is_some(),
            given.callbacks.after_stop.is_some(),
        ];
        let extra = std::ptr::from_mut(&mut given).cast::<c_void>();
        // SAFETY: arrays of as many C strings as told; functions that take `given` as their extra, on this thread, one
        // at a time, while it lives.
        let value = unsafe {
            (self.create_backup)(
                source_pointers.as_ptr(),
                image_pointers.as_ptr(),
                directories.len() as c_int,
                has[0].then_some(poll as Poll),
                extra,
                has[1].then_some(error as Failed),
                extra,
                has[2].then_some(exclude as Exclude),
                extra,
                has[3].then_some(before_stop as Stop),
                extra,
                has[4].then_some(after_stop as Stop),
                extra,
            )
        };
        // What must not get through C goes on here.
        if let Some(panic) = given.panicked.take() {
            std::panic::resume_unwind(panic);
        }
        value
    }
}

/// A path as C takes it.
pub fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

fn loader_error() -> String {
    // SAFETY: no arguments; the text is copied at once.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader says nothing".into();
    }
    // SAFETY: not NULL, so a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What all callbacks are given.
struct Given<'a, 'b> {
    callbacks: &'a mut Callbacks<'b>,
    panicked: Option<Box<dyn std::any::Any + Send>>,
}

/// Runs `body` with the callbacks; -1 when it panics, which is kept for later.
///
/// # Safety
/// `extra` is what [`Library::backup`] gave.
unsafe fn caught(extra: *mut c_void, body: impl FnOnce(&mut Callbacks<'_>) -> c_int) -> c_int {
    // SAFETY: what the caller promised; callbacks come one at a time.
    let given = unsafe { &mut *extra.cast::<Given<'_, '_>>() };
    let callbacks = &mut *given.callbacks;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(callbacks))).unwrap_or_else(|panic| {
        given.panicked.get_or_insert(panic);
        -1
    })
}

unsafe extern "C" fn poll(progress: f32, text: *const c_char, extra: *mut c_void) -> c_int {
    // SAFETY: called by the library with a C string.
    let text = unsafe { CStr::from_ptr(text) };
    // SAFETY: called by the library with the extra that it was given.
    unsafe { caught(extra, |callbacks| callbacks.poll.as_mut().map_or(0, |poll| poll(progress, text))) }
}

unsafe extern "C" fn error(number: c_int, text: *const c_char, extra: *mut c_void) {
    // SAFETY: as in `poll`.
    let text = unsafe { CStr::from_ptr(text) };
    let tell = |callbacks: &mut Callbacks<'_>| callbacks.error.as_mut().map(|error| error(number, text));
    // SAFETY: as in `poll`.
    unsafe { caught(extra, |callbacks| tell(callbacks).map_or(0, |()| 0)) };
}

unsafe extern "C" fn exclude(path: *const c_char, extra: *mut c_void) -> c_int {
    // SAFETY: as in `poll`.
    let path = unsafe { CStr::from_ptr(path) };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let ask = |callbacks: &mut Callbacks<'_>| callbacks.exclude.as_mut().map(|exclude| exclude(path));
    // SAFETY: as in `poll`.
    unsafe { caught(extra, |callbacks| ask(callbacks).map_or(0, c_int::from)) }
}

unsafe extern "C" fn before_stop(extra: *mut c_void) {
    let run = |callbacks: &mut Callbacks<'_>| callbacks.before_stop.as_mut().map(|function| function());
    // SAFETY: as in `poll`.
    unsafe { caught(extra, |callbacks| run(callbacks).map_or(0, |()| 0)) };
}

unsafe extern "C" fn after_stop(extra: *mut c_void) {
    let run = |callbacks: &mut Callbacks<'_>| callbacks.after_stop.as_mut().map(|function| function());
    // SAFETY: as in `poll`.
    unsafe { caught(extra, |callbacks| run(callbacks).map_or(0, |()| 0)) };
}
