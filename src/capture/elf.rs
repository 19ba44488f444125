//! The loaded objects and the slots through which they call intercepted functions.
//!
//! Objects are looked at and changed only while they are held (`RTLD_NOLOAD`): so they stay mapped, and, because
//! the loader's lock was waited for, they are relocated.

#[cfg(test)]
pub(crate) mod fuzz;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::table::{HOOKS, Hook};
use crate::engine::error::{Error, Result};

const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
const DT_RPATH: i64 = 15;
const DT_RUNPATH: i64 = 29;

#[cfg(target_arch = "x86_64")]
mod relocation {
    pub const SLOT: u64 = 7;
    pub const GLOBAL: u64 = 6;
    pub const ADDRESS: u64 = 1;
}
#[cfg(target_arch = "aarch64")]
mod relocation {
    pub const SLOT: u64 = 1026;
    pub const GLOBAL: u64 = 1025;
    pub const ADDRESS: u64 = 257;
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Dynamic {
    tag: i64,
    value: usize,
}

/// An object as dl_iterate_phdr(3) shows it.
#[derive(Clone, Debug)]
struct Seen {
    name: CString,
    base: usize,
    /// From the first to behind the last byte that is mapped.
    span: Range<usize>,
    /// What of that can be read.
    loads: Vec<Range<usize>>,
    dynamic: usize,
    /// Read-only after relocation; empty: nothing is.
    relro: Range<usize>,
}

impl Seen {
    /// Segments that touch are one piece of memory: a table may go on from one to the other (patchelf makes such objects of
    /// programs that are not position-independent).
    fn add_load(&mut self, load: Range<usize>) {
        match self.loads.last_mut() {
            Some(last) if last.end == load.start => last.end = load.end,
            _ => self.loads.push(load),
        }
    }

    /// The end of the memory that goes on from there.
    fn readable_to(&self, address: usize) -> Option<usize> {
        self.loads.iter().find(|load| load.contains(&address)).map(|load| load.end)
    }

    fn holds(&self, range: &Range<usize>) -> bool {
        self.readable_to(range.start).is_some_and(|end| range.end <= end)
    }

    /// What lies there; `None` where there is no memory of the object. The tables say where, and are not trusted.
    ///
    /// # Safety
    /// The object stays mapped; every value of a `T` is valid.
    unsafe fn read<T: Copy>(&self, address: usize) -> Option<T> {
        let range = address..address.checked_add(size_of::<T>())?;
        // SAFETY: readable memory; the caller's promise.
        self.holds(&range)
            .then(|| unsafe { std::ptr::with_exposed_provenance::<T>(address).read_unaligned() })
    }

    /// A string of the object, without its NUL.
    ///
    /// # Safety
    /// The object stays mapped for as long as the string is used, and nobody changes it.
    unsafe fn string<'a>(&self, address: usize) -> Option<&'a [u8]> {
        let room = self.readable_to(address)? - address;
        let start = std::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: that many bytes are readable.
        let length = unsafe { libc::strnlen(start.cast(), room) };
        // SAFETY: as above; the caller's promise.
        (length < room).then(|| unsafe { std::slice::from_raw_parts(start, length) })
    }
}

#[derive(Debug, Default)]
struct Listing {
    objects: Vec<Seen>,
    adds: u64,
}

/// A reference to a loaded object: it stays mapped.
#[derive(Debug)]
struct Handle(*mut c_void);

// SAFETY: a handle of dlopen may be used from any thread.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle came from dlopen and is closed once.
        unsafe { libc::dlclose(self.0) };
    }
}

/// One place in an object that holds the address of an intercepted function.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    address: usize,
    /// What it calls.
    pub hook: &'static Hook,
}

impl Slot {
    fn cell(&self) -> &AtomicUsize {
        // SAFETY: `address` is an aligned word in the data of an object that is held.
        unsafe { &*std::ptr::with_exposed_provenance::<AtomicUsize>(self.address) }
    }

    /// Whether calls through it come to us.
    pub fn is_ours(&self) -> bool {
        self.cell().load(Ordering::Acquire) == self.hook.detour()
    }
}

/// A loaded object that is held.
#[derive(Debug)]
pub struct Object {
    /// As the loader names it; empty: the program.
    pub name: CString,
    base: usize,
    relro: Range<usize>,
    /// Where it calls intercepted functions.
    pub slots: Vec<Slot>,
    handle: Option<Handle>,
}

