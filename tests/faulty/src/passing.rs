//! The calls of the kernel, each counted, and then done, failed or held.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::behind::{Behind, Change, c_string};
use crate::{Fault, Op, Shared, lock, unmount};

/// Nothing is cached: what the directory says now is what counts.
const TTL: Duration = Duration::ZERO;

pub struct Passing(pub Arc<Shared>);

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

answers! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyEmpty ReplyEntry ReplyOpen ReplyStatfs ReplyWrite ReplyXattr
}

impl Passing {
    /// What becomes of this call.
    fn fault(&self, op: Op, what: impl FnOnce() -> String) -> Option<Fault> {
        let mut rules = lock(&self.0.rules);
        let rule = rules.rule.filter(|rule| rule.op.is_none_or(|only| only == op))?;
        rules.counted += 1;
        if !(rule.first..=rule.last).contains(&rules.counted) {
            return None;
        }
        rules.struck.get_or_insert_with(|| format!("{op:?} {}", what()));
        Some(rule.fault)
    }

    /// Does `work` and answers, now or when it is released; or fails. `what` is for messages: names, sizes.
    fn pass<R: Answer, T>(
        &self,
        (op, what): (Op, &dyn std::fmt::Debug),
        reply: R,
        work: impl FnOnce(&Behind) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let fault = self.fault(op, || format!("{what:?}"));
        self.end(fault, reply, work, answer);
    }

    fn end<R: Answer, T>(
        &self,
        fault: Option<Fault>,
        reply: R,
        work: impl FnOnce(&Behind) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let shared = self.0.clone();
        let whole = move || {
            let done = match fault {
                Some(Fault::Fails(errno)) => Err(io::Error::from_raw_os_error(errno)),
                _ => work(&shared.behind),
            };
            match done {
                Ok(done) => answer(reply, done),
                Err(error) => reply.fail(error.into()),
            }
        };
        match fault {
            Some(Fault::Hangs) => {
                lock(&self.0.rules).held.push(Box::new(whole));
                self.0.bell.notify_all();
            }
            // The kernel answers whoever waits.
            Some(Fault::Dies) => unmount(&self.0.mounted, libc::MNT_FORCE),
            _ => whole(),
        }
    }
}

fn entry(reply: ReplyEntry, attr: FileAttr) {
    reply.entry(&TTL, &attr, Generation(0));
}

fn attribute(reply: ReplyAttr, attr: FileAttr) {
    reply.attr(&TTL, &attr);
}

fn opened(reply: ReplyOpen, handle: FileHandle) {
    reply.opened(handle, FopenFlags::empty());
}

