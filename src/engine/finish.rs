//! After T: write what was read inside the gate, build the tree.
//!
//! And the test mode: with `TOKUDB_BACKUP_TEST=1` and `TOKUDB_BACKUP_TEST_IDENTITY=1` in the environment of the
//! server, the same is done before the gate opens, and the image is compared with the source in it.

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::attributes;
use super::error::{Error, Result};
use super::hold::{Arena, HeldFile, HeldName, Piece};
use super::identity;
use super::memory;
use super::place;
use super::reconcile::Reconciler;
use super::source::{self, Type};
use super::store::Writer;
use super::tree::{Leads, Name, Tree};
use super::workers::{Shared, Workers};

pub use super::place::Built;

/// Whether the test mode is on.
pub fn compares() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    *ON.get_or_init(|| is_set("TOKUDB_BACKUP_TEST") && is_set("TOKUDB_BACKUP_TEST_IDENTITY"))
}

/// How long the gate may stay closed: in the test mode, as long as a comparison takes.
pub fn gate_bound(asked: Duration) -> Duration {
    if compares() { Duration::from_secs(300) } else { asked }
}

/// Writes the rest and builds the tree.
pub fn complete(state: &mut Reconciler, arena: &mut Arena, workers: &Workers) -> Result<Built> {
    apply_names(state, arena)?;
    let bytes = Arc::new(std::mem::take(&mut arena.bytes));
    let pieces = Arc::new(std::mem::take(&mut arena.pieces));
    let mut files = memory::list(arena.files.len())?;
    for held in arena.files.drain(..) {
        // What has no name at T is not in the tree any more.
        if let Some(file) = state.tree.files.get(&held.key) {
            files.push((file.clone(), held));
        }
    }
    workers.run(move |shared| {
        files.iter().try_for_each(|(file, held)| write_held(shared, file, held, &bytes, &pieces))
    })?;
    build(state, workers)
}

/// Builds the tree from the names as listed.
pub fn build(state: &mut Reconciler, workers: &Workers) -> Result<Built> {
    let tree = std::mem::replace(&mut state.tree, Tree::new(workers.shared().roots.clone()));
    let unwanted = std::mem::take(&mut state.unwanted);
    let result = Arc::new(std::sync::Mutex::new((None, None)));
    let slot = result.clone();
    workers.run(move |shared| {
        let built = place::build(&tree, shared, &unwanted)?;
        *super::visit::lock(&slot) = (Some(built), Some(tree));
        Ok(())
    })?;
    let (built, tree) = std::mem::take(&mut *super::visit::lock(&result));
    if let Some(tree) = tree {
        state.tree = tree;
    }
    Ok(built.unwrap_or_default())
}

/// Brings the tree to what was listed inside the gate.
fn apply_names(state: &mut Reconciler, arena: &Arena) -> Result<()> {
    for held in &arena.directories {
        let present: std::collections::BTreeSet<&[u8]> =
            super::listing::records(arena.bytes.get(held.records.clone()).unwrap_or(&[]))
                .map(|record| record.name.to_bytes())
                .collect();
        let Some(known) = state.tree.directories.get_mut(&held.key) else { continue };
        known.stat = held.stat;
        let gone: Vec<_> = known.names.keys().filter(|name| !present.contains(&***name)).cloned().collect();
        for name in gone {
            state.tree.remove_name(held.key, &name);
        }
    }
    let name_of = |new: &HeldName| {
        arena.bytes.get(new.name.clone()).and_then(|name| name.strip_suffix(&[0])).unwrap_or(&[])
    };
    let mut paths = memory::list(arena.names.len())?;
    paths.extend(arena.names.iter().map(|new| state.tree.full_path(new.directory, name_of(new))));
    let excluded = state.excluded(&paths)?;
    for ((new, path), excluded) in arena.names.iter().zip(&paths).zip(excluded) {
        let name = name_of(new);
        let is_wanted = !excluded && !state.is_left_out(new.directory, name, path);
        let leads = match source::type_of(&new.stat) {
            Type::File if is_wanted => {
                let mut space = Vec::with_capacity(libc::PATH_MAX as usize * 2);
                let root =
                    state.tree.path_of_directory(new.directory, &mut space).map_or(0, |(root, _)| root);
                Leads::File(state.add_file(root, &new.stat)?)
            }
            _ => Leads::Nowhere,
        };
        state.tree.set_name(
            new.directory,
            name,
            Name { d_ino: new.d_ino, kind: source::type_of(&new.stat), leads },
        );
    }
    let unwanted = &mut state.unwanted;
    state.tree.sweep(|file, _| {
        if let Some(file) = file {
            unwanted.push((file.root, file.id));
        }
    });
    Ok(())
}

fn write_held(
    shared: &Shared,
    file: &super::tree::File,
    held: &HeldFile,
    bytes: &[u8],
    pieces: &[Piece],
) -> Result<()> {
    shared.control.check()?;
    let store = shared.store(file.root)?;
    let image = store.open(file)?;
    let mut writer = Writer::new(image.as_fd(), &store.path);
    let size = held.stat.st_size as u64;
    writer.set_size(size)?;
    for piece in pieces.get(held.pieces.clone()).unwrap_or(&[]) {
        match piece {
            Piece::Data { at, bytes: range } => writer.write(bytes.get(range.clone()).unwrap_or(&[]), *at)?,
            Piece::Hole(range) => writer.hole(range.start, range.end - range.start)?,
        }
    }
    writer.set_size(size)?;
    if held.is_bare {
        attributes::write_xattrs(image.as_fd(), &attributes::Xattrs::new(), &store.path)?;
    }
    attributes::apply(image.as_fd(), &held.stat, &store.path)?;
    store.close(image)
}

/// The test mode: completes the image while the gate is closed and compares it with the source.
pub fn compare_in_gate(state: &mut Reconciler, arena: &mut Arena, workers: &Workers) -> Result<Built> {
    let built = complete(state, arena, workers)?;
    let nowhere: std::collections::HashSet<std::path::PathBuf> = state
        .tree
        .directories
        .iter()
        .flat_map(|(key, directory)| {
            let tree = &state.tree;
            directory
                .names
                .iter()
                .filter(|(_, name)| matches!(name.leads, Leads::Nowhere))
                .map(move |(name, _)| tree.full_path(*key, name))
        })
        .collect();
    let mut differences = Vec::new();
    for (index, root) in workers.shared().roots.iter().enumerate() {
        let image = workers.shared().store(index)?.path.clone();
        let checks = identity::Checks { mtimes: true, ..identity::Checks::default() };
        differences.extend(identity::compare_with(
            &root.path,
            &image,
            &|path| nowhere.contains(path),
            checks,
        ));
    }
    if differences.is_empty() {
        return Ok(built);
    }
    let shown: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    Err(Error::new(
        libc::EILSEQ,
        format!("the image differs from the source in {} places: {}", differences.len(), shown.join("; ")),
    ))
}