impl Object {
    /// For messages.
    pub fn shown(&self) -> String {
        if self.name.is_empty() { "the program".into() } else { self.name.to_string_lossy().into_owned() }
    }

    /// Whether both are the same loaded object.
    pub fn is(&self, other: &Object) -> bool {
        self.base == other.base && self.name == other.name
    }

    /// Stores what `wanted` says into each slot for which it says something; returns how many.
    pub fn store(&self, wanted: impl Fn(&Slot) -> Option<usize>) -> Result<usize> {
        let changes: Vec<(&Slot, usize)> =
            self.slots.iter().filter_map(|slot| wanted(slot).map(|value| (slot, value))).collect();
        let protected = changes.iter().any(|(slot, _)| self.relro.contains(&slot.address));
        if protected {
            self.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        }
        for (slot, value) in &changes {
            slot.cell().store(*value, Ordering::Release);
        }
        if protected {
            self.protect(libc::PROT_READ)?;
        }
        Ok(changes.len())
    }

    fn protect(&self, protection: c_int) -> Result<()> {
        let start = std::ptr::with_exposed_provenance_mut(self.relro.start);
        // SAFETY: the pages of a held object's PT_GNU_RELRO; they stay readable.
        if unsafe { libc::mprotect(start, self.relro.len(), protection) } == 0 {
            return Ok(());
        }
        let cause = std::io::Error::last_os_error();
        Err(Error::new(
            cause.raw_os_error().unwrap_or(libc::EACCES),
            format!(
                "cannot make the table of addresses of {} writable to intercept its calls: {cause}",
                self.shown()
            ),
        ))
    }
}

/// All objects whose calls are to be intercepted, held.
#[derive(Debug, Default)]
pub struct Objects {
    /// The objects, not in any order.
    pub list: Vec<Object>,
    /// How many objects had ever been loaded when they were listed (`dlpi_adds`).
    pub adds: u64,
    /// Memory of objects that make system calls themselves: libc, ld.so, those that define intercepted functions,
    /// and our own.
    pub callers: Vec<Range<usize>>,
}

impl Objects {
    /// Lists and holds the objects. Where a function's definition is not known yet, it is looked up.
    pub fn hold() -> Result<Objects> {
        let listing = list();
        let skipped = own_addresses();
        let dropped = DROPPED.lock().map(|dropped| dropped.clone()).unwrap_or_default();
        let by_name: HashMap<&[u8], &'static Hook> = HOOKS
            .iter()
            .map(|hook| (hook.name.to_bytes(), hook))
            .filter(|(name, _)| !dropped.iter().any(|dropped| dropped.as_bytes() == *name))
            .collect();
        let mut objects = Objects { adds: listing.adds, ..Objects::default() };
        for seen in &listing.objects {
            if skipped.iter().any(|address| seen.span.contains(address)) {
                objects.callers.push(seen.span.clone());
                continue;
            }
            let handle = match hold(seen) {
                Held::Program => None,
                Held::Handle(handle) => Some(handle),
                Held::Gone => continue,
            };
            let mut object = Object {
                name: seen.name.clone(),
                base: seen.base,
                relro: seen.relro.clone(),
                slots: Vec::new(),
                handle,
            };
            // SAFETY: the object is held.
            let found = unsafe {
                each_import(seen, &mut |address, name| {
                    if let Some(&hook) = by_name.get(name) {
                        object.slots.push(Slot { address, hook });
                    }
                })
            };
            // To go on without would be to miss its calls.
            found.ok_or_else(|| {
                let text = format!(
                    "cannot intercept the calls of {}: its dynamic section leads out of its memory",
                    object.shown()
                );
                Error::new(libc::ENOTSUP, text)
            })?;
            // A function that only this object's own libraries define.
            let handle = object.handle.as_ref();
            object.slots.retain(|slot| slot.hook.resolve_in(handle.map(|handle| handle.0)));
            objects.list.push(object);
        }
        for seen in &listing.objects {
            if HOOKS.iter().any(|hook| seen.span.contains(&hook.real()))
                && !objects.callers.contains(&seen.span)
            {
                objects.callers.push(seen.span.clone());
            }
        }
        Ok(objects)
    }

    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.list.iter().flat_map(|object| &object.slots)
    }
}

