//! A file system that passes everything through to a directory, until it is told to fail or to hang.
//!
//! A call that hangs is only not answered: the file system goes on with all others, so that nobody but the caller waits.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

/// Nothing is cached: what the directory says now is what counts.
const TTL: Duration = Duration::ZERO;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Mkdir,
    Write,
    Sync,
    Rename,
    Unlink,
}

/// How it fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Fails(i32),
    Hangs,
}

#[derive(Default)]
struct Rules {
    rule: Option<(Op, Fault)>,
    held: Vec<Box<dyn FnOnce() + Send>>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Rules>,
    held: Condvar,
    files: Mutex<HashMap<u64, Arc<File>>>,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The mounted file system; gone, with nobody waiting for it, when dropped.
pub struct Faulty {
    shared: Arc<Shared>,
    mounted: PathBuf,
    behind: PathBuf,
    _session: BackgroundSession,
}

impl Faulty {
    /// Shows the directory `behind` at `at`; both exist.
    pub fn mount(behind: &Path, at: &Path) -> Faulty {
        let shared = Arc::new(Shared::default());
        lock(&shared.files).insert(INodeNo::ROOT.0, Arc::new(path_only(behind).unwrap()));
        let session = fuser::spawn_mount(Passing(shared.clone()), at, &Config::default()).unwrap();
        Faulty { shared, mounted: at.to_owned(), behind: behind.to_owned(), _session: session }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// The directory that it shows.
    pub fn behind(&self) -> &Path {
        &self.behind
    }

    /// From now on `op` fails.
    pub fn arm(&self, op: Op, fault: Fault) {
        lock(&self.shared.rules).rule = Some((op, fault));
    }

    /// Waits until a call hangs.
    pub fn wait_held(&self, patience: Duration) {
        let rules = lock(&self.shared.rules);
        let (rules, late) =
            self.shared.held.wait_timeout_while(rules, patience, |rules| rules.held.is_empty()).unwrap();
        assert!(!late.timed_out(), "no call came that was to hang: {:?}", rules.rule);
    }

    /// How many calls hang.
    pub fn held(&self) -> usize {
        lock(&self.shared.rules).held.len()
    }

    /// All is well again; what hangs is done now.
    pub fn release(&self) {
        let held = {
            let mut rules = lock(&self.shared.rules);
            rules.rule = None;
            std::mem::take(&mut rules.held)
        };
        held.into_iter().for_each(|work| work());
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.release();
        super::bench::unmount(&self.mounted);
    }
}

/// What a call is answered through.
trait Answer: Send + 'static {
    fn fail(self, errno: Errno);
}

macro_rules! answers {
    ($($reply:ty)*) => {$(
        impl Answer for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

answers! { ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyEmpty ReplyEntry ReplyOpen ReplyWrite }

fn path_only(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

impl Shared {
    /// The path that leads to an inode whatever its name is.
    fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        let files = lock(&self.files);
        let file = files.get(&inode.0).ok_or(io::ErrorKind::NotFound)?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
    }

    fn below(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn attr(&self, inode: INodeNo) -> io::Result<FileAttr> {
        let file = lock(&self.files).get(&inode.0).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(attr(inode, &file.metadata()?))
    }

    fn look_up(&self, path: &Path) -> io::Result<FileAttr> {
        let file = path_only(path)?;
        let metadata = file.metadata()?;
        // Held open, so that its number is nobody else's.
        lock(&self.files).entry(metadata.ino()).or_insert_with(|| Arc::new(file));
        Ok(attr(INodeNo(metadata.ino()), &metadata))
    }

    fn handle(&self, file: File) -> FileHandle {
        let number = file.as_raw_fd() as u64;
        lock(&self.open).insert(number, Arc::new(file));
        FileHandle(number)
    }

    fn opened(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        Ok(lock(&self.open).get(&handle.0).cloned().ok_or(io::ErrorKind::NotFound)?)
    }

    fn set(
        &self,
        inode: INodeNo,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        size: Option<u64>,
        times: [Option<TimeOrNow>; 2],
    ) -> io::Result<FileAttr> {
        let path = self.path(inode)?;
        if let Some(mode) = mode {
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        if owner != (None, None) {
            std::os::unix::fs::chown(&path, owner.0, owner.1)?;
        }
        if let Some(size) = size {
            File::options().write(true).open(&path)?.set_len(size)?;
        }
        let [accessed, modified] = times.map(|time| {
            time.map(|time| match time {
                TimeOrNow::SpecificTime(time) => time,
                TimeOrNow::Now => SystemTime::now(),
            })
        });
        if accessed.is_some() || modified.is_some() {
            let mut times = FileTimes::new();
            times = accessed.map_or(times, |time| times.set_accessed(time));
            times = modified.map_or(times, |time| times.set_modified(time));
            File::open(&path)?.set_times(times)?;
        }
        self.attr(inode)
    }
}

fn attr(ino: INodeNo, metadata: &Metadata) -> FileAttr {
    let time = |time: io::Result<SystemTime>| time.unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino,
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.accessed()),
        mtime: time(metadata.modified()),
        ctime: time(metadata.modified()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

struct Passing(Arc<Shared>);

impl Passing {
    /// Does `work` and answers, now or when it is released; or fails.
    fn pass<R: Answer, T>(
        &self,
        op: Option<Op>,
        reply: R,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let shared = self.0.clone();
        let whole = move || match work(&shared) {
            Ok(done) => answer(reply, done),
            Err(error) => reply.fail(error.into()),
        };
        let mut rules = lock(&self.0.rules);
        match rules.rule {
            Some((armed, Fault::Hangs)) if op == Some(armed) => {
                rules.held.push(Box::new(whole));
                self.0.held.notify_all();
            }
            _ => {
                drop(rules);
                whole();
            }
        }
    }

    /// The error that `op` is to fail with.
    fn check(&self, op: Op) -> io::Result<()> {
        match lock(&self.0.rules).rule {
            Some((armed, Fault::Fails(errno))) if armed == op => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }
}

fn entry(reply: ReplyEntry, attr: FileAttr) {
    reply.entry(&TTL, &attr, Generation(0));
}

fn empty(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

impl Filesystem for Passing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.pass(None, reply, move |fs| fs.look_up(&fs.below(parent, &name)?), entry);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pass(None, reply, move |fs| fs.attr(inode), |reply, attr| reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = move |fs: &Shared| fs.set(inode, mode, (uid, gid), size, [atime, mtime]);
        self.pass(None, reply, set, |reply, attr| reply.attr(&TTL, &attr));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let (name, checked) = (name.to_owned(), self.check(Op::Mkdir));
        let make = move |fs: &Shared| {
            checked?;
            let path = fs.below(parent, &name)?;
            fs::create_dir(&path)?;
            fs.look_up(&path)
        };
        self.pass(Some(Op::Mkdir), reply, make, entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, checked) = (name.to_owned(), self.check(Op::Unlink));
        let unlink = move |fs: &Shared| checked.and_then(|()| fs::remove_file(fs.below(parent, &name)?));
        self.pass(Some(Op::Unlink), reply, unlink, empty);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.pass(None, reply, move |fs| fs::remove_dir(fs.below(parent, &name)?), empty);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name, checked) = (name.to_owned(), new_name.to_owned(), self.check(Op::Rename));
        let rename = move |fs: &Shared| {
            checked?;
            fs::rename(fs.below(parent, &name)?, fs.below(new_parent, &new_name)?)
        };
        self.pass(Some(Op::Rename), reply, rename, empty);
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        let link = move |fs: &Shared| {
            let text = |path: PathBuf| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
            let new = fs.below(parent, &name)?;
            let (from, to) = (text(fs.path(inode)?)?, text(new.clone())?);
            let here = libc::AT_FDCWD;
            // SAFETY: two C strings that outlive the call.
            match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) } {
                0 => fs.look_up(&new),
                _ => Err(io::Error::last_os_error()),
            }
        };
        self.pass(None, reply, link, entry);
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = move |fs: &Shared| {
            let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
            Ok(fs.handle(File::options().read(true).write(writes).open(fs.path(inode)?)?))
        };
        self.pass(None, reply, open, |reply, handle| reply.opened(handle, FopenFlags::empty()));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        let create = move |fs: &Shared| {
            let path = fs.below(parent, &name)?;
            let mut options = File::options();
            options.read(true).write(true).create(true).mode(mode).custom_flags(flags & libc::O_EXCL);
            let file = options.open(&path)?;
            Ok((fs.look_up(&path)?, fs.handle(file)))
        };
        self.pass(None, reply, create, |reply, (attr, handle)| {
            reply.created(&TTL, &attr, Generation(0), handle, FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = move |fs: &Shared| {
            let (file, mut data) = (fs.opened(handle)?, vec![0; size as usize]);
            let mut done = 0;
            while done < data.len() {
                match file.read_at(&mut data[done..], offset + done as u64)? {
                    0 => break,
                    more => done += more,
                }
            }
            data.truncate(done);
            Ok(data)
        };
        self.pass(None, reply, read, |reply, data| reply.data(&data));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (data, checked) = (data.to_owned(), self.check(Op::Write));
        let write = move |fs: &Shared| {
            checked?;
            fs.opened(handle)?.write_all_at(&data, offset)?;
            Ok(data.len() as u32)
        };
        self.pass(Some(Op::Write), reply, write, |reply, length| reply.written(length));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.0.open).remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let checked = self.check(Op::Sync);
        let sync = move |fs: &Shared| checked.and_then(|()| fs.opened(handle)?.sync_all());
        self.pass(Some(Op::Sync), reply, sync, empty);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let checked = self.check(Op::Sync);
        self.pass(Some(Op::Sync), reply, move |_| checked, empty);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = || -> io::Result<Vec<(u64, FileType, std::ffi::OsString)>> {
            let mut all = vec![(1, FileType::Directory, ".".into()), (1, FileType::Directory, "..".into())];
            for entry in fs::read_dir(self.0.path(inode)?)? {
                let entry = entry?;
                let kind =
                    if entry.file_type()?.is_dir() { FileType::Directory } else { FileType::RegularFile };
                all.push((entry.metadata()?.ino(), kind, entry.file_name()));
            }
            Ok(all)
        };
        match list() {
            Ok(all) => {
                for (next, (number, kind, name)) in all.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(number), next as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }
}
