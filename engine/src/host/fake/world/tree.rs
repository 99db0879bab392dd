//! The file tree of a fake world.
//!
//! Pure data with the kernel's rules: parents must exist, full directories stay, links are followed in the middle of
//! a path. Errors are `std::io::Error`, as the kernel would have given them.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::host::{Attributes, Entry, EntryKind};

/// How many links the kernel follows in one path.
const LINK_LIMIT: usize = 40;

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) attributes: Attributes,
    pub(crate) modified: SystemTime,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeKind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    /// A file of this many bytes whose content was not read: it is on the host below an overlay.
    Below(u64),
    /// A file whose content is known after apply, and why.
    Unknown(String),
    /// A socket of the host below an overlay.
    Socket,
    /// A device or pipe of the host below an overlay.
    Other,
}

/// All entries by absolute path. No link is on the way to an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Every entry in path order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.nodes.iter()
    }

    /// Where `path` leads when links are followed; at its end only if `follow_end`. The end need not exist.
    pub(crate) fn resolve(&self, path: &Path, follow_end: bool) -> Result<PathBuf, Error> {
        if !path.is_absolute() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the path is not absolute",
            ));
        }
        // Most paths are those of entries. This is the same as the walk, with one look in place of one for each part.
        if let Some((at, node)) = self.nodes.get_key_value(path)
            && !(follow_end && matches!(node.kind, NodeKind::Symlink(_)))
        {
            return Ok(at.clone());
        }
        let mut walk = Walk::along(path);
        while let Some(next) = walk.next_place() {
            match self.nodes.get(&next).map(|node| &node.kind) {
                Some(NodeKind::Symlink(target)) if follow_end || !walk.is_at_end() => {
                    if !walk.follow(target) {
                        return Err(Error::new(
                            ErrorKind::InvalidInput,
                            "too many levels of symbolic links",
                        ));
                    }
                }
                Some(
                    NodeKind::File(_)
                    | NodeKind::Below(_)
                    | NodeKind::Unknown(_)
                    | NodeKind::Socket
                    | NodeKind::Other,
                ) if !walk.is_at_end() => {
                    return Err(ErrorKind::NotADirectory.into());
                }
                None if !walk.is_at_end() => return Err(ErrorKind::NotFound.into()),
                _ => walk.at = next,
            }
        }
        Ok(walk.at)
    }

    /// The entry at `path`; a link at its end is followed only if asked for.
    pub(crate) fn get(&self, path: &Path, follow_end: bool) -> Option<&Node> {
        if let Some(node) = self.nodes.get(path)
            && !(follow_end && matches!(node.kind, NodeKind::Symlink(_)))
        {
            return Some(node);
        }
        let path = self.resolve(path, follow_end).ok()?;
        self.nodes.get(&path)
    }

    /// The entry at `path`, as the trait reports it.
    pub(crate) fn entry(&self, path: &Path) -> Option<Entry> {
        let node = self.get(path, false)?;
        Some(Entry {
            kind: match &node.kind {
                NodeKind::File(content) => EntryKind::File(content.len() as u64),
                NodeKind::Directory => EntryKind::Directory,
                NodeKind::Symlink(target) => EntryKind::Symlink(target.clone()),
                NodeKind::Below(size) => EntryKind::File(*size),
                NodeKind::Unknown(_) => EntryKind::File(0),
                NodeKind::Socket => EntryKind::Socket,
                NodeKind::Other => EntryKind::Other,
            },
            attributes: node.attributes,
            modified: node.modified,
        })
    }

    /// Content of the file at `path`, links followed.
    pub(crate) fn content(&self, path: &Path) -> Option<&[u8]> {
        match &self.get(path, true)?.kind {
            NodeKind::File(content) => Some(content),
            // The file exists. A caller that needs its content has it read first.
            NodeKind::Below(_) | NodeKind::Unknown(_) => Some(&[]),
            NodeKind::Directory | NodeKind::Symlink(_) | NodeKind::Socket | NodeKind::Other => None,
        }
    }

    /// Why the content of the file at `path`, links followed, is known after apply; `None` where it is known.
    pub(crate) fn why_unknown(&self, path: &Path) -> Option<&str> {
        match &self.get(path, true)?.kind {
            NodeKind::Unknown(why) => Some(why),
            _ => None,
        }
    }

    /// Content of the file at `path` as text.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.content(path.as_ref())
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Whether a directory is at `path`, links followed.
    pub(crate) fn is_directory(&self, path: &Path) -> bool {
        self.get(path, true)
            .is_some_and(|node| node.kind == NodeKind::Directory)
    }

    /// Names in the directory at `path`, sorted.
    pub(crate) fn names(&self, path: &Path) -> Vec<String> {
        let Ok(path) = self.resolve(path, true) else {
            return Vec::new();
        };
        self.below(&path)
            .filter(|child| child.parent() == Some(&path))
            .filter_map(|child| child.file_name()?.to_str().map(str::to_owned))
            .collect()
    }

    /// Every path below the resolved directory `path`, itself left out.
    pub(crate) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a PathBuf> + 'a {
        self.nodes
            .range(path.to_path_buf()..)
            .map(|(child, _)| child)
            .take_while(move |child| child.starts_with(path))
            .filter(move |child| *child != path)
    }

    /// Puts an entry at `path`; its parent must be a directory.
    pub(crate) fn put(&mut self, path: &Path, node: Node) -> Result<(), Error> {
        let path = self.resolve(path, false)?;
        let parent = path.parent().ok_or(ErrorKind::AlreadyExists)?;
        match self.nodes.get(parent).map(|node| &node.kind) {
            Some(NodeKind::Directory) => {}
            Some(_) => return Err(ErrorKind::NotADirectory.into()),
            None => return Err(ErrorKind::NotFound.into()),
        }
        let replaces_directory = self
            .nodes
            .get(&path)
            .is_some_and(|old| old.kind == NodeKind::Directory);
        if replaces_directory && node.kind != NodeKind::Directory {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Puts an entry at `path` and makes missing parents; for setting up a world. What is below a directory goes with it.
    pub(crate) fn plant(&mut self, path: &Path, node: Node) {
        let path = &self.follow(path);
        if node.kind != NodeKind::Directory {
            let below: Vec<PathBuf> = self.below(path).cloned().collect();
            for child in below {
                self.nodes.remove(&child);
            }
        }
        let modified = node.modified;
        for parent in path.ancestors().skip(1) {
            self.nodes
                .entry(parent.to_path_buf())
                .or_insert_with(|| Node {
                    kind: NodeKind::Directory,
                    attributes: Attributes::root(0o755),
                    modified,
                });
        }
        self.nodes.insert(path.clone(), node);
    }

    /// `path` with its links followed. A part that does not exist counts as a directory still to be made.
    fn follow(&self, path: &Path) -> PathBuf {
        let mut walk = Walk::along(path);
        while let Some(next) = walk.next_place() {
            match self.nodes.get(&next).map(|node| &node.kind) {
                Some(NodeKind::Symlink(target)) if !walk.is_at_end() && walk.follow(target) => {}
                _ => walk.at = next,
            }
        }
        walk.at
    }

    /// Changes the attributes of the entry at `path` itself; a link has an owner and no mode.
    pub(crate) fn set_attributes(
        &mut self,
        path: &Path,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let path = self.resolve(path, false)?;
        let node = self.nodes.get_mut(&path).ok_or(ErrorKind::NotFound)?;
        let mode = match node.kind {
            NodeKind::Symlink(_) => node.attributes.mode,
            _ => attributes.mode,
        };
        node.attributes = Attributes { mode, ..attributes };
        Ok(())
    }

    /// Changes the attributes of the entry at `path` itself, which may be a link.
    pub(crate) fn set_own_attributes(&mut self, path: &Path, attributes: Attributes) {
        if let Ok(path) = self.resolve(path, false)
            && let Some(node) = self.nodes.get_mut(&path)
        {
            node.attributes = attributes;
        }
    }

    /// Removes one entry; a directory must be empty. Fine if there is none.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), Error> {
        let Ok(path) = self.resolve(path, false) else {
            return Ok(());
        };
        if self.below(&path).next().is_some() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.nodes.remove(&path);
        Ok(())
    }

    /// Removes an entry with everything below it. Fine if there is none.
    pub(crate) fn remove_tree(&mut self, path: &Path) {
        let Ok(path) = self.resolve(path, false) else {
            return;
        };
        self.nodes.retain(|child, _| !child.starts_with(&path));
    }
}

