//! Objects that no linker made, in memory that ends where they end.

use arbitrary::{Result, Unstructured};

use super::*;
use crate::fuzz;

const SYM: usize = size_of::<libc::Elf64_Sym>();

/// The bytes of an object as if they were mapped; a page that nobody may touch lies behind them.
struct Mapped {
    memory: *mut c_void,
    length: usize,
    seen: Seen,
}

impl Mapped {
    /// `dynamic`: where the dynamic section lies; `hole`: what cannot be read.
    fn new(bytes: &[u8], dynamic: usize, hole: &Range<usize>) -> Mapped {
        let page = page_size();
        let whole = bytes.len().next_multiple_of(page) + page;
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), whole, rights, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        // Aligned as objects are, which their tables are by their own offsets.
        let base = memory.expose_provenance() + (whole - page - bytes.len()) / 16 * 16;
        // SAFETY: inside of that memory; its last page is nobody's.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                std::ptr::with_exposed_provenance_mut(base),
                bytes.len(),
            );
            libc::mprotect(memory.byte_add(whole - page), page, libc::PROT_NONE);
        }
        let seen = Seen {
            name: CString::default(),
            base,
            span: base..base + bytes.len(),
            loads: vec![base..base + hole.start, base + hole.end..base + bytes.len()],
            dynamic: base.wrapping_add(dynamic),
            relro: 0..0,
        };
        Mapped { memory, length: whole, seen }
    }

    /// Slots, as offsets, with their names; whether that is all.
    fn imports(&self) -> (Vec<(usize, Vec<u8>)>, bool) {
        let mut found = Vec::new();
        // SAFETY: the memory lives as long as `self`.
        let all = unsafe {
            each_import(&self.seen, &mut |address, name| {
                assert!(address.is_multiple_of(size_of::<usize>()) && self.seen.span.contains(&address));
                found.push((address - self.seen.base, name.to_vec()));
            })
        };
        (found, all.is_some())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, whole.
        unsafe { libc::munmap(self.memory, self.length) };
    }
}

/// An object in the making.
#[derive(Default)]
struct Sample {
    bytes: Vec<u8>,
    dynamic: usize,
    imports: Vec<(usize, Vec<u8>)>,
}