/// Names that are not intercepted, to prove that a test would notice.
static DROPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Reads from the environment which names a test wants left out: `TOKUDB_BACKUP_TEST_DROP_HOOKS`, separated by
/// commas, and only where `TOKUDB_BACKUP_TEST` is 1.
pub fn choose_dropped() {
    let wanted = std::env::var("TOKUDB_BACKUP_TEST").is_ok_and(|value| value == "1");
    let names = std::env::var("TOKUDB_BACKUP_TEST_DROP_HOOKS").ok().filter(|_| wanted).unwrap_or_default();
    if let Ok(mut dropped) = DROPPED.lock() {
        *dropped =
            names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    }
}

/// From now on all names count.
pub fn forget_dropped() {
    if let Ok(mut dropped) = DROPPED.lock() {
        dropped.clear();
    }
}

/// How many objects have ever been loaded. Allocates nothing.
pub fn adds() -> u64 {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: `info` is valid during the callback, `data` is the u64 given below.
        unsafe { *data.cast::<u64>() = (*info).dlpi_adds };
        1
    }
    let mut adds = 0u64;
    // SAFETY: the callback writes one u64 through the pointer it is given.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut adds).cast()) };
    adds
}

fn list() -> Listing {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: both are valid during the callback.
        let (info, listing) = unsafe { (&*info, &mut *data.cast::<Listing>()) };
        listing.adds = info.dlpi_adds;
        if info.dlpi_phdr.is_null() || info.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: the loader's own table of `dlpi_phnum` headers, and its string.
        let (headers, name) = unsafe {
            (
                std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
                CStr::from_ptr(info.dlpi_name).to_owned(),
            )
        };
        let base = info.dlpi_addr as usize;
        let mut seen = Seen { name, base, span: 0..0, loads: Vec::new(), dynamic: 0, relro: 0..0 };
        let page = page_size();
        for header in headers {
            let start = base.wrapping_add(header.p_vaddr as usize);
            let end = start.wrapping_add(header.p_memsz as usize);
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0 {
                seen.add_load(start..end);
            }
            match header.p_type {
                libc::PT_LOAD if seen.span.is_empty() => seen.span = start..end,
                libc::PT_LOAD => seen.span = seen.span.start.min(start)..seen.span.end.max(end),
                libc::PT_DYNAMIC => seen.dynamic = start,
                // As ld.so does: from the page of the start to before the page of the end.
                libc::PT_GNU_RELRO => seen.relro = start & !(page - 1)..end & !(page - 1),
                _ => {}
            }
        }
        if seen.dynamic != 0 {
            listing.objects.push(seen);
        }
        0
    }
    let mut listing = Listing::default();
    // SAFETY: the callback gets the listing, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut listing).cast()) };
    listing
}

