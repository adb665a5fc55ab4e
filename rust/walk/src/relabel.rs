//! Identifies inodes by path, for two trees with unrelated inode numbers.

use crate::listing::Recorder;
use crate::tree::Tree;
use snapsync_model::{Directories, Inode, Kind, ROOT, RelPath, Result, Side};
use std::collections::{HashMap, HashSet};

/// Gives each inode of `tree` the number that `reference` has at the same path if the kind is the same,
/// otherwise an unused number.
pub fn relabel_by_path(reference: &dyn Side, tree: &mut Tree) -> Result<()> {
    let known = Known::read(reference)?;
    let mut next = known.last + 1;
    let (mut number, mut taken) = (HashMap::new(), HashSet::new());
    for inode in sorted_by_path(tree)? {
        let known = all_paths(tree, &inode)?.into_iter().find_map(|path| known.by_path.get(&path).copied());
        let same = known.filter(|(ino, _, kind)| *kind == inode.kind && !taken.contains(ino));
        let (ino, generation) = match same {
            Some((ino, generation, _)) => (ino, generation),
            None => {
                next += 1;
                (next, inode.generation)
            }
        };
        taken.insert(ino);
        number.insert(inode.ino, (ino, generation));
    }
    renumber(tree, &number)
}

struct Known {
    by_path: HashMap<RelPath, (u64, u64, Kind)>,
    last: u64,
}

impl Known {
    fn read(side: &dyn Side) -> Result<Known> {
        let mut known = Known { by_path: HashMap::new(), last: 0 };
        for inode in side.inodes()? {
            let inode = inode?;
            known.last = inode.ino;
            for link in &inode.links {
                let path = side.path_of(link)?;
                known.by_path.insert(path, (inode.ino, inode.generation, inode.kind));
            }
        }
        Ok(known)
    }
}

fn all_paths(tree: &Tree, inode: &Inode) -> Result<Vec<RelPath>> {
    inode.links.iter().map(|link| tree.directories.path(link)).collect()
}

fn sorted_by_path(tree: &Tree) -> Result<Vec<Inode>> {
    let mut inodes = Vec::new();
    for inode in tree.inodes.iter() {
        let inode = inode?;
        if inode.ino != ROOT {
            inodes.push((Side::path(tree, &inode)?, inode));
        }
    }
    inodes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(inodes.into_iter().map(|(_, inode)| inode).collect())
}

fn renumber(tree: &mut Tree, number: &HashMap<u64, (u64, u64)>) -> Result<()> {
    let (mut directories, recorder) = (Directories::default(), Recorder::default());
    for inode in tree.inodes.iter() {
        let mut inode = inode?;
        for link in &mut inode.links {
            if link.parent != ROOT {
                link.parent = number[&link.parent].0;
            }
        }
        inode.links.sort_unstable();
        if let Some((ino, generation)) = number.get(&inode.ino) {
            (inode.ino, inode.generation) = (*ino, *generation);
        }
        directories.add(&inode);
        recorder.add(&[inode])?;
    }
    tree.inodes = recorder.finish()?;
    tree.directories = directories.into();
    tree.is_relabeled = true;
    Ok(())
}