/// A walk along an absolute path, part by part. The caller looks at each place, and goes there or follows the link that is there.
pub(crate) struct Walk {
    /// Where it is now.
    pub(crate) at: PathBuf,
    /// The parts that are left, the last one first.
    rest: Vec<PathBuf>,
    followed: usize,
}

impl Walk {
    /// A walk along `path` that has not begun.
    pub(crate) fn along(path: &Path) -> Self {
        Self {
            at: PathBuf::from("/"),
            rest: parts(path).rev().collect(),
            followed: 0,
        }
    }

    /// The place of the next part; `None` at the end.
    pub(crate) fn next_place(&mut self) -> Option<PathBuf> {
        while let Some(part) = self.rest.pop() {
            if part.as_os_str() != ".." {
                return Some(self.at.join(part));
            }
            self.at.pop();
        }
        None
    }

    /// Whether no part is left after the last place.
    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Continues at the target of the link that is at the last place. Returns `false` if that is one link too many.
    pub(crate) fn follow(&mut self, target: &str) -> bool {
        if self.followed == LINK_LIMIT {
            return false;
        }
        self.followed += 1;
        if target.starts_with('/') {
            self.at = PathBuf::from("/");
        }
        self.rest.extend(parts(Path::new(target)).rev());
        true
    }
}