fn sample(u: &mut Unstructured<'_>) -> Result<Sample> {
    const NAMES: [&[u8]; 8] =
        [b"write", b"pwrite64", b"rename", b"\xff", b"", b"io_submit", b"_Unwind_Resume", b"a.b@@c"];
    const SLOTS: usize = 16;
    let mut bytes = vec![0xa5; SLOTS * 8];
    let mut strings = vec![0];
    let mut symbols = vec![0; SYM];
    let mut known = Vec::new();
    for _ in 0..u.int_in_range(1..=12)? {
        let (name, defined) = (*u.choose(&NAMES)?, u.ratio(1, 4)?);
        known.push((name, defined));
        // Name, kind, visibility, section, value, size.
        symbols.extend((strings.len() as u32).to_le_bytes());
        symbols.extend([0x12, 0, u8::from(defined), 0]);
        symbols.extend([0; 16]);
        strings.extend([name, b"\0"].concat());
    }
    let (mut tables, mut imports) = ([Vec::new(), Vec::new()], Vec::new());
    for (index, table) in tables.iter_mut().enumerate() {
        for _ in 0..u.int_in_range(0..=12)? {
            let slot = u.choose_index(SLOTS)? * 8 + if u.ratio(1, 8)? { 4 } else { 0 };
            let kinds = [relocation::SLOT, relocation::GLOBAL, relocation::ADDRESS, 8];
            let kind = kinds[if index == 0 { 0 } else { u.choose_index(4)? }];
            let symbol = u.int_in_range(0..=known.len())?;
            let addend = if u.ratio(1, 4)? { 8_i64 } else { 0 };
            table.extend((slot as u64).to_le_bytes());
            table.extend(((symbol as u64) << 32 | kind).to_le_bytes());
            table.extend(addend.to_le_bytes());
            let calls = kind != 8 && (kind != relocation::ADDRESS || addend == 0);
            let import = known.get(symbol.wrapping_sub(1)).filter(|(_, defined)| !defined);
            if let Some((name, _)) = import.filter(|_| calls && slot.is_multiple_of(8)) {
                imports.push((slot, name.to_vec()));
            }
        }
    }
    // A function that is not there.
    if u.arbitrary()? {
        let slot = u.choose_index(SLOTS)? * 8;
        bytes[slot..slot + 8].fill(0);
        imports.retain(|(at, _)| *at != slot);
    }
    let [plt, rela] = tables;
    let mut dynamic = Vec::new();
    let mut entry =
        |tag: i64, value: usize| dynamic.extend([tag.to_le_bytes(), value.to_le_bytes()].concat());
    for (tag, size_tag, table) in [
        (DT_JMPREL, Some((DT_PLTRELSZ, plt.len())), &plt),
        (DT_RELA, Some((DT_RELASZ, rela.len())), &rela),
        (DT_SYMTAB, None, &symbols),
        (DT_STRTAB, None, &strings),
    ] {
        entry(tag, bytes.len());
        if let Some((tag, size)) = size_tag {
            entry(tag, size);
        }
        bytes.extend(table);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    entry(29, 1);
    entry(0, 0);
    let at = bytes.len();
    bytes.extend(dynamic);
    Ok(Sample { bytes, dynamic: at, imports })
}

/// Every slot of a function from elsewhere is found, in both tables, and nothing else.
pub fn tables(u: &mut Unstructured<'_>) -> Result<()> {
    let sample = sample(u)?;
    let mapped = Mapped::new(&sample.bytes, sample.dynamic, &(0..0));
    assert_eq!(mapped.imports(), (sample.imports, true));
    Ok(())
}

/// A real object, read from its file as the loader maps it.
fn real() -> &'static Sample {
    static REAL: std::sync::OnceLock<Sample> = std::sync::OnceLock::new();
    REAL.get_or_init(|| {
        let objects = list().objects;
        let libc = objects.iter().find(|seen| seen.name.to_bytes().ends_with(b"/libc.so.6"));
        let path = libc.map(|seen| seen.name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes")) as usize;
        let half = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
        let mut sample = Sample::default();
        for header in (0..half(56)).map(|index| word(32) + index * half(54)) {
            let (offset, address, in_file, in_memory) =
                (word(header + 8), word(header + 16), word(header + 32), word(header + 40));
            match word(header) as u32 {
                libc::PT_LOAD => {
                    sample.bytes.resize(sample.bytes.len().max(address + in_memory), 0);
                    sample.bytes[address..address + in_file].copy_from_slice(&file[offset..offset + in_file]);
                }
                libc::PT_DYNAMIC => sample.dynamic = address,
                _ => {}
            }
        }
        sample
    })
}

/// Whatever the tables say, only the object's own memory is read.
pub fn damaged(u: &mut Unstructured<'_>) -> Result<()> {
    let made;
    let (bytes, dynamic) = if u.ratio(1, 16)? {
        let real = real();
        let mut bytes = real.bytes.clone();
        // The dynamic section, or some of what it leads to.
        for _ in 0..u.int_in_range(1..=4)? {
            let at = if u.arbitrary()? {
                real.dynamic + u.int_in_range(0..=0x1ff)?
            } else {
                u.choose_index(0x30000)?
            };
            bytes[at] = u.arbitrary()?;
        }
        (bytes, real.dynamic)
    } else {
        made = sample(u)?;
        let mut bytes = made.bytes;
        fuzz::damage(&mut bytes, u)?;
        (bytes, if u.ratio(1, 8)? { u.arbitrary()? } else { made.dynamic })
    };
    let (from, to) = (u.int_in_range(0..=bytes.len())?, u.int_in_range(0..=bytes.len())?);
    let hole = if u.ratio(1, 4)? { from.min(to)..to } else { 0..0 };
    let mapped = Mapped::new(&bytes, dynamic, &hole);
    for (at, _) in mapped.imports().0 {
        assert!(!hole.contains(&at), "{at:#x} is in {hole:x?}");
    }
    Ok(())
}

mod tests {
    use std::collections::BTreeSet;

    use object::read::elf::ElfFile64;
    use object::{Object, ObjectSymbol, ObjectSymbolTable, RelocationFlags, RelocationTarget};

    use super::*;

    /// What another reader finds in the file: strong and weak imports through slots.
    fn by_the_book(path: &Path) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
        let data = std::fs::read(path).expect("an object");
        let file = ElfFile64::<object::Endianness>::parse(&*data).expect("an ELF file");
        let symbols = file.dynamic_symbol_table().expect("dynamic symbols");
        let (mut strong, mut weak) = (BTreeSet::new(), BTreeSet::new());
        for (_, relocation) in file.dynamic_relocations().into_iter().flatten() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
            let kind = u64::from(r_type.0);
            let calls = kind == relocation::SLOT
                || kind == relocation::GLOBAL
                || kind == relocation::ADDRESS && relocation.addend() == 0;
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let symbol = symbols.symbol_by_index(index).expect("a symbol");
            if calls && symbol.is_undefined() {
                let to = if symbol.is_weak() { &mut weak } else { &mut strong };
                to.insert(symbol.name_bytes().expect("a name").to_vec());
            }
        }
        (strong, weak)
    }

    #[test]
    fn real_objects_are_read_as_another_reader_reads_them() {
        let mut compared = 0;
        for seen in list().objects.iter().filter(|seen| seen.name.to_bytes().contains(&b'/')) {
            let mut found = BTreeSet::new();
            // SAFETY: this program's own libraries are never unloaded.
            let all = unsafe { each_import(seen, &mut |_, name| found.extend([name.to_vec()])) };
            let name = seen.name.to_string_lossy().into_owned();
            assert!(all.is_some(), "{name}");
            let (strong, weak) = by_the_book(Path::new(&name));
            assert!(strong.is_subset(&found), "{name}: {:?}", strong.difference(&found));
            assert!(found.iter().all(|f| strong.contains(f) || weak.contains(f)), "{name}");
            compared += found.len();
        }
        assert!(compared > 20, "only {compared} imports were compared");
        let real = real();
        let (imports, all) = Mapped::new(&real.bytes, real.dynamic, &(0..0)).imports();
        assert!(all && !imports.is_empty(), "{imports:?}");
    }
}

#[test]
fn a_table_may_go_on_in_the_next_segment() {
    let text = b"first\0second\0";
    let base = text.as_ptr().expose_provenance();
    let mut seen = Seen {
        name: CString::default(),
        base,
        span: base..base + text.len(),
        loads: Vec::new(),
        dynamic: 0,
        relro: 0..0,
    };
    seen.add_load(base..base + 8);
    // SAFETY: static memory.
    let second = |seen: &Seen| unsafe { seen.string(base + 6) };
    assert_eq!(second(&seen), None);
    seen.add_load(base + 8..base + text.len());
    assert_eq!(second(&seen), Some(&b"second"[..]));
}