fn page_size() -> usize {
    // SAFETY: sysconf takes a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// An address in each object whose calls are left alone: ours, libc's, ld.so's, the vdso's.
fn own_addresses() -> Vec<usize> {
    // SAFETY: plain lookups.
    let (loader, vdso) = unsafe {
        (libc::dlsym(libc::RTLD_DEFAULT, c"_r_debug".as_ptr()), libc::getauxval(libc::AT_SYSINFO_EHDR))
    };
    vec![
        list as *const () as usize,
        libc::gnu_get_libc_version as *const () as usize,
        loader as usize,
        vdso as usize,
    ]
}

enum Held {
    Program,
    Handle(Handle),
    Gone,
}

fn hold(seen: &Seen) -> Held {
    if seen.name.is_empty() {
        return Held::Program;
    }
    // SAFETY: RTLD_NOLOAD only looks for an object that is loaded, by the name that the loader itself gave.
    let handle = unsafe { libc::dlopen(seen.name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return Held::Gone;
    }
    let handle = Handle(handle);
    // The head of glibc's struct link_map (link.h), which a handle of dlopen(3) points to: l_addr.
    // SAFETY: the handle is valid; its first word is l_addr.
    let base = unsafe { *handle.0.cast::<usize>() };
    if base == seen.base { Held::Handle(handle) } else { Held::Gone }
}

/// What an object's dynamic section says.
#[derive(Debug, Default)]
struct Sections {
    strings: usize,
    symbols: usize,
    plt: Range<usize>,
    rela: Range<usize>,
    /// Where its libraries are looked for, as offsets of strings.
    paths: Vec<usize>,
}

/// # Safety
/// The object is relocated and stays mapped.
unsafe fn sections(seen: &Seen) -> Option<Sections> {
    // glibc has added the base already; other loaders have not.
    let absolute = |value: usize| if value < seen.base { value.wrapping_add(seen.base) } else { value };
    let mut found = Sections::default();
    let (mut plt_size, mut rela_size) = (0, 0);
    let mut entry = seen.dynamic;
    loop {
        // SAFETY: by the caller's promise; two integers.
        let Dynamic { tag, value } = unsafe { seen.read(entry) }?;
        match tag {
            0 => break,
            DT_STRTAB => found.strings = absolute(value),
            DT_SYMTAB => found.symbols = absolute(value),
            DT_JMPREL => found.plt.start = absolute(value),
            DT_PLTRELSZ => plt_size = value,
            DT_RELA => found.rela.start = absolute(value),
            DT_RELASZ => rela_size = value,
            DT_RPATH | DT_RUNPATH => found.paths.push(value),
            _ => {}
        }
        entry = entry.checked_add(size_of::<Dynamic>())?;
    }
    found.plt.end = found.plt.start.saturating_add(plt_size);
    found.rela.end = found.rela.start.saturating_add(rela_size);
    Some(found)
}

/// The directories in which the loaded objects have their libraries looked for (DT_RUNPATH, DT_RPATH).
pub fn library_directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for seen in list().objects {
        // The vdso's tables are not relocated; it names no directories.
        let held = hold(&seen);
        if matches!(held, Held::Gone) {
            continue;
        }
        let name = if seen.name.is_empty() {
            std::env::current_exe().unwrap_or_default()
        } else {
            PathBuf::from(seen.name.to_string_lossy().into_owned())
        };
        let origin = name.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        // SAFETY: the object is held.
        let sections = unsafe { sections(&seen) }.unwrap_or_default();
        for &path in sections.paths.iter().filter(|_| sections.strings != 0) {
            // SAFETY: the object is held; its string table does not change.
            let path = unsafe { seen.string(sections.strings.wrapping_add(path)) }.unwrap_or_default();
            let path = String::from_utf8_lossy(path);
            let path = path.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
            directories.extend(path.split(':').filter(|part| !part.is_empty()).map(PathBuf::from));
        }
        drop(held);
    }
    directories
}

/// Calls `visit` with the address of each slot of an imported function and its name. `None`: not all could be read.
///
/// # Safety
/// The object is relocated and stays mapped.
unsafe fn each_import(seen: &Seen, visit: &mut dyn FnMut(usize, &[u8])) -> Option<()> {
    // SAFETY: by the caller's promise.
    let Sections { strings, symbols, plt, rela, .. } = unsafe { sections(seen) }?;
    if strings == 0 || symbols == 0 {
        return Some(());
    }
    for table in [plt, rela] {
        if table.start == 0 || table.is_empty() {
            continue;
        }
        if !seen.holds(&table) {
            return None;
        }
        let first = std::ptr::with_exposed_provenance::<libc::Elf64_Rela>(table.start);
        for index in 0..table.len() / size_of::<libc::Elf64_Rela>() {
            // SAFETY: inside the table, which can be read; integers.
            let relocation = unsafe { first.add(index).read_unaligned() };
            let (symbol, kind) = ((relocation.r_info >> 32) as usize, relocation.r_info & 0xffff_ffff);
            let calls = kind == relocation::SLOT
                || kind == relocation::GLOBAL
                || kind == relocation::ADDRESS && relocation.r_addend == 0;
            if !calls || symbol == 0 {
                continue;
            }
            let symbol = symbols.checked_add(symbol * size_of::<libc::Elf64_Sym>())?;
            // SAFETY: by the caller's promise; integers.
            let symbol: libc::Elf64_Sym = unsafe { seen.read(symbol) }?;
            let address = seen.base.wrapping_add(relocation.r_offset as usize);
            if symbol.st_shndx != 0 || !address.is_multiple_of(align_of::<usize>()) {
                continue;
            }
            if !seen.holds(&(address..address.checked_add(size_of::<usize>())?)) {
                return None;
            }
            // SAFETY: an aligned word of the object, which the loader may be changing.
            let held = unsafe { &*std::ptr::with_exposed_provenance::<AtomicUsize>(address) };
            // SAFETY: by the caller's promise; the string table does not change.
            let name = unsafe { seen.string(strings.wrapping_add(symbol.st_name as usize)) }?;
            // A weak function that nobody defines: the object asks whether it is there.
            if held.load(Ordering::Relaxed) != 0 {
                visit(address, name);
            }
        }
    }
    Some(())
}