/// The normal components of a path, and `..`.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: NodeKind) -> Node {
        Node {
            kind,
            attributes: Attributes::root(0o644),
            modified: SystemTime::UNIX_EPOCH,
        }
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.plant(Path::new("/a/b/file"), node(NodeKind::File(b"x".to_vec())));
        tree.plant(
            Path::new("/a-sibling/c"),
            node(NodeKind::File(b"y".to_vec())),
        );
        tree.plant(
            Path::new("/link"),
            node(NodeKind::Symlink("a/b".to_owned())),
        );
        tree.plant(
            Path::new("/loop"),
            node(NodeKind::Symlink("/loop".to_owned())),
        );
        tree
    }

    #[test]
    fn links_are_followed_in_the_middle_and_on_request_at_the_end() {
        let tree = tree();
        assert_eq!(tree.content(Path::new("/link/file")), Some(&b"x"[..]));
        assert_eq!(tree.content(Path::new("/link/../b/file")), Some(&b"x"[..]));
        assert_eq!(
            tree.entry(Path::new("/link")).unwrap().kind,
            EntryKind::Symlink("a/b".to_owned())
        );
        assert!(tree.resolve(Path::new("/loop/x"), true).is_err());
    }

    #[test]
    fn names_and_removal_stop_at_the_path_component() {
        let mut tree = tree();
        assert_eq!(tree.names(Path::new("/a")), ["b"]);
        assert_eq!(
            tree.remove(Path::new("/a")).unwrap_err().kind(),
            ErrorKind::DirectoryNotEmpty
        );
        tree.remove_tree(Path::new("/a"));
        assert!(tree.entry(Path::new("/a")).is_none());
        assert!(tree.entry(Path::new("/a-sibling/c")).is_some());
    }

    #[test]
    fn a_link_in_place_of_a_directory_leaves_nothing_below_it() {
        let mut tree = tree();
        let link = node(NodeKind::Symlink("a-sibling".to_owned()));
        tree.plant(Path::new("/a"), link);
        assert!(tree.get(Path::new("/a/b/file"), false).is_none());
        assert_eq!(tree.content(Path::new("/a/c")), Some(&b"y"[..]));
    }

    #[test]
    fn put_needs_the_parent() {
        let mut tree = tree();
        let missing = tree.put(Path::new("/nowhere/file"), node(NodeKind::File(Vec::new())));
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        let below_a_file = tree.put(Path::new("/a/b/file/x"), node(NodeKind::File(Vec::new())));
        assert_eq!(below_a_file.unwrap_err().kind(), ErrorKind::NotADirectory);
        let over_directory = tree.put(Path::new("/a/b"), node(NodeKind::File(Vec::new())));
        assert_eq!(over_directory.unwrap_err().kind(), ErrorKind::IsADirectory);
    }
}