fn empty(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// Asked for no room, how much there would be is told.
fn value(room: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) {
    move |reply, value| match value.len() as u32 {
        length if room == 0 => reply.size(length),
        length if length > room => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    }
}

impl Filesystem for Passing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (what, name) = (name.to_owned(), name.to_owned());
        self.pass((Op::Lookup, &what), reply, move |fs| fs.look_up(&fs.below(parent, &name)?), entry);
    }

    fn forget(&self, _: &Request, inode: INodeNo, times: u64) {
        self.0.behind.forget(inode, times);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pass((Op::Getattr, &inode), reply, move |fs| fs.attr(inode), attribute);
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, owner: (user, group), size, times: [accessed, modified] };
        let what = (mode, user, size, modified);
        self.pass((Op::Setattr, &what), reply, move |fs| fs.set(inode, &change), attribute);
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        let read = move |fs: &Behind| fs.read_link(inode);
        self.pass((Op::Readlink, &inode), reply, read, |reply, target| reply.data(&target));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (what, name, target) = (name.to_owned(), name.to_owned(), target.to_owned());
        let make = move |fs: &Behind| {
            let path = fs.below(parent, &name)?;
            symlink(target, &path)?;
            fs.look_up(&path)
        };
        self.pass((Op::Symlink, &what), reply, make, entry);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let (what, name) = (name.to_owned(), name.to_owned());
        let make = move |fs: &Behind| {
            let path = fs.below(parent, &name)?;
            fs::create_dir(&path)?;
            fs.look_up(&path)
        };
        self.pass((Op::Mkdir, &what), reply, make, entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (what, name) = (name.to_owned(), name.to_owned());
        self.pass((Op::Unlink, &what), reply, move |fs| fs::remove_file(fs.below(parent, &name)?), empty);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (what, name) = (name.to_owned(), name.to_owned());
        self.pass((Op::Rmdir, &what), reply, move |fs| fs::remove_dir(fs.below(parent, &name)?), empty);
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
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let what = (name.clone(), new_name.clone());
        let rename =
            move |fs: &Behind| fs::rename(fs.below(parent, &name)?, fs.below(new_parent, &new_name)?);
        self.pass((Op::Rename, &what), reply, rename, empty);
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (what, name) = (name.to_owned(), name.to_owned());
        self.pass((Op::Link, &what), reply, move |fs| fs.link(inode, &fs.below(parent, &name)?), entry);
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = move |fs: &Behind| {
            let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
            Ok(fs.handle(File::options().read(true).write(writes).open(fs.path(inode)?)?))
        };
        self.pass((Op::Open, &inode), reply, open, opened);
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
        let (what, name) = (name.to_owned(), name.to_owned());
        let create = move |fs: &Behind| {
            let path = fs.below(parent, &name)?;
            let mut options = File::options();
            options.read(true).write(true).create(true).mode(mode).custom_flags(flags & libc::O_EXCL);
            let file = options.open(&path)?;
            Ok((fs.look_up(&path)?, fs.handle(file)))
        };
        self.pass((Op::Create, &what), reply, create, |reply, (attr, handle)| {
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
        let read = move |fs: &Behind| {
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
        self.pass((Op::Read, &(offset, size)), reply, read, |reply, data| reply.data(&data));
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
        let fault = self.fault(Op::Write, || format!("{} at {offset}", data.len()));
        let length = if fault == Some(Fault::Short) { data.len().div_ceil(2) } else { data.len() };
        let data = data[..length].to_owned();
        let write = move |fs: &Behind| {
            fs.opened(handle)?.write_all_at(&data, offset)?;
            Ok(data.len() as u32)
        };
        self.end(fault, reply, write, |reply, length| reply.written(length));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate = move |fs: &Behind| fs.fallocate(handle, mode, offset, length);
        self.pass((Op::Fallocate, &(offset, length)), reply, allocate, empty);
    }

    fn flush(&self, _: &Request, inode: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.pass((Op::Flush, &inode), reply, |_| Ok(()), empty);
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // Closed in any case: nobody waits for it, and nobody asks again.
        self.0.behind.close(handle);
        self.pass((Op::Release, &inode), reply, |_| Ok(()), empty);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pass((Op::Sync, &inode), reply, move |fs| fs.opened(handle)?.sync_all(), empty);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pass((Op::Sync, &inode), reply, move |fs| File::open(fs.path(inode)?)?.sync_all(), empty);
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.pass((Op::Opendir, &inode), reply, |_| Ok(FileHandle(0)), opened);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let list = move |fs: &Behind| fs.list(inode);
        self.pass((Op::Readdir, &inode), reply, list, move |mut reply, all| {
            for (next, (number, kind, name)) in all.into_iter().enumerate().skip(offset as usize) {
                if reply.add(INodeNo(number), next as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.pass((Op::Releasedir, &inode), reply, |_| Ok(()), empty);
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        self.pass(
            (Op::Statfs, &inode),
            reply,
            move |fs| fs.statvfs(inode),
            |reply, s| {
                let (block, fragment) = (s.f_bsize as u32, s.f_frsize as u32);
                let name = s.f_namemax as u32;
                reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, block, name, fragment);
            },
        );
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        let (what, name) = (name.to_owned(), name.to_owned());
        self.pass((Op::Getxattr, &what), reply, move |fs| fs.xattr(inode, Some(&name)), value(room));
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, room: u32, reply: ReplyXattr) {
        self.pass((Op::Listxattr, &inode), reply, move |fs| fs.xattr(inode, None), value(room));
    }

    fn setxattr(
        &self,
        _: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (what, name, value) = (name.to_owned(), c_string(name), value.to_owned());
        let set = move |fs: &Behind| fs.set_xattr(inode, &name?, &value, flags);
        self.pass((Op::Setxattr, &what), reply, set, empty);
    }

    fn removexattr(&self, _: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (what, name) = (name.to_owned(), c_string(name));
        self.pass((Op::Removexattr, &what), reply, move |fs| fs.remove_xattr(inode, &name?), empty);
    }
}
